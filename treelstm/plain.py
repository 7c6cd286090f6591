"""Text of data, settings and paths, made fit to be printed, saved and put on a page as what it is."""

import html
import json
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

# Surrogates cannot be written as UTF-8; control characters would steer a terminal.
_UNFIT = re.compile(r"[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f-\x9f]")

AS_WRITTEN = "class='mathjax_ignore tex2jax_ignore'"  # in HTML: JupyterLab sets no $...$ as formulas


def shown(text: object) -> str:
    """The text, with � for each character that cannot be shown; lines and tabs stay."""
    return _UNFIT.sub("\ufffd", str(text).replace("\r\n", "\n"))


def in_html(text: object) -> str:
    """The text for an element or attribute of HTML; a `$` stays one inside an element `AS_WRITTEN`."""
    return html.escape(shown(text))


def distinct_names(paths: Sequence[Path | str]) -> list[str]:
    """The shortest names that tell paths apart: the last part of each, after as many more as tell their
    directories apart, if these differ. What is there twice is numbered.
    """
    given = [Path(path).absolute() for path in paths]
    places = {path.parent.parts[::-1] for path in given}
    more = next(n for n in count() if len({place[:n] for place in places}) == len(places))
    names = [shown(Path(*path.parts[-1 - more :])) for path in given]
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [f"{name} ({n})" if n > 1 else name for name, n in zip(names, counts, strict=True)]


def without_nan(value: Any) -> Any:
    """Nested results with None for NaN, which JSON does not have."""
    return json.loads(json.dumps(value), parse_constant=lambda name: None)
