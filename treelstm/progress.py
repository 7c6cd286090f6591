"""Progress of a run: a tqdm bar in a terminal or notebook, else a line twice a minute.

`training.log` gets the lines in both cases.
"""

import logging
import sys
import time
from typing import Any

import psutil
from tqdm.auto import tqdm

from treelstm.history import EpochRecord, History, epoch_line
from treelstm.run.divergence import shown_loss
from treelstm.run.listener import Listener
from treelstm.run.state import Run

log = logging.getLogger("treelstm")

CENTURY_SECONDS = 100 * 365.25 * 24 * 3600


def is_interactive() -> bool:
    """Whether a person is likely to watch: a terminal, or a notebook that allows input.

    papermill and nbconvert tell the kernel that nobody can type, JupyterLab does not.
    """
    kernel = _kernel()
    terminal = sys.stderr is not None and sys.stderr.isatty()  # None: closed
    return terminal if kernel is None else bool(getattr(kernel, "_allow_stdin", False))


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, watched or not."""
    return _kernel() is not None


def _kernel() -> Any:
    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None)


class Progress(Listener):
    """Shows the steps done and to do over the whole run, at this process's pace.

    `figure_shown`: epochs are not repeated on the console, since a figure shows them.
    """

    def __init__(self, figure_shown: bool = False, seconds_between_lines: float = 30.0) -> None:
        self._figure_shown, self._seconds_between_lines = figure_shown, seconds_between_lines
        self._process = psutil.Process()
        self._bar: tqdm | None = None

    def on_start(self, run: Run) -> None:
        self._run, self._config = run, run.config
        self._to_do = (run.config.epochs - run.epochs_done) * run.steps_per_epoch - run.step
        self._done = 0
        self._began = self._last_line = time.monotonic()
        if is_interactive() and run.outcome is None:
            self._bar = tqdm(total=self._to_do, unit="step", leave=False)

    def on_step(self, run: Run) -> None:
        self._done += 1
        epoch, epochs = run.epochs_done + 1, run.config.epochs
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}/{epochs}", refresh=False)
            if self._bar.update():
                self._bar.set_postfix_str(f"train loss {shown_loss(run):.4f}", refresh=False)
        if time.monotonic() - self._last_line >= self._seconds_between_lines:
            self._last_line = time.monotonic()
            line = f"epoch {epoch}/{epochs}  train {shown_loss(run):.4f} | {self.pace()}"
            log.info(line, extra={"shown": self._bar is not None})

    def on_epoch(self, record: EpochRecord) -> None:
        self._last_line = time.monotonic()
        epochs = self._config.epochs
        mark = " best" if record.get("best") else ""
        number = f"{record['epoch']:{min(len(str(epochs)), 6)}}/{epochs}"
        line = f"epoch {number}  {epoch_line(record)}{mark} | {self.pace()}"
        log.info(line, extra={"shown": self._figure_shown})

    def on_end(self, history: History | None = None) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_failure(self, error: Exception) -> None:
        self.on_end()

    def pace(self) -> str:
        """Pairs per second, validation included, the time left, and the memory held."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        left = seconds / max(self._done, 1) * (self._to_do - self._done)
        pairs = self._done * self._config.batch_size / seconds
        memory = self._process.memory_info().rss
        return f"{pairs:,.0f} pairs/s, {duration(left)} left, {memory / 1e9:.2f} GB"


def duration(seconds: float) -> str:
    """Seconds as text: `42 s`, `3 min 20 s`, `7 h 05 min`, `12 days 7 h`."""
    if not seconds < CENTURY_SECONDS:
        return "over 100 years"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24} days {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
