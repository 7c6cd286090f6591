"""The compiled corpus: a directory of memory-mapped arrays beside the data.

`.forest-<key>`, whose key names the format, the input files and the settings that trees depend on, holds
an array in each `.npy` file, and `manifest.json`: size, time, inode and SHA-256 of the inputs and of its
own files. While the first three are as they were, no file is read to tell that it is the same; where
they are not, its digest decides. Nothing in it is believed: numbers that would lead out of an array, and
whatever else does not fit, have it compiled again. A directory gets its name when it is whole. Files are
never changed, only removed, so that a process which has mapped them keeps them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import asdict, replace

from treelstm.config import EncoderSettings
from treelstm.data.compiling import compile_pairs
from treelstm.data.pairs import PAIR_ARRAYS, Pairs
from treelstm.data.problems import DataError, unreachable
from treelstm.data.reading import digest_of
from treelstm.files import (
    WriteFailed,
    directory_fsync_works,
    is_there,
    listed,
    open_file,
    write_whole,
)
from treelstm.trees.arrays import Array, npy_header
from treelstm.trees.forest import Forest
from treelstm.trees.texts import Texts

log = logging.getLogger("treelstm")

_FORMAT = 7  # increased whenever the content of a compiled corpus changes
_MANIFEST = "manifest.json"
_FOREST_ARRAYS = [column.name for column in fields(Forest) if column.type == "Array"]
_TEXTS = ["symbols", "symbols_ptr", "sentences", "sentences_ptr", "has_sentence"]
_ARRAYS = [*_FOREST_ARRAYS, *PAIR_ARRAYS, *_TEXTS]
_NUMBERS = {"|u1", "<u2", "<u4", "<u8"}  # the types of all arrays but these
_TYPES = {"label": {"|i1"}, "similarity": {"<f8"}, "tree_digest": {"|S32"}, "has_sentence": {"|b1"}}
_TYPES |= {"symbols": {"|u1"}, "sentences": {"|u1"}}
_SETTLED_NS = 2 * 10**9  # a file may change twice in so short a time, and its time but once
_DAY = 86_400.0  # seconds: what another machine left is that old
_LARGEST = 2**26  # bytes of a manifest
_STORE = re.compile(r"\.forest-[0-9a-f]{16}")
_TEMPORARY = re.compile(rf"{_STORE.pattern}\.([0-9a-f]{{16}})\.[0-9a-f]{{16}}\.tmp")  # 1: host


class _File(msgspec.Struct, frozen=True):
    """What tells that a file is the same one."""

    size: int
    mtime_ns: int | None  # None: it had just changed
    inode: int
    sha256: str


class _ArrayFile(_File, frozen=True):
    dtype: str
    length: int


class _Manifest(msgspec.Struct, frozen=True):
    inputs: dict[str, _File]
    arrays: dict[str, _ArrayFile]
    sha256: str = ""  # of itself without this

    def sealed(self) -> _Manifest:
        blank = msgspec.json.encode(replace(self, sha256=""))
        return replace(self, sha256=hashlib.sha256(blank).hexdigest())


def _digests(files: dict[str, _File]) -> dict[str, str]:
    return {name: each.sha256 for name, each in files.items()}


def _now(path: Path, known: _File | None = None) -> _File:
    """The state of a file; its digest is computed only if the rest is not as it is `known`."""
    found, when = path.stat(), time.time_ns()
    is_old = found.st_mtime_ns < when - _SETTLED_NS
    state = found.st_size, found.st_mtime_ns if is_old else None, found.st_ino
    if known is not None and is_old and state == (known.size, known.mtime_ns, known.inode):
        return known
    return _File(*state, digest_of(path))


def _inputs_now(paths: Iterable[Path], known: dict[str, _File]) -> dict[str, _File]:
    found = dict[str, _File]()
    for path in paths:
        try:
            found[path.name] = _now(path, known.get(path.name))
        except OSError as error:
            raise unreachable(path, error) from error
    return found


def _name(paths: tuple[Path, ...], of: EncoderSettings | Pairs) -> str:
    key = [_FORMAT, [path.name for path in paths], sorted(of.ignored_keys), of.child_order]
    return f".forest-{_short(json.dumps(key).encode())}"


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _places(directory: Path) -> Iterator[Path]:
    """Where compiled corpora of a directory may be: in it, or in the user's cache directory."""
    yield directory
    with suppress(RuntimeError):  # there is no home directory
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        yield home / "treelstm" / f"forest-{_short(os.fsencode(directory.resolve()))}"


def open_store(paths: tuple[Path, ...], settings: EncoderSettings) -> Pairs | None:
    """The compiled corpus of these files, or None if there is none that can be used.

    Raises:
        DataError: a file cannot be read.
    """
    for place in _places(paths[0].parent):
        with suppress(OSError):  # it may be read-only
            _clear_leftovers(place)
        if (pairs := _opened(place / _name(paths, settings), paths, settings)) is not None:
            return pairs
    return None


