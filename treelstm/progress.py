"""Progress of a run: a bar in a terminal or notebook, else a line twice a minute.

`training.log` gets the lines in both cases.
"""

import logging
import os
import sys
import time
from contextlib import suppress
from functools import cache
from typing import Any

import psutil
from tqdm import tqdm

from treelstm.history import EpochRecord, History, epoch_line
from treelstm.run.divergence import shown_loss
from treelstm.run.listener import Listener
from treelstm.run.state import Run

log = logging.getLogger("treelstm")

_SECONDS_BETWEEN_DRAWS = 0.5  # of the bar in a notebook
CENTURY_SECONDS = 100 * 365.25 * 24 * 3600


def is_interactive() -> bool:
    """Whether a person is likely to watch: a terminal, or a notebook that allows input.

    papermill and nbconvert tell the kernel that nobody can type, JupyterLab does not, unless its server
    runs the cells (jupyter-server-documents): then the kernel is one that a Jupyter server has started.
    """
    kernel = _kernel()
    terminal = sys.stderr is not None and sys.stderr.isatty()  # None: closed
    can_type = bool(getattr(kernel, "_allow_stdin", False))
    return terminal if kernel is None else can_type or _of_server()


@cache
def _of_server() -> bool:
    """Whether a Jupyter server started this process; a papermill below a notebook inherits the name."""
    name = os.environ.get("JPY_SESSION_NAME")
    with suppress(psutil.Error):  # another user's parent
        return bool(name) and psutil.Process(os.getppid()).environ().get("JPY_SESSION_NAME") != name
    return True


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, watched or not."""
    return _kernel() is not None


def asked_at() -> float:
    """When a notebook's cell that is being run was asked for, in seconds since 1970."""
    header = _kernel().get_parent("shell").get("header", {})
    return float(header["date"].timestamp()) if "date" in header else time.time()


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
        self._page: Any = None  # where a notebook shows the bar
        self._drawn = 0.0

    def on_start(self, run: Run) -> None:
        self._run, self._config = run, run.config
        self._to_do = (run.config.epochs - run.epochs_done) * run.steps_per_epoch - run.step
        self._done = 0
        self._began = self._last_line = time.monotonic()
        if not is_interactive() or run.outcome is not None:
            return
        if in_notebook():  # plain HTML: a widget's would be an error in a saved page
            from IPython.display import HTML, display

            self._html = HTML
            self._page = display(HTML("the first step …"), display_id=True)
        else:
            self._bar = tqdm(total=self._to_do, unit="step", leave=False)

    def on_step(self, run: Run) -> None:
        self._done += 1
        epoch, epochs = run.epochs_done + 1, run.config.epochs
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}/{epochs}", refresh=False)
            if self._bar.update():
                self._bar.set_postfix_str(f"train loss {shown_loss(run):.4f}", refresh=False)
        if self._page is not None and time.monotonic() - self._drawn >= _SECONDS_BETWEEN_DRAWS:
            self._drawn = time.monotonic()
            of = f"max='{self._to_do}' value='{self._done}' aria-label='steps done'"
            bar = f"<progress {of} style='vertical-align:middle'></progress>"
            words = f"epoch {epoch}/{epochs} · train loss {shown_loss(run):.4f} · {self.pace()}"
            self._page.update(self._html(f"{bar} {words}"))
        if time.monotonic() - self._last_line >= self._seconds_between_lines:
            self._last_line = time.monotonic()
            line = f"epoch {epoch}/{epochs}  train {shown_loss(run):.4f} | {self.pace()}"
            log.info(line, extra={"shown": bool(self._bar or self._page)})

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
        if self._page is not None:
            self._page.update(self._html(""))

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
