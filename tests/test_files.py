from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from treelstm.files import (
    WriteFailed,
    clear_leftovers,
    directory_fsync_works,
    is_there,
    listed,
    nearest_existing,
    open_file,
    write_whole,
)


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


def test_what_a_link_of_a_temporary_name_leads_to_is_left_alone(tmp_path):
    victim, names = tmp_path / "victim", []
    victim.write_bytes(b"of another user")

    def plant(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(".tmp") and planting:
            names.append(str(arguments[0]))
            Path(names[-1]).symlink_to(victim)  # just before it is opened, so even of a random name

    (tmp_path / ".file.tmp").symlink_to(victim)
    planting = False
    sys.addaudithook(plant)
    write_whole(tmp_path / "file", b"new")
    assert victim.read_bytes() == b"of another user" and (tmp_path / "file").read_bytes() == b"new"
    planting = True
    with pytest.raises(WriteFailed, match="File exists"):
        write_whole(tmp_path / "file", b"newer")
    planting = False
    assert victim.read_bytes() == b"of another user" and len(names) == 1


def test_temporary_names_cannot_be_foreseen_and_end_as_leftovers_do(tmp_path, monkeypatch):
    names: list[Path] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (names.extend(tmp_path.iterdir()), real(file)))
    for _ in range(3):
        write_whole(tmp_path / "file", b"x")
    temporary = {path.name for path in names} - {"file"}
    assert len(temporary) == 3 and all(re.fullmatch(r"\.file\.[0-9a-f]{16}\.tmp", n) for n in temporary)


def test_a_new_file_has_the_mode_that_any_new_file_has_and_a_link_is_replaced(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "link", b"new")
    finally:
        os.umask(before)
    found = (tmp_path / "link").lstat().st_mode
    assert stat.S_ISREG(found) and stat.S_IMODE(found) == 0o640
    assert (tmp_path / "target").read_bytes() == b"old"


def test_processes_that_write_one_file_at_once_all_succeed(tmp_path):
    code = (
        "import sys; from pathlib import Path; from treelstm.files import write_whole\n"
        "for k in range(200): write_whole(Path(sys.argv[1]), sys.argv[2].encode() * 5000)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "file")]
    started = [subprocess.Popen([*words, letter]) for letter in "abc"]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert (tmp_path / "file").read_bytes() in [letter * 5000 for letter in (b"a", b"b", b"c")]
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_only_leftovers_of_our_files_in_this_very_directory_are_cleared(tmp_path):
    ours = [".last.pt.0123456789abcdef.tmp", ".last.pt.tmp"]
    others = [
        ".mine.0123456789abcdef.tmp", ".tmp", "last.pt.tmp", ".last.pt.0123456789abcdeg.tmp",
        ".last.pt.0123456789abcdef.tmp.bak", "below/.last.pt.0123456789abcdef.tmp",
    ]  # fmt: skip
    (tmp_path / "below").mkdir()
    for name in (*ours, *others):
        (tmp_path / name).touch()
    (tmp_path / ".last.pt.aaaaaaaaaaaaaaaa.tmp").mkdir()
    (tmp_path / ".last.pt.bbbbbbbbbbbbbbbb.tmp").symlink_to(tmp_path / ".tmp")
    clear_leftovers(tmp_path, lambda name: name == "last.pt", older_than_seconds=60)
    assert all((tmp_path / name).exists() for name in ours)
    os.utime(tmp_path / ours[0], (time.time() - 61, time.time() - 61))
    clear_leftovers(tmp_path, lambda name: name == "last.pt", older_than_seconds=60)
    assert [(tmp_path / name).exists() for name in ours] == [False, True]
    clear_leftovers(tmp_path, lambda name: name == "last.pt")
    assert not any((tmp_path / name).exists() for name in ours)
    assert all((tmp_path / name).exists() for name in others)
    clear_leftovers(tmp_path / "nowhere", lambda name: True)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_fsync_of_directories_is_written_to_but_a_bad_disk_is_not(
    tmp_path, monkeypatch, number
):
    assert directory_fsync_works(tmp_path)
    real = os.fsync

    def refuse(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))
        real(file)

    monkeypatch.setattr(os, "fsync", refuse)
    if number == errno.EIO:
        with pytest.raises(WriteFailed, match="Input/output error"):
            write_whole(tmp_path / "file", b"x")
        with pytest.raises(OSError, match="Input/output error"):
            directory_fsync_works(tmp_path)
    else:
        write_whole(tmp_path / "file", b"x")
        assert not directory_fsync_works(tmp_path) and (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_what_cannot_be_looked_at_or_listed_is_not_a_missing_file(tmp_path, monkeypatch, number):
    (tmp_path / "a.txt").touch()
    assert is_there(tmp_path / "a.txt") and not is_there(tmp_path / "a.txt" / "b")
    assert listed(tmp_path, "*.txt") == [tmp_path / "a.txt"] and listed(tmp_path / "none", "*") == []

    def refuse(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("stat", "listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    for act in (is_there, nearest_existing, lambda path: listed(path, "*"), open_file):
        with pytest.raises(OSError, match=os.strerror(number)):
            act(tmp_path)
    with pytest.raises(OSError, match=os.strerror(number)):
        clear_leftovers(tmp_path, lambda name: True)