def _opened(store: Path, paths: tuple[Path, ...], settings: EncoderSettings) -> Pairs | None:
    try:
        if not is_there(store / _MANIFEST):
            return None
        known = _read_manifest(store)
        inputs = _inputs_now(paths, known.inputs)
        if _digests(inputs) != _digests(known.inputs):
            return None
        pairs, now = _mapped(store, replace(known, inputs=inputs), paths, settings)
        if now != known:
            with suppress(OSError):  # read-only: the digests are computed again next time
                _write_manifest(store, now)
        return pairs
    except DataError:
        raise
    except OSError as error:
        log.warning("%s cannot be read (%s). Compiling the corpus again.", store, error.strerror)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        log.warning("%s is damaged (%s). Compiling the corpus again.", store, error)
    return None


def _read_manifest(store: Path) -> _Manifest:
    with open_file(store / _MANIFEST) as file:
        manifest = msgspec.json.decode(file.read(_LARGEST), type=_Manifest)
    if manifest != manifest.sealed():
        raise ValueError(f"{_MANIFEST} does not match its SHA-256")
    return manifest


def _write_manifest(store: Path, manifest: _Manifest) -> None:
    write_whole(store / _MANIFEST, msgspec.json.encode(manifest))


def _mapped(
    store: Path, known: _Manifest, paths: tuple[Path, ...], settings: EncoderSettings
) -> tuple[Pairs, _Manifest]:
    """The pairs in these files, and what the files are now; looks closer where they are not as `known`.

    Raises:
        ValueError: a file is not the array that is known, or the arrays do not fit each other.
    """
    if lacking := {*_ARRAYS} - known.arrays.keys():
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    arrays, now = dict[str, Array](), dict[str, _ArrayFile]()
    for name in _ARRAYS:
        arrays[name], now[name] = _array(store / f"{name}.npy", known.arrays[name])
    if not len(arrays["similarity"]):  # no pair has one
        arrays["similarity"] = np.broadcast_to(np.float64(np.nan), arrays["label"].shape)
    pairs = Pairs(
        Forest(
            Texts(arrays["symbols"], arrays["symbols_ptr"]),
            **{name: arrays[name] for name in _FOREST_ARRAYS},
        ),
        **{name: arrays[name] for name in PAIR_ARRAYS},
        sentences=Texts(arrays["sentences"], arrays["sentences_ptr"], arrays["has_sentence"]),
        paths=paths,
        fingerprint=_digests(known.inputs),
        ignored_keys=settings.ignored_keys,
        child_order=settings.child_order,
    )
    pairs.check(thorough=any(now[name] is not known.arrays[name] for name in _ARRAYS))
    return pairs, replace(known, arrays=now).sealed()


def _array(path: Path, known: _ArrayFile) -> tuple[Array, _ArrayFile]:
    """The array in a file, which must begin with the very header that numpy writes for it."""
    if known.dtype not in _TYPES.get(path.stem, _NUMBERS) or known.length < 0:
        raise ValueError(f"{path.name} would be of type {known.dtype} and length {known.length}")
    if path.is_symlink():
        raise ValueError(f"{path.name} is a link")
    now = _now(path, known)
    if now.sha256 != known.sha256:
        raise ValueError(f"{path.name} does not match its SHA-256")
    type_ = np.dtype(known.dtype)
    header = npy_header(type_, known.length)
    begin = len(header)
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size != begin + known.length * type_.itemsize or file.read(begin) != header:
            raise ValueError(f"{path.name} does not hold {known.length:,} values of type {type_}")
        data: mmap.mmap | bytes
        try:
            data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError:  # some disks cannot map files
            data = header + file.readall()
    array: Array = np.ndarray(known.length, type_, data, begin)
    if type_ == np.uint64:  # beside int64, numpy would make floating-point numbers of it
        array = array.view(np.int64)
    if now is not known:
        now = _ArrayFile(**asdict(now), dtype=known.dtype, length=known.length)
    return array, now


def make_store(paths: tuple[Path, ...], settings: EncoderSettings) -> Pairs:
    """Compiles these files, and keeps the compiled corpus where there is room for it.

    Raises:
        DataError: the files cannot be used.
        WriteFailed: there is no room for it, not even in a temporary directory.
    """
    directory, mode = paths[0].parent, paths[0].parent.stat().st_mode
    refused = f"{directory} is read-only, and there is no home directory"
    for place in _places(directory):
        if place == directory and not (mode & stat.S_IWUSR and os.access(directory, os.W_OK)):
            continue
        try:
            return _made(place, paths, settings)
        except OSError as error:
            refused = str(error)
    _warn_once(refused)
    try:
        with tempfile.TemporaryDirectory(prefix="treelstm-") as name:
            return _made(Path(name), paths, settings)
    except OSError as error:
        found = f"{refused}. Nor is there room in {tempfile.gettempdir()} ({error})"
        remedy = "Make room, or set TMPDIR to a directory on another disk"
        raise WriteFailed(error.errno or errno.ENOSPC, f"{found}. {remedy}") from error


