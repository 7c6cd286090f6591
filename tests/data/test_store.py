"""A compiled corpus that is damaged, senseless or out of reach is compiled again, and said."""

from __future__ import annotations

import errno
import os
import pwd
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import LENGTH, Arrays, put_together, seal, taken_apart

from treelstm import load_pairs
from treelstm.data.pairs import Pairs

STORE = ".forest.bin"


@pytest.fixture
def data(tiny: Path, tmp_path: Path) -> Path:
    """A directory of pairs, compiled."""
    directory = Path(shutil.copytree(tiny / "training", tmp_path / "data"))
    load_pairs(directory)
    return directory


def same(first: Pairs, second: Pairs) -> bool:
    mine, theirs = vars(first) | vars(first.forest), vars(second) | vars(second.forest)
    names = [name for name, value in mine.items() if isinstance(value, np.ndarray)]
    assert len(names) == 19
    equal = all(np.array_equal(mine[n], theirs[n], equal_nan=n == "similarity") for n in names)
    return equal and all(mine[name] == theirs[name] for name in ("symbols", "sentences"))


def assert_compiled_again(data: Path, whole: Pairs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    assert same(load_pairs(data), whole)
    assert f"{STORE} is damaged" in caplog.text and "Compiling the corpus again" in caplog.text
    caplog.clear()
    assert same(load_pairs(data), whole) and not caplog.text


def test_one_flipped_bit_anywhere_is_noticed(data, caplog):
    whole, store = load_pairs(data), data / STORE
    raw, draw = store.read_bytes(), random.Random(0)
    places = [*range(0, LENGTH + 8, 5), *(draw.randrange(len(raw)) for _ in range(30)), len(raw) - 1]
    for place in places:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << draw.randrange(8)
        store.write_bytes(damaged)
        assert_compiled_again(data, whole, caplog)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 47, 48, 55, 56, 57, 500, -1])
def test_a_cut_or_lengthened_store_is_noticed(data, caplog, length):
    whole, store = load_pairs(data), data / STORE
    raw = store.read_bytes()
    store.write_bytes(raw[:length])
    assert_compiled_again(data, whole, caplog)
    store.write_bytes(raw + b"\0" * 8)
    assert_compiled_again(data, whole, caplog)


def put(name: str, place: int, value: Any) -> Callable[[Any, Arrays], None]:
    def change(about: Any, arrays: Arrays) -> None:
        arrays[name][place] = value

    return change


def resized(name: str, end: int) -> Callable[[Any, Arrays], None]:
    def change(about: Any, arrays: Arrays) -> None:
        arrays[name] = np.resize(arrays[name], len(arrays[name]) + end)

    return change


def header(**values: Any) -> Callable[[Any, Arrays], None]:
    return lambda about, arrays: about.update(values)


def child_of_a_tree_left_out(about: Any, arrays: Arrays) -> None:
    """The first tree no longer lists its first subtree, which others of its subtrees need."""
    arrays["tree_subtrees"] = arrays["tree_subtrees"][1:]
    arrays["tree_ptr"][1:] -= 1


def a_leaf_raised(about: Any, arrays: Arrays) -> None:
    arrays["height"][:] = np.sort(arrays["height"] + 1)


def other_rows(about: Any, arrays: Arrays) -> None:
    """Rows of children of other lengths, still ascending to the right end."""
    ptr = arrays["child_ptr"]
    ptr[:] = np.sort(np.random.default_rng(0).integers(0, ptr[-1] + 1, len(ptr)))
    ptr[0], ptr[-1] = 0, len(arrays["child"])


HUGE = 2**62
INDICES = ["symbol", "child", "root", "tree_subtrees", "first", "second", "height"]
POINTERS = ["symbol_ptr", "child_ptr", "tree_ptr"]
COLUMNS = ["first", "second", "label", "similarity", "line"]
SENSELESS = {
    **{f"{name} {value}": put(name, 3, value) for name in INDICES for value in (-1, HUGE, -HUGE)},
    **{f"{name} {value}": put(name, -2, value) for name in POINTERS for value in (-1, HUGE, 0)},
    **{f"{name} begins at 1": put(name, 0, 1) for name in POINTERS},
    **{f"{name} ends at 10**9": put(name, -1, 10**9) for name in POINTERS},
    **{f"{n} {by:+}": resized(n, by) for n in [*INDICES, *POINTERS, *COLUMNS] for by in (-1, 1)},
    **{f"{n} {by:+}": resized(n, by) for n in ("tree_nodes", "tree_digest") for by in (-1, 1)},
    "a label of 2": put("label", 0, 2),
    "a label of -1": put("label", 0, -1),
    "one label": put("label", slice(None), 1),
    "no pairs": lambda about, arrays: arrays.update({name: arrays[name][:0] for name in COLUMNS}),
    "nothing": lambda about, arrays: arrays.update({name: arrays[name][:0] for name in arrays}),
    "an infinite similarity": put("similarity", 0, np.inf),
    "line 0": put("line", 0, 0),
    "nodes": put("tree_nodes", 0, HUGE),
    "heights": a_leaf_raised,
    "rows": other_rows,
    "a child left out": child_of_a_tree_left_out,
    "a child of its own": lambda about, arrays: put("child", -1, len(arrays["height"]) - 1)(
        about, arrays
    ),
    "symbols not sorted": lambda about, arrays: about["symbols"].reverse(),
    "symbols missing": lambda about, arrays: about["symbols"].pop(),
    "a symbol twice": lambda about, arrays: about["symbols"].__setitem__(0, about["symbols"][1]),
    "symbols numbers": header(symbols=list(range(400))),
    "symbols an object": header(symbols={"a": "b"}),
    "a symbol null": lambda about, arrays: about["symbols"].__setitem__(0, None),
    "a sentence cut in a character": lambda about, arrays: about["sentences"].__setitem__(0, "\ud83d"),
    "a sentence a list": lambda about, arrays: about["sentences"].__setitem__(0, []),
    "sentences missing": lambda about, arrays: about["sentences"].pop(),
    "no sentences": header(sentences=None),
    "no key": header(key=None),
}


