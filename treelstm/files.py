"""Atomic writes: a reader sees the old file or the new one, never a part. Reads that never wait."""

import errno
import io
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from treelstm.errors import UserError

TEMPORARY_SUFFIX = ".tmp"

_LEFTOVER = re.compile(r"\.(.+?)(\.[0-9a-f]{16})?\.tmp", re.DOTALL)  # earlier versions: no number
_NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFile(UserError, OSError):
    """A path leads to a pipe, device, socket or directory."""


class WriteFailed(UserError, OSError):
    """A file could not be written; the file system is as it was before."""


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Writes `parts`, joined, to `path` as `whole_file` does; its message says how much they need."""
    with whole_file(path, sum(map(len, parts))) as file:
        for part in parts:
            file.write(part)


def write_if_other(path: Path, content: bytes) -> None:
    """As `write_whole`, unless the file holds these bytes already."""
    written = None
    with suppress(OSError):  # none yet, or not readable: it is made anew
        written = path.read_bytes()
    if written != content:
        write_whole(path, content)


@contextmanager
def whole_file(path: Path, size: int | None = None) -> Iterator[BinaryIO]:
    """A new file that becomes `path` with one rename if the block ends well; it and its directory are
    fsynced.

    Until then it has a random name, so two writers never share one, and what is behind a link is never
    written to. See `clear_leftovers` for those of a killed process.

    Raises:
        WriteFailed: no space, no permission, no directory. Names the path, the bytes needed and the
            bytes free, and leaves no temporary file.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory_fsync_works(path.parent)  # if not: said at the start of a run, see run/lock.py
    except WriteFailed:  # of another file, inside the block: it says all
        raise
    except OSError as error:
        needed = "" if size is None else f" needs {size:,} bytes"
        found = f"{path}{needed}, {_free(path.parent)}"
        remedy = "Make room or correct the directory, then run the same command again"
        text = f"{error.strerror}: {found}. What was there before is intact. {remedy}"
        raise WriteFailed(error.errno, text) from error
    finally:
        with suppress(OSError):  # after the rename it is not there; the directory may be gone too
            temporary.unlink()


def clear_leftovers(
    directory: Path, is_ours: Callable[[str], bool], older_than_seconds: float = 0.0
) -> None:
    """Removes what killed processes left of `write_whole` in `directory` itself, not below it.

    Only files of `write_whole`'s temporary names go, and only where `is_ours` says yes to the name of
    the file that was to be written. Raises OSError if the directory cannot be listed.
    """
    for path in listed(directory, f".*{TEMPORARY_SUFFIX}"):
        name = _LEFTOVER.fullmatch(path.name)
        if name is None or not (is_ours(name[1]) or is_ours(name[1] + (name[2] or ""))):
            continue
        with suppress(FileNotFoundError):  # another process has just removed it
            found = path.lstat()
            old = not older_than_seconds or time.time() - found.st_mtime > older_than_seconds
            if stat.S_ISREG(found.st_mode) and old:
                path.unlink()


def directory_fsync_works(directory: Path) -> bool:
    """Makes renames in `directory` outlast a power cut; False if its file system does not offer that.

    Raises:
        OSError: the disk refuses (EIO), or the directory cannot be opened.
    """
    if os.name == "nt":
        return True  # Windows cannot open a directory; its rename is journaled
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:  # a run that needs it has been refused at its start
            raise
        return False
    finally:
        os.close(descriptor)
    return True


def open_file(path: Path) -> io.FileIO:
    """Opens an ordinary file to read its bytes.

    Raises:
        NotAFile: it is something else, which is never waited for.
        OSError: it cannot be opened.
    """
    _refuse_others(path, path.stat())
    file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | _NEVER_WAIT))
    try:
        _refuse_others(path, os.fstat(file.fileno()))  # it may be another one by now
        if _NEVER_WAIT:
            os.set_blocking(file.fileno(), True)
    except BaseException:
        file.close()
        raise
    return file


_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its other end


def _refuse_others(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise NotAFile(errno.EINVAL, f"it is {kind}, expected a file", str(path))


def is_there(path: Path) -> bool:
    """Whether the path leads to something; raises OSError if that cannot be found out."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def listed(directory: Path, pattern: str) -> list[Path]:
    """What matches in `directory`, sorted; nothing if there is no such directory.

    Unlike `Path.glob`, raises OSError if the directory cannot be listed.
    """
    try:
        return sorted(path for path in directory.iterdir() if fnmatchcase(path.name, pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _free(directory: Path) -> str:
    try:
        return f"{shutil.disk_usage(directory).free:,} are free"
    except OSError:
        return "the directory cannot be reached"


def make_directory(directory: Path) -> None:
    """Makes it and its parents; raises WriteFailed if that is not possible, or if it is a file."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "Choose another directory or correct the permissions"
        found = f"{error.strerror}: {directory} cannot be made a directory"
        raise WriteFailed(error.errno, f"{found}. {remedy}") from error


def nearest_existing(path: Path) -> Path:
    """The directory itself, or its nearest parent that exists; raises OSError if one cannot be seen."""
    return next(parent for parent in (path, *path.parents) if is_there(parent))


def unshare(path: Path) -> None:
    """Makes a file with other names too (a snapshot by `cp -al`) a copy, before it is appended to."""
    if is_there(path) and path.stat().st_nlink > 1:
        write_whole(path, path.read_bytes())
