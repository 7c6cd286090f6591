"""A compiled corpus that is damaged, senseless or out of reach is compiled again, and said."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import Arrays, encoded, put_together, seal, store_in, taken_apart, write_manifest

from treelstm import load_pairs
from treelstm.data import store as store_module
from treelstm.data.pairs import Pairs
from treelstm.trees.texts import Texts


@pytest.fixture
def data(tiny: Path, tmp_path: Path) -> Path:
    """A directory of pairs, compiled."""
    own = shutil.ignore_patterns(".forest-*")  # other tests have compiled it with other settings
    directory = Path(shutil.copytree(tiny / "training", tmp_path / "data", ignore=own))
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
    assert f"{store_in(data)} is damaged" in caplog.text and "Compiling the corpus again" in caplog.text
    caplog.clear()
    assert same(load_pairs(data), whole) and not caplog.text


@pytest.fixture
def no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("it was compiled")

    monkeypatch.setattr(store_module, "compile_pairs", refuse)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Names of the files that this process opens."""
    names: list[str] = []
    listeners.append(names)
    yield names
    listeners.remove(names)


listeners: list[list[str]] = []


def heard(event: str, arguments: Any) -> None:
    if event == "open":
        for names in listeners:
            names.append(Path(str(arguments[0])).name)


sys.addaudithook(heard)


def age(*paths: Path, seconds: float = 60) -> None:
    for path in paths:
        os.utime(path, (time.time() - seconds,) * 2)


# --- what is in it ------------------------------------------------------------------------------


def test_texts_are_a_tuple_of_texts():
    texts = ["", "a", "ŝajne 😀", "\ud83d", ""]
    for there in (None, np.array([True, False, True, True, False])):
        found = Texts(*encoded(texts), there)
        expected = tuple(t if there is None or there[n] else None for n, t in enumerate(texts))
        assert found == expected and expected == found and [*found] == [*expected]
        assert [found[n] for n in range(-5, 5)] == [*expected, *expected]
        assert found[1:4] == expected[1:4] and found != expected[1:] and "nothing" not in found
        with pytest.raises(IndexError):
            found[5]


def test_arrays_are_narrow_mapped_and_cannot_be_written(data):
    pairs = load_pairs(data)
    assert (pairs.first.dtype, pairs.forest.tree_ptr.dtype) == (np.uint8, np.uint16)
    assert len(pairs.forest) == len({*zip(pairs.forest.root.tolist(), pairs.sentences, strict=True)})
    assert f"{store_in(data)}/child.npy" in Path("/proc/self/maps").read_text()
    for array in (pairs.first, pairs.similarity, pairs.forest.child):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with np.errstate(over="raise"):
        assert pairs.forest.tree_heights.max() + 300 > 300
    assert torch.from_numpy(pairs.label[np.arange(len(pairs))]).sum() == 24


def test_pairs_without_similarities_take_no_memory_for_them(data):
    for path in data.glob("*.jsonl"):
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
        path.write_text("".join(json.dumps(r | {"similarity": None}) + "\n" for r in records))
    pairs = load_pairs(data)
    assert not len(np.load(store_in(data) / "similarity.npy"))
    for some in (pairs, pairs[np.arange(9)], pairs[np.arange(0)]):
        assert len(some.similarity) == len(some) and np.isnan(some.similarity).all()
        assert some.similarity.strides == (0,)
    assert not pairs.has_grades


# --- damage -------------------------------------------------------------------------------------


def unharmed(data: Path) -> Pairs:
    """Its pairs, mapped from a copy: to cut a file that is mapped here would end this process."""
    return load_pairs(shutil.copytree(data, data.with_name("unharmed")))


def test_one_flipped_bit_anywhere_is_noticed(data, caplog):
    whole, draw = unharmed(data), random.Random(0)
    for path in sorted(store_in(data).iterdir()):
        for _ in range(1 if path.suffix == ".npy" else 15):
            raw = bytearray(path.read_bytes())
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            path.write_bytes(raw)
            assert_compiled_again(data, whole, caplog)


