"""What every widget is besides itself: plain HTML in a page that is executed unattended."""

import io
from typing import Any

from matplotlib.figure import Figure

from treelstm.progress import is_interactive


class NightForm:
    """Mixed into a widget: an unattended page gets plain HTML, which stays in the notebook's file."""

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if is_interactive():
            return super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        return {"text/html": self.night_form(), "text/plain": type(self).__name__}

    def night_form(self) -> str:
        raise NotImplementedError


def img_of(png: str) -> str:
    return f"<img src='data:image/png;base64,{png}'>"


def png_of(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()
