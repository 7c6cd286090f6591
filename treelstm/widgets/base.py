"""What every widget is besides itself: plain HTML, in a page that nobody watches or that is saved."""

import threading
import traceback
from pathlib import Path
from typing import Any

from IPython.display import DisplayHandle, display

from treelstm.plain import AS_WRITTEN, in_html
from treelstm.progress import is_interactive

# The plain form is an output of its own before the widget's. Where the widget lives, it is hidden; where
# it does not (a saved page, an export, a kernel that is gone), the error that stands in its place is.
_LIVE = ".jp-OutputArea-output > .lm-Widget:not(.jupyter-widgets-disconnected)"
_STYLE = f"""<style>
.jp-OutputArea-child:has(.treelstm-saved):has(+ .jp-OutputArea-child {_LIVE}) {{ display: none }}
.jp-OutputArea-child:has(.treelstm-saved) + .jp-OutputArea-child:not(:has({_LIVE})) {{ display: none }}
</style>"""


_KEEPING = threading.Lock()


def together(*names: str) -> str:
    """The browser's part of a widget, from files beside this one."""
    return "\n".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names)


def failure() -> str:
    """The error that is being handled, as HTML: nobody sees one of a widget's message otherwise."""
    return f"<pre role='alert' {AS_WRITTEN}>{in_html(traceback.format_exc())}</pre>"


class NightForm:
    """Mixed into a widget, first: its page also holds plain HTML, which needs no kernel to be seen."""

    _saved: DisplayHandle | None = None

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if is_interactive():
            return super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        return {"text/html": self.night_form(), "text/plain": type(self).__name__}

    def _ipython_display_(self) -> None:
        if not is_interactive():
            raise NotImplementedError  # for IPython: what the method above returns is all
        self._saved = display({"text/html": ""}, raw=True, display_id=True)
        bundle = self._repr_mimebundle_()
        data, about = bundle if isinstance(bundle, tuple) else (bundle, {})
        display({**data, "text/plain": ""}, metadata=about, raw=True)
        self.keep()

    def keep(self) -> None:
        """Brings the plain form in the page up to date."""
        if self._saved is not None:
            with _KEEPING:  # a thread may have news as well
                html = f"<div class='treelstm-saved'>{_STYLE}{self.night_form()}</div>"
                self._saved.update({"text/html": html, "text/plain": type(self).__name__}, raw=True)

    def night_form(self) -> str:
        raise NotImplementedError