@pytest.mark.parametrize("name", ["manifest.json", "child.npy", "place.npy", "sentences.npy"])
def test_a_cut_or_lengthened_file_is_noticed(data, caplog, name):
    whole, path = unharmed(data), store_in(data) / name
    raw = path.read_bytes()
    for content in (b"", raw[:1], raw[:127], raw[:-1], raw + b"\0" * 8):
        path.write_bytes(content)
        assert_compiled_again(data, whole, caplog)
    path.unlink()
    assert same(load_pairs(data), whole)


def put(name: str, place: int | slice, value: Any) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        wide = np.int64 if arrays[name].dtype.kind == "u" else arrays[name].dtype
        arrays[name] = arrays[name].astype(wide)
        arrays[name][place] = value
        if wide == np.int64:
            arrays[name] = arrays[name].view(np.uint64)

    return change


def resized(name: str, end: int) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = np.resize(arrays[name], len(arrays[name]) + end)

    return change


def texts(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Arrays], None]:
    def changed(arrays: Arrays) -> None:
        now = change([*Texts(arrays[name], arrays[f"{name}_ptr"])])
        arrays[name], arrays[f"{name}_ptr"] = encoded(now)

    return changed


def child_of_a_tree_left_out(arrays: Arrays) -> None:
    """The first tree no longer lists its first subtree, which others of its subtrees need."""
    arrays["tree_subtrees"] = arrays["tree_subtrees"][1:]
    arrays["tree_ptr"][1:] -= 1


def other_rows(arrays: Arrays) -> None:
    """Rows of children of other lengths, still ascending to the right end."""
    ptr = arrays["child_ptr"]
    ptr[:] = np.sort(np.random.default_rng(0).integers(0, ptr[-1], len(ptr), endpoint=True))
    ptr[0], ptr[-1] = 0, len(arrays["child"])


HUGE = 2**62
INDICES = ["symbol", "child", "root", "tree_subtrees", "bag", "first", "second", "height", "file"]
POINTERS = ["symbol_ptr", "child_ptr", "tree_ptr", "bag_ptr", "symbols_ptr", "sentences_ptr"]
COLUMNS = ["first", "second", "label", "similarity", "file", "line"]
OUTSIDE = {
    **{f"{name} {value}": put(name, 3, value) for name in INDICES for value in (-1, HUGE)},
    **{f"{name} {value}": put(name, -2, value) for name in POINTERS for value in (-1, HUGE)},
    **{f"{name} begins at 1": put(name, 0, 1) for name in POINTERS},
    **{f"{name} ends at 10**9": put(name, -1, 10**9) for name in POINTERS},
    **{f"{n} {by:+}": resized(n, by) for n in [*POINTERS, *COLUMNS, "root"] for by in (-1, 1)},
    **{f"{n} {by:+}": resized(n, by) for n in ("symbol", "child", "tree_subtrees") for by in (-1, 1)},
    **{f"{n} {by:+}": resized(n, by) for n in ("tree_nodes", "tree_digest") for by in (-1, 1)},
    "a label of 2": put("label", 0, 2),
    "a label of -2": put("label", 0, -2),
    "no pairs": lambda arrays: arrays.update({name: arrays[name][:0] for name in COLUMNS}),
    "nothing": lambda arrays: arrays.update({name: arrays[name][:0] for name in arrays}),
    "heights": lambda arrays: arrays.update(height=np.sort(arrays["height"] + 1)),
    "rows": other_rows,
    "a child of its own": lambda arrays: put("child", -1, len(arrays["height"]) - 1)(arrays),
    "symbols missing": texts("symbols", lambda found: found[1:]),
    "sentences missing": texts("sentences", lambda found: found[1:]),
    "has_sentence -1": resized("has_sentence", -1),
}
SENSELESS = {
    "a label that its file does not say": put("label", 0, -1),
    "one label": put("label", slice(None), 1),
    "an infinite similarity": put("similarity", 0, np.inf),
    "line 0": put("line", 0, 0),
    "nodes": put("tree_nodes", 0, HUGE),
    "a child left out": child_of_a_tree_left_out,
    "symbols not sorted": texts("symbols", lambda found: found[::-1]),
    "a symbol twice": texts("symbols", lambda found: [found[1], *found[1:]]),
    "a sentence that is no text": put("sentences", slice(3), 0xFF),
}


