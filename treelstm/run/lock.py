"""At most one process writes to a run's directory; others are told which one."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import filelock

from treelstm.errors import UserError
from treelstm.files import TEMPORARY_SUFFIX, WriteFailed, write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RunInUse(UserError, RuntimeError):
    """Another process writes to this output directory."""


@dataclass(frozen=True)
class Holder:
    """The process that writes to an output directory."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_this_process(self) -> bool:
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())


@contextmanager
def only_writer(output_dir: Path) -> Iterator[None]:
    """Locks the directory for this process, and removes temporary files of a killed writer.

    The operating system frees the lock of a process that ends in any way, so no lock goes stale.

    Raises:
        RunInUse: another process holds it; says which, where, since when.
        WriteFailed: the directory cannot be made or written to.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(output_dir / ".lock", timeout=0.5)
        lock.acquire()  # waits, because `holder` takes a shared lock for an instant
    except filelock.Timeout:
        refuse_if_held(output_dir)
        raise
    except OSError as error:
        found = f"{error.strerror}: {output_dir} cannot be written to"
        remedy = "Choose another output_dir or correct its permissions"
        raise WriteFailed(error.errno, f"{found}. {remedy}") from error
    try:
        for depth in ("", "*/"):
            for leftover in output_dir.glob(f"{depth}.*{TEMPORARY_SUFFIX}"):
                leftover.unlink()
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        this = Holder(socket.gethostname(), os.getpid(), since)
        write_whole(output_dir / ".holder.json", json.dumps(asdict(this)).encode())
        yield
    finally:
        lock.release()


def refuse_if_held(output_dir: Path) -> None:
    """Raises RunInUse if a process holds the directory; says which, where, since when."""
    if by := holder(output_dir):
        remedy = "Wait for it, stop it, or choose another output_dir"
        raise RunInUse(f"{output_dir} is in use by {by}. {remedy}.")


def holder(output_dir: Path) -> Holder | None:
    """The process that holds the directory, or None. Any number of processes may ask at once."""
    if not _locked(output_dir / ".lock"):
        return None
    try:
        return Holder(**json.loads((output_dir / ".holder.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return Holder("an unknown host", 0, "a moment ago")  # locked, .holder.json follows


def _locked(path: Path) -> bool:
    """Whether a writer holds this lock. Tried with a shared lock, so that two readers never collide."""
    try:
        with path.open("rb") as file:
            if fcntl is None:
                with filelock.FileLock(path, timeout=0):
                    return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (BlockingIOError, filelock.Timeout):
        return True
