"""The compiled corpus: forest and pairs as flat arrays in one file beside the data.

It is used while the bytes of the pair files and the ignored keys are those it was compiled from.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import stat
import zipfile
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from treelstm.data.pairs import PAIR_ARRAYS, Pairs
from treelstm.files import write_whole
from treelstm.trees.forest import Forest

log = logging.getLogger("treelstm")

_FORMAT = 2  # increased whenever the arrays of a compiled corpus change
_FOREST_ARRAYS = [column.name for column in fields(Forest) if column.type == "Array"]


def store_key(fingerprint: dict[str, str], ignored_keys: tuple[str, ...]) -> str:
    """Names what a compiled corpus was made from: equal keys, equal corpora."""
    return json.dumps([_FORMAT, fingerprint, sorted(ignored_keys)], sort_keys=True)


def _store_path(directory: Path) -> Path:
    """In the data directory, or in the user's cache directory if the data directory is read-only."""
    if directory.stat().st_mode & stat.S_IWUSR and os.access(directory, os.W_OK):
        return directory / ".forest.npz"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    return home / "treelstm" / f"forest-{name}.npz"


def write_store(directory: Path, key: str, pairs: Pairs) -> None:
    """Writes the compiled corpus; if the disk refuses, that is only logged."""
    path, buffer = _store_path(directory), io.BytesIO()
    texts = json.dumps({"key": key, "symbols": pairs.forest.symbols, "sentences": pairs.sentences})
    np.savez(
        buffer,
        allow_pickle=False,
        texts=np.frombuffer(texts.encode(), np.uint8),
        **{name: getattr(pairs.forest, name) for name in _FOREST_ARRAYS},
        **{name: getattr(pairs, name) for name in PAIR_ARRAYS},
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getbuffer())
    except OSError as error:
        log.warning("The compiled corpus could not be cached; the next start compiles again: %s", error)


def read_store(directory: Path, key: str, source: dict[str, Any]) -> Pairs | None:
    """The compiled corpus of this key, or None if there is none; `source` holds its other fields."""
    path = _store_path(directory)
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            texts = json.loads(arrays["texts"].tobytes())
            if texts["key"] != key:
                return None
            flat = {name: arrays[name] for name in _FOREST_ARRAYS}
            columns = {name: arrays[name] for name in PAIR_ARRAYS}
            forest, sentences = Forest(tuple(texts["symbols"]), **flat), tuple(texts["sentences"])
            return Pairs(forest, **columns, sentences=sentences, **source)
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s). Compiling the corpus again.", path, error)
        return None
