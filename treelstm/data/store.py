"""The compiled corpus: forest and pairs as flat arrays in one file beside the data.

It is used while the bytes of the pair files, the ignored keys and child_order are those it was compiled
from. The file: 16 bytes that name it, the SHA-256 of all that follows, the length of the header, the
header (JSON: key, texts and the lengths of the arrays), the arrays. Nothing in it is believed: what does
not match its digest, or whose arrays do not fit each other, is compiled again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from treelstm.data.pairs import PAIR_ARRAYS, Pairs
from treelstm.data.reading import parse
from treelstm.files import clear_leftovers, open_file, write_whole
from treelstm.trees.forest import Array, Forest

log = logging.getLogger("treelstm")

_FORMAT = 5  # increased whenever the content of a compiled corpus changes
_NAME = b"treelstm corpus\n"
_HEADER = len(_NAME) + 32 + 8  # where the header begins
_FOREST_ARRAYS = [column.name for column in fields(Forest) if column.type == "Array"]
_DTYPES = {"similarity": "<f8", "tree_digest": "S32"}  # all others: <i8
_LEFTOVER_SECONDS = 3600.0  # what another process is writing now is younger


def _key(fingerprint: dict[str, str], ignored_keys: tuple[str, ...], child_order: bool) -> str:
    """Names what a compiled corpus was made from: equal keys, equal corpora."""
    return json.dumps([_FORMAT, fingerprint, sorted(ignored_keys), child_order], sort_keys=True)


def _store_path(directory: Path) -> Path | None:
    """In the data directory, or in the user's cache directory if the data directory is read-only.

    None if this user has no home directory.
    """
    if directory.stat().st_mode & stat.S_IWUSR and os.access(directory, os.W_OK):
        return directory / ".forest.bin"
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    return home / "treelstm" / f"forest-{name}.bin"


@cache
def _warn_once(text: str) -> None:
    log.warning("The compiled corpus could not be cached; each start compiles again: %s", text)


def write_store(directory: Path, pairs: Pairs) -> None:
    """Writes the compiled corpus; if the disk refuses, that is only logged."""
    try:
        path = _store_path(directory)
        if path is None:
            return _warn_once(f"{directory} is read-only, and there is no home directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent, path.name.__eq__, _LEFTOVER_SECONDS)
        write_whole(path, *_packed(pairs))
        path.with_suffix(".npz").unlink(missing_ok=True)  # the corpus as earlier versions compiled it
    except OSError as error:
        _warn_once(str(error))


def _packed(pairs: Pairs) -> list[bytes | memoryview]:
    forest = pairs.forest
    arrays = {name: getattr(forest, name) for name in _FOREST_ARRAYS}
    arrays |= {name: getattr(pairs, name) for name in PAIR_ARRAYS}
    about = {
        "key": _key(pairs.fingerprint, pairs.ignored_keys, pairs.child_order),
        "symbols": forest.symbols,
        "sentences": pairs.sentences,
        "lengths": {name: len(array) for name, array in arrays.items()},
    }
    header = json.dumps(about, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # so that numbers lie where processors like them
    parts: list[bytes | memoryview] = [len(header).to_bytes(8, "little"), header]
    for name, array in arrays.items():
        parts.append(array.astype(_DTYPES.get(name, "<i8"), order="C").view(np.uint8).data)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return [_NAME, digest.digest(), *parts]


def read_store(directory: Path, source: dict[str, Any]) -> Pairs | None:
    """The compiled corpus, or None if there is none; `source`: the fields of the pairs that it lacks."""
    try:
        path = _store_path(directory)
        if path is None:
            return None
        with open_file(path) as file:
            size, free = os.fstat(file.fileno()).st_size, psutil.virtual_memory().available
            if size > free:
                raise ValueError(f"it has {size:,} bytes, of memory {free:,} are free")
            data = file.readall()
        return _unpacked(data, source)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s cannot be read (%s). Compiling the corpus again.", path, error.strerror)
    except ValueError as error:
        log.warning("%s is damaged (%s). Compiling the corpus again.", path, error)
    return None


def _unpacked(data: bytes, source: dict[str, Any]) -> Pairs | None:
    """Raises ValueError if the bytes are not a whole and sensible corpus; None if it is another one."""
    view = memoryview(data)
    if not data.startswith(_NAME):
        raise ValueError("it is not a compiled corpus")
    if hashlib.sha256(view[len(_NAME) + 32 :]).digest() != view[len(_NAME) : len(_NAME) + 32]:
        raise ValueError("its bytes do not match their SHA-256")
    start = _HEADER + int.from_bytes(view[_HEADER - 8 : _HEADER], "little")
    about = parse(bytes(view[_HEADER:start]))
    if not isinstance(about, dict) or not isinstance(about.get("key"), str):
        raise ValueError("its header has no key")
    if about["key"] != _key(*(source[name] for name in ("fingerprint", "ignored_keys", "child_order"))):
        return None
    symbols = _texts(about.get("symbols"), {str})
    sentences = _texts(about.get("sentences"), {str, type(None)})
    arrays = dict(_arrays(view[start:], about.get("lengths")))
    forest = Forest(symbols, **{name: arrays[name] for name in _FOREST_ARRAYS})
    columns: dict[str, Any] = {name: arrays[name].copy() for name in PAIR_ARRAYS}  # writable, for torch
    pairs = Pairs(forest, **columns, sentences=sentences, **source)
    pairs.check()
    return pairs


def _texts(found: Any, kinds: set[type]) -> tuple[Any, ...]:
    if not isinstance(found, list) or not {type(text) for text in found} <= kinds:
        raise ValueError("symbols or sentences are not texts")
    return tuple(found)


def _arrays(view: memoryview, lengths: Any) -> Iterator[tuple[str, Array]]:
    """Arrays that lie in the bytes themselves, so that no length can ask for memory."""
    names = [*_FOREST_ARRAYS, *PAIR_ARRAYS]
    if not isinstance(lengths, dict) or list(lengths) != names:
        raise ValueError(f"its header does not have the lengths of {', '.join(names)}")
    place = 0
    for name, length in lengths.items():
        dtype = np.dtype(_DTYPES.get(name, "<i8"))
        if type(length) is not int or not 0 <= length <= (len(view) - place) // dtype.itemsize:
            raise ValueError(f"{name} does not end inside the file")
        yield name, np.frombuffer(view, dtype, length, place)
        place += length * dtype.itemsize
    if place != len(view):
        raise ValueError(f"{len(view) - place} bytes follow the last array")
