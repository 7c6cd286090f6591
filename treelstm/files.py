"""Whole files or none: the one way in which this package writes to disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from treelstm.errors import UserError

TEMPORARY_SUFFIX = ".tmp"


class WriteFailed(UserError, OSError):
    """A file could not be written; the file system is as it was before."""


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Puts `parts`, end to end, at `path` with one rename: a reader sees the old file or the new one.

    Durable once it returns: the file and its directory are fsynced.

    Raises:
        WriteFailed: no space, no permission, no directory; names the path, the bytes needed and the
            bytes free, and leaves neither a half-written nor a temporary file.
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
        _remove_if_there(temporary)
        raise WriteFailed(
            error.errno,
            f"{error.strerror}: {path} needs {sum(map(len, parts)):,} bytes, {_free(path.parent)}. "
            "What was there before is intact. Make room or correct the directory, then run the same "
            "command again",
        ) from error


def _fsync_directory(directory: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a directory; its rename is journaled
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_there(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the directory itself is gone or read-only, as the first error says


def _free(directory: Path) -> str:
    try:
        return f"{shutil.disk_usage(directory).free:,} are free"
    except OSError:
        return "the directory cannot be reached"


def nearest_existing(path: Path) -> Path:
    """The directory itself, or its nearest parent that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())
