"""The compiled corpus: forest and pairs as flat arrays in one file beside the data.

It is used while the bytes of the pair files, the ignored keys and child_order are those it was compiled
from. The file: 16 bytes that name it, the SHA-256 of all that follows, then the arrays as safetensors,
of which `about` is JSON: key and texts. Nothing in it is believed: what does not match its digest, or
whose arrays do not fit each other, is compiled again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors import SafetensorError
from safetensors.numpy import load, save

from treelstm.data.pairs import PAIR_ARRAYS, Pairs
from treelstm.data.reading import parse
from treelstm.files import clear_leftovers, open_file, write_whole
from treelstm.trees.forest import Forest

log = logging.getLogger("treelstm")

_FORMAT = 6  # increased whenever the content of a compiled corpus changes
_EARLIER, _NAME = b"treelstm corpus\n", b"treelstm forest\n"
_BODY = len(_NAME) + 32  # where it begins
_FOREST_ARRAYS = [column.name for column in fields(Forest) if column.type == "Array"]
_DTYPES = {"similarity": np.float64, "tree_digest": np.uint8}  # all others: int64
_LEFTOVER_SECONDS = 3600.0  # what another process is writing now is younger


def _key(fingerprint: dict[str, str], ignored_keys: tuple[str, ...], child_order: bool) -> str:
    """Names what a compiled corpus was made from: equal keys, equal corpora."""
    return json.dumps([_FORMAT, fingerprint, sorted(ignored_keys), child_order], sort_keys=True)


def _store_path(directory: Path) -> Path:
    """In the data directory, or in the user's cache directory if the data directory is read-only."""
    if directory.stat().st_mode & stat.S_IWUSR and os.access(directory, os.W_OK):
        return directory / ".forest.bin"
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        text = f"{directory} is read-only, and there is no home directory"
        raise FileNotFoundError(text) from None
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    return home / "treelstm" / f"forest-{name}.bin"


@cache
def _warn_once(text: str) -> None:
    log.warning("The compiled corpus could not be cached; each start compiles again: %s", text)


def write_store(directory: Path, pairs: Pairs) -> None:
    """Writes the compiled corpus; if the disk refuses, that is only logged."""
    try:
        path = _store_path(directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent, path.name.__eq__, _LEFTOVER_SECONDS)
        write_whole(path, *_packed(pairs))
    except OSError as error:
        _warn_once(str(error))


def _packed(pairs: Pairs) -> list[bytes]:
    about = {
        "key": _key(pairs.fingerprint, pairs.ignored_keys, pairs.child_order),
        "symbols": pairs.forest.symbols,
        "sentences": pairs.sentences,
    }
    arrays = {name: getattr(pairs.forest, name) for name in _FOREST_ARRAYS}
    arrays |= {name: getattr(pairs, name) for name in PAIR_ARRAYS}
    arrays["tree_digest"] = arrays["tree_digest"].view(np.uint8)
    arrays["about"] = np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8)
    body = save(arrays)
    return [_NAME, hashlib.sha256(body).digest(), body]


def read_store(directory: Path, source: dict[str, Any]) -> Pairs | None:
    """The compiled corpus, or None if there is none; `source`: the fields of the pairs that it lacks."""
    try:
        path = _store_path(directory)
        with open_file(path) as file:
            size, free = os.fstat(file.fileno()).st_size, psutil.virtual_memory().available
            if 3 * size > free:  # the bytes, their copies, the arrays
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
    if data.startswith(_EARLIER):
        return None
    if not data.startswith(_NAME):
        raise ValueError("it is not a compiled corpus")
    body = memoryview(data)[_BODY:]
    if hashlib.sha256(body).digest() != data[len(_NAME) : _BODY]:
        raise ValueError("its bytes do not match their SHA-256")
    try:
        arrays = load(bytes(body))
        about = parse(arrays["about"].tobytes())
        found: dict[str, Any] = {name: arrays[name] for name in (*_FOREST_ARRAYS, *PAIR_ARRAYS)}
        key, symbols, sentences = (about[name] for name in ("key", "symbols", "sentences"))
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"it lacks something: {error}") from None
    if type(key) is not str:
        raise ValueError("it has no key")
    if key != _key(*(source[name] for name in ("fingerprint", "ignored_keys", "child_order"))):
        return None
    for name, array in found.items():
        if array.ndim != 1 or array.dtype != _DTYPES.get(name, np.int64):
            raise ValueError(f"{name} has the type {array.dtype} and the shape {array.shape}")
    found["tree_digest"] = found["tree_digest"].view("S32")
    for texts, kinds in ((symbols, {str}), (sentences, {str, type(None)})):
        if not isinstance(texts, list) or not {*map(type, texts)} <= kinds:
            raise ValueError("symbols or sentences are not texts")
    forest = Forest(tuple(symbols), **{name: found.pop(name) for name in _FOREST_ARRAYS})
    pairs = Pairs(forest, **found, sentences=tuple(sentences), **source)
    pairs.check()
    return pairs
