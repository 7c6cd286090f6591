"""A table to pick rows from; checkpoints and runs are picked from it."""

import threading
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from treelstm import themes
from treelstm.config import Config, Settings
from treelstm.plain import shown
from treelstm.widgets.base import NightForm, together

_DEFAULTS = Config().to_dict()


class TablePicker(NightForm, anywidget.AnyWidget):
    """A table that sorts, searches and filters; mouse or keys choose rows.

    Of each row, picker.js needs `path` (which names it), `name`, `cells` (by column: the text, and the
    number or text that it is sorted by, or None), `position` (sorts equal cells), `usable` (False: it
    cannot be chosen), `damaged`, `settings` (words about it), `status` (words about an unusable one).
    """

    _esm, _css = together("picker.js"), themes.CSS + together("picker.css")
    label = traitlets.Unicode().tag(sync=True)
    columns: traitlets.List[str] = traitlets.List().tag(sync=True)  # headings
    rows: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    order: traitlets.List[Any] = traitlets.List([0, True]).tag(sync=True)  # the column; descending?
    most = traitlets.Int(1).tag(sync=True)  # rows that can be chosen
    curve = traitlets.Dict().tag(sync=True)
    left_out = traitlets.Unicode().tag(sync=True)  # says that there are more
    resuming = traitlets.Bool().tag(sync=True)  # shows what resuming sets aside

    @traitlets.observe("chosen")
    def _choice_changed(self, change: Any) -> None:
        # In a thread: while the kernel is busy with one choice, a browser holds the next one back, and
        # a cell that is run meanwhile would not see it.
        threading.Thread(target=self.keep, daemon=True).start()


def key_of(path: Path | str) -> str:
    """The path as the browser gets it: JSON has no bytes that are not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def settings_in_words(config: Settings | None) -> str:
    """The settings that differ from the defaults, in words."""
    if not config:
        return ""
    changed = [f"{k}={v!r}" for k, v in config.items() if k not in _DEFAULTS or _DEFAULTS[k] != v]
    return shown(f"Trained with {', '.join(changed) or 'the default settings'}.")