@pytest.mark.parametrize("believed", [False, True])
def test_senseless_content_under_right_digests_is_refused_by_name(data, caplog, believed):
    """What leads out of an array, even if the manifest lies that all was looked through before."""
    whole, faults = unharmed(data), OUTSIDE if believed else SENSELESS
    for fault, change in faults.items():
        print(fault)
        arrays = taken_apart(store_in(data))
        change(arrays)
        put_together(store_in(data), arrays, believed)
        assert_compiled_again(data, whole, caplog)


class Bomb:
    """Unpickled, it makes a file."""

    def __reduce__(self) -> Any:
        return os.system, ("touch unpickled",)


@pytest.mark.parametrize("believed", [False, True])
@pytest.mark.parametrize(
    "odd", [np.float32, np.int32, ">u2", "<U4", "left out", "in rows", "objects", "link", "pipe"]
)
def test_arrays_of_other_types_or_shapes_are_refused(data, caplog, odd, believed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    whole, store = unharmed(data), store_in(data)
    path, child = store / "child.npy", np.load(store / "child.npy")
    if odd == "link":
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    elif odd == "pipe":
        path.unlink()
        os.mkfifo(path)
        assert same(load_pairs(data), whole) and "it is a named pipe" in caplog.text
        return
    elif odd == "objects":
        np.save(path, np.array([Bomb()] * len(child)), allow_pickle=True)
        manifest = json.loads((store / "manifest.json").read_bytes())
        manifest["arrays"]["child"] |= {"dtype": "|O", "mtime_ns": None}
        write_manifest(store, manifest)
    elif odd == "left out":
        manifest = json.loads((store / "manifest.json").read_bytes())
        del manifest["arrays"]["child"]
        write_manifest(store, manifest)
    else:
        np.save(path, child[:, None] if odd == "in rows" else child.astype(odd))
        seal(store, believed)
    assert_compiled_again(data, whole, caplog)
    assert not (tmp_path / "unpickled").exists()


def test_a_manifest_that_lies_is_refused(data, caplog):
    whole = unharmed(data)
    lies: list[Any] = [{"length": n} for n in (-1, 0, 10**9, 2**62, 2**63, 10**30, 1.5, None)]
    lies += [{"dtype": kind} for kind in ("|u1", "<u8", "|O", "<i8", "<V2", 3)]
    for lie in lies:
        store = store_in(data)
        manifest = json.loads((store / "manifest.json").read_bytes())
        manifest["arrays"]["child"] |= lie
        write_manifest(store, manifest)
        assert_compiled_again(data, whole, caplog)
    deep = b'{"more": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    for text in (b"", b"null", b"[1]", b"{", b"[" * 200_000, deep, b'{"inputs": {}, "arrays": {}}'):
        (store_in(data) / "manifest.json").write_bytes(text)
        assert_compiled_again(data, whole, caplog)


@pytest.mark.parametrize("start", [b"\x93NUMPY\x02\0", b"\x93NUMPX\x01\0", b"\0" * 8, b"PK\x03\x04"])
def test_another_header_is_refused(data, caplog, start):
    whole, path = unharmed(data), store_in(data) / "child.npy"
    raw = path.read_bytes()
    wide = b"{'descr': '<u2', 'fortran_order': False, 'shape': (9999999999,), }"
    for content in (start + raw[8:], raw[:10] + wide.ljust(117) + b"\n" + raw[128:]):
        path.write_bytes(content)
        manifest = json.loads((path.parent / "manifest.json").read_bytes())
        found = path.stat()
        manifest["arrays"]["child"] |= {"mtime_ns": found.st_mtime_ns - 0, "inode": found.st_ino}
        write_manifest(path.parent, manifest)
        assert_compiled_again(data, whole, caplog)
        path = store_in(data) / "child.npy"


# --- whose files they are -----------------------------------------------------------------------


def test_settled_files_are_not_read_and_changed_ones_are_compiled(data, opened, monkeypatch):
    inputs = sorted(data.glob("*.jsonl"))
    age(*inputs)
    whole = load_pairs(data)  # their times are others now
    opened.clear()
    assert same(load_pairs(data), whole)
    assert not {path.name for path in inputs} & {*opened} and "child.npy" in opened
    raw = inputs[0].read_bytes()
    inputs[0].write_bytes(raw.replace(b"sentence", b"sentenco", 2))
    assert not same(load_pairs(data), whole)
    assert load_pairs(data).fingerprint != whole.fingerprint
    inputs[0].write_bytes(raw)
    assert same(load_pairs(data), whole) and load_pairs(data).fingerprint == whole.fingerprint


def test_a_file_that_has_just_changed_is_never_trusted(data):
    path = data / "positive_pairs.jsonl"
    path.write_bytes(path.read_bytes())
    whole, found = load_pairs(data), path.stat()
    with path.open("rb+") as file:  # same size, inode and time
        file.write(path.read_bytes().replace(b"sentence", b"sentenco"))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_mtime_ns == found.st_mtime_ns
    assert load_pairs(data).fingerprint != whole.fingerprint and not same(load_pairs(data), whole)


def test_copied_data_are_digested_once_and_not_compiled(data, tmp_path, opened, no_compiling):
    whole = load_pairs(data)
    copy = Path(shutil.copytree(data, tmp_path / "copy"))  # keeps the times, but not the inodes
    age(*copy.iterdir(), *store_in(copy).iterdir())
    opened.clear()
    assert same(load_pairs(copy), whole)
    assert {"positive_pairs.jsonl", "child.npy"} <= {*opened}
    opened.clear()
    assert same(load_pairs(copy), whole) and "positive_pairs.jsonl" not in opened
    assert opened.count("child.npy") == 2  # heard twice at each opening


def test_corpora_of_other_settings_stay_until_the_files_change(data, monkeypatch):
    ways: list[Any] = [{}, {"child_order": True}, {"ignored_keys": ("nombro",)}]
    found = [load_pairs(data, **way) for way in ways]
    assert len([*data.glob(".forest-*")]) == 3
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "compile_pairs", None)
        for way, pairs in zip(ways, found, strict=True):
            assert same(load_pairs(data, **way), pairs)
    path = data / "positive_pairs.jsonl"
    before = found[1].sentences[0]
    path.write_bytes(b"\n" + path.read_bytes())
    load_pairs(data)
    assert len([*data.glob(".forest-*")]) == 1
    assert found[1].sentences[0] == before and found[1].forest.graph(0).num_nodes  # still mapped


