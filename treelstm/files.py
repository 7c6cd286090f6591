"""Atomic writes: a reader sees the old file or the new one, never a part."""

import errno
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from treelstm.errors import UserError

TEMPORARY_SUFFIX = ".tmp"
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class WriteFailed(UserError, OSError):
    """A file could not be written; the file system is as it was before."""


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Writes `parts`, joined, to `path` with one rename; the file and its directory are fsynced.

    Raises:
        WriteFailed: no space, no permission, no directory. Names the path, the bytes needed and the
            bytes free, and leaves no temporary file.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _fsync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):  # the directory itself may be gone or read-only
            temporary.unlink(missing_ok=True)
        found = f"{path} needs {sum(map(len, parts)):,} bytes, {_free(path.parent)}"
        remedy = "Make room or correct the directory, then run the same command again"
        text = f"{error.strerror}: {found}. What was there before is intact. {remedy}"
        raise WriteFailed(error.errno, text) from error


def _fsync_directory(directory: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a directory; its rename is journaled
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:  # a run that needs it has been refused at its start
            raise
    finally:
        os.close(descriptor)


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
    """The directory itself, or its nearest parent that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def unshare(path: Path) -> None:
    """Makes a file with other names too (a snapshot by `cp -al`) a copy, before it is appended to."""
    if path.is_file() and path.stat().st_nlink > 1:
        write_whole(path, path.read_bytes())


def clear_leftovers(directory: Path, is_ours: Callable[[str], bool]) -> None:
    """Removes what killed writers left directly in `directory`: `.NAME.HEX.tmp` or `.NAME.tmp`."""
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        match = re.fullmatch(r"\.(.+?)(\.[0-9a-f]+)?\.tmp", path.name)
        if match and (is_ours(match[1]) or is_ours(match[1] + (match[2] or ""))):
            path.unlink(missing_ok=True)


def directory_fsync_works(directory: Path) -> bool:
    """Whether the file system can make a rename in this directory outlast a power cut."""
    if os.name == "nt":
        return True
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _NO_FSYNC:
            return False
        raise
    finally:
        os.close(descriptor)
    return True
