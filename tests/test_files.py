from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from treelstm.files import WriteFailed, write_whole


def test_parts_become_one_whole_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / "file", b"ab", memoryview(b"cd"))
    assert (tmp_path / "file").read_bytes() == b"abcd"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_refusing_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, call, number):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(
            *{"open": (Path, "open"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[call], refuse
        )
        with pytest.raises(
            WriteFailed, match=rf"{os.strerror(number)}: .*/file needs 3 bytes, [\d,]+ are free"
        ):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_really_full_device_is_a_clear_error(tmp_path, monkeypatch):
    real_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: real_open(Path("/dev/full"), "wb"))
    with pytest.raises(WriteFailed, match="No space left on device: "):
        write_whole(tmp_path / "file", b"x" * 100_000)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(
        WriteFailed, match=r"No such file .*nowhere/file needs 1 bytes, the directory cannot"
    ):
        write_whole(tmp_path / "nowhere" / "file", b"x")
