"""Watching a run: below its training cell, or from its files."""

import base64
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import ipywidgets
from IPython.display import DisplayHandle, Image, display

from treelstm.figures import history_figure
from treelstm.history import EpochRecord
from treelstm.plain import AS_WRITTEN, in_html
from treelstm.progress import is_interactive
from treelstm.run.directory import FINAL, list_checkpoints
from treelstm.run.lock import holder
from treelstm.run.status import RunStatus, run_status
from treelstm.sealed import CheckpointError
from treelstm.widgets.base import NightForm, img_of, png_of

_SECONDS_BETWEEN_LOOKS = 2.0
_SHARE_OF_DRAWING = 0.02  # of the training time, at most


class TrainingMonitor:
    """The figure below a training cell, redrawn in place; the notebook's file keeps only the last."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None
        self._ended = self._rest = 0.0

    def show(self, history: Sequence[EpochRecord], title: str) -> None:
        """Draws the curve so far, unless drawing has already taken its share of the time."""
        began = time.monotonic()
        if began - self._ended < self._rest:
            return
        image = Image(png_of(history_figure(history, title=title)))
        if self._handle is None:
            self._handle = display(image, display_id=True)
        else:
            self._handle.update(image)
        self._ended = time.monotonic()
        self._rest = (self._ended - began) / _SHARE_OF_DRAWING


class RunMonitor(NightForm, ipywidgets.VBox):
    """How a run stands, from its files, also while another process trains it.

    Reads them again every two seconds and changes nothing. Raises as `run_status`.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self._output_dir = Path(output_dir)
        self._words, self._image = ipywidgets.HTML(), ipywidgets.Image(format="png")
        self._shown: list[EpochRecord] | None = None
        self._show(run_status(self._output_dir))
        super().__init__([self._words, self._image])
        if is_interactive():
            threading.Thread(target=self._refresh, daemon=True).start()

    def _show(self, status: RunStatus) -> None:
        self._words.value = f"<pre {AS_WRITTEN}>{in_html(status)}</pre>"
        if self._shown != status.history:
            self._shown = status.history
            self._image.value = png_of(history_figure(status.history))

    def _refresh(self) -> None:
        seen: tuple[object, ...] = ()
        while self.comm is not None:  # until the widget is closed
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            try:
                by = holder(self._output_dir)
                if by and by.is_this_process:
                    continue  # the training cell shows it, and this would slow it down
                if seen != (now := (by, *self._state())):
                    self._show(run_status(self._output_dir))
                    seen = now
            except FileNotFoundError:
                continue  # the run has just removed a checkpoint
            except (CheckpointError, OSError) as error:
                self._words.value = f"<pre {AS_WRITTEN}>{in_html(error)}</pre>"

    def _state(self) -> tuple[object, ...]:
        """Differs from its last value whenever there is something new to show."""
        paths = [each.path for each in list_checkpoints(self._output_dir)[-1:]]
        paths += [self._output_dir / name for name in ("training.log", FINAL)]
        stats = [path.stat() for path in paths if path.is_file()]
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)

    def night_form(self) -> str:
        return str(self._words.value) + img_of(base64.b64encode(self._image.value).decode())
