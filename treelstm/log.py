"""The package's log: plain lines on the console, lines with the time in `training.log`."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from treelstm.files import unshare

log = logging.getLogger("treelstm")

_LOG_BYTES, _OLDER_LOGS = 5_000_000, 3  # a month of lines each


class _Lasting(logging.Handler):
    """A destination that may fail (disk full, terminal gone): reported once, without ending the run."""

    place = "the console"
    refused = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        mine = threading.get_ident()  # another thread may be doing other work with this package
        self.addFilter(lambda record: record.thread == mine)

    def format(self, record: logging.LogRecord) -> str:
        """The line as UTF-8 can hold it; paths may have bytes that the locale could not read."""
        line = super().format(record)
        try:
            return line.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:  # half a character, which stands for no byte
            return line.encode("utf-8", "backslashreplace").decode()

    def handleError(self, record: logging.LogRecord | None) -> None:  # noqa: N802
        if not self.refused:
            self.refused = True
            with suppress(OSError, ValueError):  # standard error may be on the same terminal, or closed
                print(f"no line can be added to {self.place}: {sys.exc_info()[1]}", file=sys.stderr)


class _Console(_Lasting):
    """Plain lines on standard output, above a progress bar; skips records marked as `shown`.

    A character that the terminal cannot show is written as its number.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "shown", False) or sys.stdout is None:
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        line = self.format(record).encode(encoding, "backslashreplace").decode(encoding)
        try:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError):  # ValueError: it was closed
            self.handleError(record)


class LogFile(_Lasting, RotatingFileHandler):
    """Appends lines with date and time; a file of 5 MB becomes `training.log.1`, and so on.

    A file that is no longer ours to write, because another process trains here now, gets no line.
    """

    def __init__(self, path: Path, is_ours: Callable[[], bool] = lambda: True) -> None:
        self._is_ours = is_ours
        unshare(path)
        super().__init__(path, "a", _LOG_BYTES, _OLDER_LOGS, encoding="utf-8")
        self.place = self.baseFilename
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_ours() or not self._is_at_its_path():  # a directory that was moved keeps its log
            super().emit(record)

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802
        return self._is_ours() and bool(super().shouldRollover(record))

    def _is_at_its_path(self) -> bool:
        try:
            there = Path(self.baseFilename).stat()
            stream = self.stream
            return stream is not None and os.path.samestat(there, os.fstat(stream.fileno()))
        except (OSError, ValueError):  # gone, or closed
            return False

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # lines that could not be written before
            self.handleError(None)


@contextmanager
def logged(path: Path, is_ours: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Sends this thread's lines of the package's log to the console and, while it is ours to write, to
    the file at `path`.

    An error is written to the file only, since the console shows it anyway.
    """
    log.setLevel(logging.INFO)
    console = _Console()
    handlers = [LogFile(path, is_ours), console]
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    except Exception as error:
        log.removeHandler(console)
        log.error("%s: %s", type(error).__name__, error)
        raise
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
