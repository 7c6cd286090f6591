"""The package's log: plain lines on the console, lines with the time in `training.log`."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from tqdm.auto import tqdm

log = logging.getLogger("treelstm")

_LOG_BYTES, _OLDER_LOGS = 5_000_000, 3  # a month of lines each


class _Lasting(logging.Handler):
    """A destination that may fail (disk full, terminal gone): reported once, without ending the run."""

    place = "the console"
    refused = False

    def handleError(self, record: logging.LogRecord | None) -> None:  # noqa: N802
        if not self.refused:
            self.refused = True
            with suppress(OSError):  # standard error may be on the same terminal
                print(f"no line can be added to {self.place}: {sys.exc_info()[1]}", file=sys.stderr)


class _Console(_Lasting):
    """Plain lines on standard output, above a progress bar; skips records marked as `shown`."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "shown", False):
            return
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError:
            self.handleError(record)


class LogFile(_Lasting, RotatingFileHandler):
    """Appends lines with date and time; a file of 5 MB becomes `training.log.1`, and so on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a", _LOG_BYTES, _OLDER_LOGS, encoding="utf-8")
        self.place = self.baseFilename
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # lines that could not be written before
            self.handleError(None)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Sends the package's log to the console and to the file at `path`.

    An error is written to the file only, since the console shows it anyway.
    """
    console = _Console()
    handlers, level = [LogFile(path), console], log.level
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