@cache
def _warn_once(text: str) -> None:
    log.warning("The compiled corpus could not be cached; each start compiles again: %s", text)


def _made(place: Path, paths: tuple[Path, ...], settings: EncoderSettings) -> Pairs:
    place.mkdir(parents=True, exist_ok=True)
    store = place / _name(paths, settings)
    with _temporary(store) as into:
        inputs = _inputs_now(paths, {})
        compile_pairs(paths, settings, into, None)
        while _digests(now := _inputs_now(paths, inputs)) != _digests(inputs):
            inputs = now  # they have changed while they were read
            for path in into.iterdir():
                path.unlink()
            compile_pairs(paths, settings, into, None)
        files = [into / f"{name}.npy" for name in _ARRAYS]
        # Not in threads: numpy parses headers with `ast`, which fails there now and then in Python 3.11.
        made = (np.load(path, mmap_mode="r", allow_pickle=False) for path in files)
        kinds = [{"dtype": array.dtype.str, "length": len(array)} for array in made]
        with ThreadPoolExecutor(len(files)) as pool:  # the disk writes them at once, not in turn
            arrays = dict(zip(_ARRAYS, pool.map(_settled, files, kinds), strict=True))
        pairs, manifest = _mapped(into, _Manifest(now, arrays), paths, settings)
        _write_manifest(into, manifest)
        with suppress(FileNotFoundError):
            _remove(store)
        try:
            into.rename(store)
        except OSError as error:  # another process may just have put the same there
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        directory_fsync_works(place)
    with suppress(OSError):  # others may have made them
        _clear_outdated(place, _digests(now))
        if place != paths[0].parent:
            place.with_suffix(".bin").unlink(missing_ok=True)  # of earlier versions, as .forest.bin
    return pairs


def _settled(path: Path, kind: dict[str, Any]) -> _ArrayFile:
    """A new array, safe from a power cut, and from being changed without a change of its time."""
    earlier = time.time_ns() - 2 * _SETTLED_NS
    os.utime(path, ns=(earlier, earlier))
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _ArrayFile(**asdict(_now(path)), **kind)


def _temporary_name(store: Path) -> Path:
    return store.with_name(f"{store.name}.{_host()}.{os.urandom(8).hex()}.tmp")


def _host() -> str:
    return _short(os.fsencode(socket.gethostname()))


@contextmanager
def _temporary(store: Path) -> Iterator[Path]:
    """A new directory, locked while this process lives; it is gone, or has another name, in the end."""
    while True:
        path = _temporary_name(store)
        path.mkdir()
        descriptor = os.open(path, os.O_RDONLY)
        with suppress(OSError):  # some disks have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_there(path):
            break
        os.close(descriptor)  # before it was locked, another process took it for a leftover
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _clear_leftovers(place: Path) -> None:
    """Removes temporary directories of processes that were killed, here or, a day ago, elsewhere."""
    for path in listed(place, ".forest-*.tmp"):
        if (name := _TEMPORARY.fullmatch(path.name)) is None or path.is_symlink():
            continue
        is_old = time.time() - path.stat().st_mtime > _DAY
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_old or name[1] == _host():
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue  # it is being written
        finally:
            os.close(descriptor)


def _clear_outdated(place: Path, fingerprint: dict[str, str]) -> None:
    """Removes compiled corpora of other files than these, and of earlier versions."""
    for path in listed(place, ".forest-*"):
        if _STORE.fullmatch(path.name):
            known = None
            with suppress(OSError, ValueError, RecursionError, msgspec.MsgspecError):
                known = _digests(_read_manifest(path).inputs)
            if known != fingerprint:
                _remove(path)
    for path in (*listed(place, ".forest.bin"), *listed(place, "..forest.bin.*.tmp")):
        path.unlink()


def _remove(store: Path) -> None:
    """Takes its name first, so that no part of it is ever found there. Raises FileNotFoundError."""
    path = store.rename(_temporary_name(store))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def changed_files(pairs: Pairs) -> tuple[Path, list[Path]] | None:
    """The directory of a compiled corpus, and the files, of its own and of those that it was compiled
    from, whose bytes are others now; all are read. None: it is kept nowhere.
    """
    for place in _places(pairs.paths[0].parent):
        store = place / _name(pairs.paths, pairs)
        if is_there(store / _MANIFEST):
            manifest = _read_manifest(store)
            known = {path: manifest.inputs[path.name] for path in pairs.paths}
            known |= {store / f"{name}.npy": each for name, each in manifest.arrays.items()}
            return store, [path for path, each in known.items() if digest_of(path) != each.sha256]
    return None