@pytest.mark.parametrize("fault", SENSELESS)
def test_a_senseless_content_under_a_right_digest_is_refused_by_name(data, caplog, fault):
    whole, store = load_pairs(data), data / STORE
    about, arrays = taken_apart(store)
    SENSELESS[fault](about, arrays)
    put_together(store, about, arrays)
    assert_compiled_again(data, whole, caplog)


@pytest.mark.parametrize("odd", [np.float32, np.int32, "left out", "in rows"])
def test_arrays_of_other_types_or_shapes_are_refused(data, caplog, odd):
    whole, store = load_pairs(data), data / STORE
    about, arrays = taken_apart(store)
    child = arrays.pop("child")
    if odd != "left out":
        arrays["child"] = child[:, None] if odd == "in rows" else child.astype(odd)
    put_together(store, about, arrays)
    assert_compiled_again(data, whole, caplog)


@pytest.mark.parametrize("start", [b"\xff" * 8, b"\0" * 8, (3).to_bytes(8, "little")])
def test_a_senseless_header_is_refused(data, caplog, start):
    whole, store = load_pairs(data), data / STORE
    body = store.read_bytes()[LENGTH - 8 :]
    for content in (
        start + body[8:],
        start,
        b"",
        b"[" * 200_000,
        (20).to_bytes(8, "little") + b"[1]" * 9,
    ):
        seal(store, content)
        assert_compiled_again(data, whole, caplog)


def test_labels_from_a_store_can_be_given_to_torch(data):
    assert torch.from_numpy(load_pairs(data).label).sum() == 24  # it warns of arrays that are read-only


def test_the_store_of_an_earlier_version_is_replaced_in_silence(data, caplog):
    whole, store = load_pairs(data), data / STORE
    raw = store.read_bytes()
    store.write_bytes(b"treelstm corpus\n" + raw[16:])
    assert same(load_pairs(data), whole)
    assert not caplog.text and store.read_bytes() == raw


def test_a_store_that_is_a_pipe_or_cannot_be_read_is_named_and_not_waited_for(data, caplog, monkeypatch):
    whole = load_pairs(data)
    (data / STORE).unlink()
    os.mkfifo(data / STORE)
    assert same(load_pairs(data), whole)
    assert f"{STORE} cannot be read (it is a named pipe" in caplog.text and (data / STORE).is_file()
    real_open = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith(STORE):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real_open(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert same(load_pairs(data), whole) and f"{STORE} cannot be read (Input/output error" in caplog.text


def test_four_processes_that_compile_at_once_all_succeed(data):
    (data / STORE).unlink()
    code = "import sys, treelstm; treelstm.load_pairs(sys.argv[1])"
    words = [sys.executable, "-c", code, str(data)]
    started = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in started] == [("", 0)] * 4
    assert sorted(path.name for path in data.glob(".*")) == [STORE]


def test_leftovers_of_the_store_are_cleared_after_an_hour_and_only_those(data):
    old = time.time() - 4000
    names = {
        f".{STORE}.0123456789abcdef.tmp": old,
        f".{STORE}.fedcba9876543210.tmp": None,
        ".notes.txt.0123456789abcdef.tmp": old,
        f".{STORE}.backup.tmp": old,
    }
    for name, when in names.items():
        (data / name).write_bytes(b"x")
        if when:
            os.utime(data / name, (when, when))
    (data / STORE).unlink()
    load_pairs(data)
    assert {path.name for path in data.glob(".*")} == {STORE, *list(names)[1:]}


def test_without_a_home_directory_it_works_without_a_cache_and_says_so_once(data, caplog, monkeypatch):
    whole = load_pairs(data)
    (data / STORE).unlink()
    data.chmod(0o555)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    for _ in range(3):
        assert same(load_pairs(data), whole)
    assert caplog.text.count("could not be cached") == 1
    assert "there is no home directory" in caplog.text and str(data) in caplog.text


def test_with_a_cache_that_cannot_be_written_it_works_and_says_so_once(
    data, caplog, monkeypatch, tmp_path
):
    whole = load_pairs(data)
    data.chmod(0o555)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(3):
        assert same(load_pairs(data), whole)
    assert caplog.text.count("could not be cached") == 1
