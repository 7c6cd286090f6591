"""Text of data, settings and paths, made fit to be printed, saved and put on a page as what it is."""

import html
import re

# Surrogates cannot be written as UTF-8; control characters would steer a terminal.
_UNFIT = re.compile(r"[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f-\x9f]")

AS_WRITTEN = "class='mathjax_ignore tex2jax_ignore'"  # in HTML: JupyterLab sets no $...$ as formulas


def shown(text: object) -> str:
    """The text, with � for each character that cannot be shown; lines and tabs stay."""
    return _UNFIT.sub("\ufffd", str(text).replace("\r\n", "\n"))


def in_html(text: object) -> str:
    """The text for an element or attribute of HTML; a `$` stays one inside an element `AS_WRITTEN`."""
    return html.escape(shown(text))
