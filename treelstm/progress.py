"""How a run is watched: a bar where a person sits in front of it, plain lines where nobody does.

By day, in a notebook or a terminal, tqdm draws a bar; headless, a plain line a period goes to standard
output. `training.log` has the lines in both cases.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import psutil
from tqdm.auto import tqdm

log = logging.getLogger("treelstm")

_SECONDS_BETWEEN_LINES = 30.0
_LOG_BYTES, _OLDER_LOGS = 5_000_000, 3  # a month of lines each


def watched() -> bool:
    """Whether a person is likely to look on: a terminal, or a notebook that could ask for input.

    papermill and nbconvert tell the kernel that nobody is there to type, JupyterLab does not.
    """
    kernel = _kernel()
    return sys.stderr.isatty() if kernel is None else bool(getattr(kernel, "_allow_stdin", False))


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, watched or not."""
    return _kernel() is not None


def _kernel() -> Any:
    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None)


class _Lasting(logging.Handler):
    """Where lines go that a disk or a terminal may refuse: it says so once, and harms no run."""

    place = "the console"
    refused = False

    def handleError(self, record: logging.LogRecord | None) -> None:  # noqa: N802
        if not self.refused:
            self.refused = True
            with suppress(OSError):  # standard error may be of the same terminal
                print(f"no line can be added to {self.place}: {sys.exc_info()[1]}", file=sys.stderr)


class _Console(_Lasting):
    """Plain lines on standard output, above a bar where there is one; none for what is drawn anyway."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "shown", False):
            return
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError:
            self.handleError(record)


class LogFile(_Lasting, RotatingFileHandler):
    """Appends lines with the time of day; a file of 5 MB becomes `training.log.1`, and so on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a", _LOG_BYTES, _OLDER_LOGS, encoding="utf-8")
        self.place = self.baseFilename
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # lines that were refused before are refused once more
            self.handleError(None)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Sends the package's log to the console, and with the time of day to the file at `path`.
    An error that ends the run is in the file too, for the morning after; the console shows it anyway.
    """
    file = LogFile(path)
    console = _Console()
    handlers = [file, console]
    level = log.level
    log.setLevel(logging.INFO)
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    except Exception as error:
        log.removeHandler(console)
        log.error("%s: %s", type(error).__name__, error)
        raise
    finally:
        log.setLevel(level)
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


class Progress:
    """Steps done and to do over the whole run; counts only this process's pace."""

    def __init__(self, steps_to_do: int, batch_size: int) -> None:
        self._to_do = steps_to_do
        self._batch_size = batch_size
        self._done = 0
        self._began = self._last_line = time.monotonic()
        self._bar = tqdm(total=steps_to_do, unit="step", leave=False) if watched() else None
        self._process = psutil.Process()

    def step(self, epoch: int, epochs: int, loss: Callable[[], float]) -> None:
        """One optimizer step is done; `loss()` is the mean of the epoch so far.

        It is asked for only when it is shown: on a GPU, asking waits for the step to end.
        """
        self._done += 1
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}/{epochs}", refresh=False)
            if self._bar.update():
                self._bar.set_postfix_str(f"train loss {loss():.4f}", refresh=False)
        if time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            shown = {"shown": self._bar is not None}
            log.info("epoch %d/%d  train %.4f | %s", epoch, epochs, loss(), self.pace(), extra=shown)

    def pace(self) -> str:
        """Pairs per second, validation included, the time left, and the memory held."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        left = seconds / max(self._done, 1) * (self._to_do - self._done)
        pairs = self._done * self._batch_size / seconds
        memory = self._process.memory_info().rss
        return f"{pairs:,.0f} pairs/s, {duration(left)} left, {memory / 1e9:.2f} GB"

    def line_written(self) -> None:
        """Another line has just told how the run stands."""
        self._last_line = time.monotonic()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `3 min 20 s`, `7 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
