"""A widget below a line that opens and closes it."""

import anywidget
import ipywidgets
import traitlets

from treelstm.tables import folded
from treelstm.widgets.base import NightForm, together


class Folded(NightForm, anywidget.AnyWidget):
    """Shows another widget when somebody opens it, by mouse or keys."""

    _esm = together("common.js", "folded.js")
    title = traitlets.Unicode().tag(sync=True)
    widget = traitlets.Instance(ipywidgets.Widget).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, title: str, widget: NightForm) -> None:
        super().__init__(title=title, widget=widget)
        widget.keep = self.keep  # type: ignore[method-assign]  # its plain form is in this one's

    def night_form(self) -> str:
        return str(folded(self.title, self.widget.night_form()).data)
