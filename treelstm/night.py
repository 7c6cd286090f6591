"""What an engine and its kernels, or a launcher and its workers, know of each other in a night: lines
of one file, and who is gone.

The engine adds a line for each kernel that it starts ("began": when the night began, by the machine's
monotonic clock), a launcher (launch.py) one for its workers. A kernel or a first worker adds the
settings that the engine needs, that a run has begun, that it has committed, how it ended ("output_dir":
of the run). `NIGHT_FILE` in their environment names the file; without it there is neither, and nothing
is told.
"""

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from treelstm.files import WriteFailed

try:
    import fcntl
except ImportError:  # Windows, where leftovers stay until the system clears its temporary files
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("treelstm")

NIGHT_FILE = "TREELSTM_NIGHT_FILE"
TOLD = "told.jsonl"  # its name
KERNEL, SETTINGS, BEGUN, COMMITTED = "kernel", "settings", "begun", "committed"
LAUNCH, ERROR = "launch", "error"  # with the launcher's "pid"; with what a worker raised, "pickled"
LAUNCH_DIR = "TREELSTM_LAUNCH_DIR"  # in a worker's environment
_BEFORE_THE_END, _STOP = (KERNEL, SETTINGS, BEGUN, COMMITTED, LAUNCH), "stop"
GRACE_SECONDS = 60.0  # for a commit and a stop, before SIGKILL

Line = dict[str, Any]
_PREFIX, _YOUNG_SECONDS = "treelstm-night-", 60.0
_SECONDS_BETWEEN_CHECKS = 0.2  # of whether the engine lives


@contextmanager
def night_directory() -> Iterator[Path]:
    """A new directory that no other engine uses; removed at the end, as are those of killed engines."""
    _remove_leftovers()
    new = tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True)
    with new as name, _lock(Path(name), wait=True) if fcntl else nullcontext():
        Path(name, TOLD).touch()
        Path(name, _STOP).touch()
        try:
            yield Path(name)
        finally:
            _remove_leftovers()


def tell_night(file: str | Path, line: Line) -> None:
    """Adds a line; FileNotFoundError if the night is over (its directory is gone)."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND), "wb") as opened:
        # The first line feed ends a line that a full disk has cut.
        opened.write(f"\n{json.dumps(line)}\n".encode())


def told(file: str | Path) -> list[Line]:
    """All whole lines."""
    lines = []
    for line in Path(file).read_bytes().splitlines():
        with suppress(ValueError):  # empty, or cut by a full disk; its writer said so
            lines.append(json.loads(line))
    return lines


def tell_engine(event: str, output_dir: Path, **about: Any) -> None:
    """In a kernel: tells the engine, if there is one.

    Raises:
        WriteFailed: a run has begun and the engine cannot know it; a restart could set commits aside.
    """
    if not (file := os.environ.get(NIGHT_FILE)):
        return
    try:
        tell_night(file, {"event": event, "output_dir": os.path.realpath(output_dir), **about})
    except FileNotFoundError:
        pass  # the engine was killed
    except OSError as error:
        text = f"{error.strerror}: the engine cannot be told in {file}: {event}. Make room there"
        if event == BEGUN:
            raise WriteFailed(error.errno, text) from error
        log.warning("%s; the run goes on", text)


def told_by_engine() -> list[Line]:
    """In a kernel: all lines of this night, none if there is no engine."""
    if file := os.environ.get(NIGHT_FILE):
        with suppress(FileNotFoundError):  # the engine was killed
            return told(file)
    return []


def begun_before(output_dir: Path) -> bool:
    """Whether an earlier kernel of this night, or earlier workers of this launch, have begun this run:
    then it goes on, whatever the page says, from the newest commit.
    """
    lines, name = told_by_engine(), os.path.realpath(output_dir)
    now = max((i for i, line in enumerate(lines) if line["event"] == KERNEL), default=0)
    earlier = told_in_launch() if LAUNCH_DIR in os.environ else lines[:now]
    return any(line["event"] == BEGUN and line["output_dir"] == name for line in earlier)


def night_began() -> float | None:
    """When the engine or the launch began, by the monotonic clock; None if there is neither."""
    return next((line["began"] for line in told_by_engine() if "began" in line), None)


def told_in_launch() -> list[Line]:
    """In a worker: the lines of its launch."""
    lines = told_by_engine()
    began = max((i for i, line in enumerate(lines) if line["event"] == LAUNCH), default=len(lines))
    return lines[began:]


def has_ended(lines: list[Line]) -> bool:
    """Whether a run has ended, on purpose or with an error."""
    return any(line["event"] not in _BEFORE_THE_END for line in lines)


def follow_launcher() -> None:
    """In a worker, first of all: ends it when its parent is gone or a stop is asked for, during training
    after a commit; at once if the run has ended.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # also while it waits in C++
        signal.signal(number, signal.SIG_DFL)
    directory, parent = os.environ.get(LAUNCH_DIR), os.getppid()
    if directory:
        lines = told_in_launch()
        if not lines or has_ended(lines) or _asked(Path(directory)):
            sys.exit(0)
        parent = lines[0]["pid"]
    # The others stop or end with the first one. Signals to all would meet some that have just stopped.
    is_first = os.environ["RANK"] == "0"
    watch_parent(parent, Path(directory) if directory and is_first else None)


def ask_to_stop(directory: Path, number: int) -> None:
    """Has the workers of a launch get this signal. A rename works on a full disk too."""
    with suppress(FileNotFoundError):  # asked before
        (directory / _STOP).rename(directory / f"{_STOP}{number}")


def _asked(directory: Path) -> int | None:
    return next((int(path.name.removeprefix(_STOP)) for path in directory.glob(f"{_STOP}?*")), None)


followed: int | None = None  # the process whose end ends this one soon


def watch_parent(parent: int, directory: Path | None = None) -> None:
    """Ends this process, after a commit, when its parent, of this process id, is gone; gives it the
    signal that is asked for in the launch directory, if there is one.
    """
    global followed
    followed = parent
    words = (parent, directory)
    threading.Thread(target=_watch, args=words, name="watch_parent", daemon=True).start()


def _watch(parent: int, directory: Path | None) -> None:
    while os.getppid() == parent:
        if directory and (number := _asked(directory)):
            os.kill(os.getpid(), number)
            directory = None  # once: a second one could end it between its commit and its end
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    # During training, SIGTERM asks for a commit and a stop, and repeating it is harmless. Before and
    # after training it ends the process, which has nothing to lose then.
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    os.kill(os.getpid(), signal.SIGKILL)


def _remove_leftovers() -> None:
    """Removes the directories of engines that were killed. Their locks are free, whatever the host."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{TOLD}") if fcntl else ():
        with suppress(OSError):  # in use, another user's, or just removed by another engine
            stat = path.parent.lstat()
            is_old = time.time() - stat.st_mtime > _YOUNG_SECONDS  # a new one is not locked yet
            if is_old and stat.st_uid == os.getuid():
                with _lock(path.parent, wait=False):
                    shutil.rmtree(path.parent)


@contextmanager
def _lock(directory: Path, wait: bool) -> Iterator[None]:
    """Locks a directory, also against systemd's removal of old temporary files."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        # A disk without locks: no other engine can lock and remove the directory either.
        with suppress(OSError) if wait else nullcontext():
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
