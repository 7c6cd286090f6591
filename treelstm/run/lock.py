"""At most one process writes to a run's directory; others are told which one."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import filelock
import psutil

from treelstm import night
from treelstm.errors import UserError
from treelstm.files import WriteFailed, clear_leftovers, directory_fsync_works, write_whole
from treelstm.run.directory import is_file_of_run

_LOCK, _SOFT_LOCK, _HOLDER = ".lock", ".soft_lock", ".holder.json"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


class RunInUse(UserError, RuntimeError):
    """Another process writes to this output directory."""


class WeakDisk(UserError, OSError):
    """The disk has no locks, or no fsync of directories, and no setting accepts that."""


class LockLost(UserError, RuntimeError):
    """The run's directory, or its lock, is not the one that this process locked."""


class Held:
    """The lock of an output directory, which this process holds."""

    def __init__(self, output_dir: Path, lock: Path, given_up: list[str]) -> None:
        self._directory, self._lock, self._identity = output_dir, lock, _identity(lock)
        self.given_up = given_up  # what the disk lacks, in words

    def is_ours(self) -> bool:
        """Whether the lock file at its path is still the locked one; also if that cannot be told."""
        try:
            return _identity(self._lock) == self._identity
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def check(self) -> None:
        """Raises LockLost where a write would land in what may be another process's run."""
        # Into a directory that is gone, nothing can be written: that write says so.
        if not self.is_ours() and self._directory.is_dir():
            raise LockLost(
                f"{self._directory} was moved, made anew, or its {self._lock.name} removed while this "
                "process trained, so that another may write there now. This process stops and writes "
                "nothing. Its last commit is where the directory went; train on there."
            )


@dataclass(frozen=True)
class Holder:
    """The process that writes to an output directory."""

    host: str
    pid: int
    since: str
    parent: int | None = None  # which it follows, see night.py

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_this_process(self) -> bool:
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())

    @property
    def ends_soon(self) -> bool:
        """Whether it is a kernel or worker of this host that has lost its parent, or has just ended."""
        if self.parent is None or self.host != socket.gethostname():
            return False
        try:
            return bool(psutil.Process(self.pid).ppid() != self.parent)
        except psutil.NoSuchProcess:
            return True


@contextmanager
def only_writer(output_dir: Path, accept_weak_disk: bool = False) -> Iterator[Held]:
    """Locks the directory for this process, and removes temporary files of a killed writer.

    The operating system frees the lock of a process that ends in any way, so no lock goes stale.

    Raises:
        RunInUse: another process holds it; says which, where, since when.
        WriteFailed: the directory cannot be made or written to.
        WeakDisk: it has no locks or no fsync of directories, and `accept_weak_disk` is not set.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lacks = lacking(output_dir)
        if lacks and not accept_weak_disk:
            raise WeakDisk(f"{output_dir} is on a disk without {' and '.join(lacks)}. {ADVICE}.")
        lock = _acquired(output_dir)
    except OSError as error:
        if isinstance(error, filelock.Timeout | UserError):
            raise
        found = f"{error.strerror}: {output_dir} cannot be written to"
        remedy = "Choose another output_dir or correct its permissions"
        raise WriteFailed(error.errno, f"{found}. {remedy}") from error
    try:
        clear_leftovers(output_dir, is_file_of_run)
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        this = Holder(socket.gethostname(), os.getpid(), since, night.followed)
        record = asdict(this) | {"directory": output_dir.stat().st_ino}
        write_whole(output_dir / _HOLDER, json.dumps(record).encode())
        yield Held(output_dir, Path(lock.lock_file), lacks)
    finally:
        lock.release()


def _acquired(output_dir: Path) -> filelock.BaseFileLock:
    """The directory's lock, acquired; a lock file shared with a snapshot (`cp -al`) is replaced."""
    if _can_share(output_dir) is None:
        soft = filelock.SoftFileLock(output_dir / _SOFT_LOCK, timeout=0.5)
        try:
            soft.acquire()  # one of a process of this host that has ended does not count
        except filelock.Timeout:
            refuse_if_held(output_dir)
            raise
        return soft
    path = output_dir / _LOCK
    for _ in range(2):
        lock = filelock.FileLock(path, timeout=0.5)  # waits: `holder` takes it for an instant
        try:
            lock.acquire()
            if path.stat().st_nlink == 1:
                return lock
            lock.release()
        except filelock.Timeout:
            refuse_if_held(output_dir)
            if path.stat().st_nlink == 1:
                raise
        write_whole(path)
    raise RunInUse(f"{path} is linked to elsewhere again and again. Remove what links to it.")


def lacking(directory: Path) -> list[str]:
    """What a disk needs and this one lacks, in words."""
    lacks = list[str]()
    if _can_share(directory) is None:
        lacks.append("locks (two writers at once may go unnoticed)")
    if not directory_fsync_works(directory):
        lacks.append("fsync of directories (a power cut may lose the last commit)")
    return lacks


ADVICE = "Choose an output_dir on another disk, or set accept_weak_disk=True to train without"


def _can_share(path: Path) -> bool | None:
    """Whether a shared lock can be had, which two may have at once; None: the disk has no locks."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    finally:
        os.close(descriptor)
    return True


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def refuse_if_held(output_dir: Path) -> None:
    """Raises RunInUse if a process holds the directory; says which, where, since when. Waits for one
    that has lost its parent: it is committing, and ends.
    """
    until = time.monotonic() + night.GRACE_SECONDS
    while (by := holder(output_dir)) and by.ends_soon and time.monotonic() < until:
        time.sleep(0.1)
    if by:
        remedy = "Wait for it, stop it, or choose another output_dir"
        if (output_dir / _SOFT_LOCK).exists():
            remedy += f". If it has ended without removing {output_dir / _SOFT_LOCK}, remove that file"
        raise RunInUse(f"{output_dir} is in use by {by}. {remedy}.")


def holder(output_dir: Path) -> Holder | None:
    """The process that holds the directory, or None. Any number of processes may ask at once."""
    path = output_dir / _LOCK
    soft = (output_dir / _SOFT_LOCK).exists()
    try:
        if not soft and _can_share(path) is not False:
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        record = json.loads((output_dir / _HOLDER).read_bytes())
        here = output_dir.stat().st_ino
        if record.pop("directory", here) != here and path.stat().st_nlink > 1:
            return None  # the lock, and this record, are those of the run that this is a snapshot of
        by = Holder(**record)
        if soft and by.host == socket.gethostname() and not psutil.pid_exists(by.pid):
            return None  # it was killed
        return by
    except (OSError, ValueError, TypeError, AttributeError):
        return Holder("an unknown host", 0, "a moment ago")  # locked, .holder.json follows