def test_what_earlier_versions_compiled_is_removed_in_silence(data, caplog):
    whole = load_pairs(data)
    shutil.rmtree(store_in(data))
    for name in (".forest.bin", "..forest.bin.0123456789abcdef.tmp"):
        (data / name).write_bytes(b"treelstm forest\n")
    assert same(load_pairs(data), whole)
    assert not caplog.text and [*data.glob(".*")] == [store_in(data)]


# --- disks and other processes ------------------------------------------------------------------


def test_a_store_that_is_a_file_or_cannot_be_read_is_named(data, caplog, monkeypatch):
    whole, store = load_pairs(data), store_in(data)
    shutil.rmtree(store)
    store.write_bytes(b"")
    assert same(load_pairs(data), whole) and store.is_dir()
    (store / "manifest.json").unlink()
    os.mkfifo(store / "manifest.json")
    assert same(load_pairs(data), whole)
    assert f"{store} cannot be read (it is a named pipe" in caplog.text
    real_open = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith("child.npy"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real_open(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(OSError, match="Input/output error"):  # of the new one, too
            load_pairs(data)
    assert f"{store} cannot be read (Input/output error" in caplog.text


def test_a_disk_that_cannot_map_files_is_read(data, monkeypatch, no_compiling):
    whole = load_pairs(data)

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(store_module.mmap, "mmap", refuse)
    assert same(load_pairs(data), whole)


FORKS = """
import os, signal, sys
from pathlib import Path
import treelstm
from treelstm import load_pairs
data, places = Path(sys.argv[1]), [*map(int, sys.argv[2:])]
path = data / "positive_pairs.jsonl"
raw, left = path.read_bytes(), 0

def heard(event, arguments):
    "Kills this process at the given call that changes what is in a directory, or a file's times."
    global left
    made = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
    made = made or event in ("os.mkdir", "os.rename", "os.utime")
    if left and made and ".forest-" in str(arguments[:1]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def child(place):
    global left
    process = os.fork()
    if not process:
        left = place
        load_pairs(data)
        os._exit(0)
    return process

sys.addaudithook(heard)
for number, place in enumerate(places):
    path.write_bytes(raw + b"\\n" * (number + 1))  # what is compiled is outdated
    print(os.waitpid(child(place), 0)[1], end=" ")
    assert load_pairs(data).content_digest
    print(len([*data.glob(".*")]))
path.write_bytes(raw)
print(*(os.waitpid(each, 0)[1] for each in [child(0) for _ in range(4)]))
"""


def test_compiles_that_are_killed_or_run_at_once_leave_one_whole_store(data, caplog):
    whole = load_pairs(data)
    places = [1, 2, 10, 25, 26, 40, 49, 50, 51, 52, 53, 54, 99]
    no_threads = "-Wignore:This process:DeprecationWarning"  # from Python 3.12 on, fork() says that
    words = [sys.executable, no_threads, "-c", FORKS, str(data), *map(str, places)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    *killed, at_once = done.stdout.splitlines()
    assert (at_once, done.stderr) == ("0 0 0 0", "")
    assert {*killed[:-3]} == {"9 1"} and {*killed} == {"9 1", "0 1"}
    assert same(load_pairs(data), whole) and [*data.glob(".*")] == [store_in(data)] and not caplog.text


def test_leftovers_go_unless_they_are_being_written(data):
    here = store_module._temporary_name(store_in(data))
    elsewhere = ".forest-0123456789abcdef.0123456789abcdef"
    names = [here.name, f"{elsewhere}.{'1' * 16}.tmp", f"{elsewhere}.{'2' * 16}.tmp", ".forest-x.tmp"]
    for name in names:
        (data / name).mkdir()
        (data / name / "child.npy").touch()
    age(data / names[2], seconds=90_000)
    descriptor = os.open(data / names[0], os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    load_pairs(data)
    assert {path.name for path in data.glob(".*.tmp")} == {names[0], names[1], names[3]}
    os.close(descriptor)
    load_pairs(data)
    assert {path.name for path in data.glob(".*.tmp")} == {names[1], names[3]}


def test_the_store_in_read_only_data_is_used(data, no_compiling):
    whole = load_pairs(data)
    for path in (*store_in(data).iterdir(), store_in(data), data):
        path.chmod(0o555)
    assert same(load_pairs(data), whole)


def test_without_a_home_directory_it_works_without_a_cache_and_says_so_once(data, caplog, monkeypatch):
    whole = load_pairs(data)
    shutil.rmtree(store_in(data))
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
    shutil.rmtree(store_in(data))
    data.chmod(0o555)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(store_module.tempfile, "tempdir", str(tmp_path))
    for _ in range(3):
        assert same(load_pairs(data), whole)
    assert caplog.text.count("could not be cached") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"data", "file"}  # the temporary one is gone


def test_a_full_disk_leads_to_another_place_and_no_room_anywhere_is_named(
    data, caplog, monkeypatch, tmp_path
):
    whole, compiling = load_pairs(data), store_module.compile_pairs
    shutil.rmtree(store_in(data))
    full = [data, tmp_path / "cache", tmp_path / "tmp"]
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store_module.tempfile, "tempdir", str(tmp_path / "tmp"))

    def refuse(paths: Any, settings: Any, into: Path, workers: Any) -> None:
        compiling(paths, settings, into, workers)
        if any(place in into.parents for place in full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(into / "child.npy"))

    monkeypatch.setattr(store_module, "compile_pairs", refuse)
    with pytest.raises(OSError, match=r"No space left on device.*\. Make room, or set TMPDIR"):
        load_pairs(data)
    full.pop()
    assert same(load_pairs(data), whole) and "could not be cached" in caplog.text
    full.pop()
    assert same(load_pairs(data), whole) and len([*tmp_path.glob("cache/treelstm/*/.forest-*")]) == 1
    assert not [*data.glob(".*")] and not [*(tmp_path / "tmp").iterdir()]
