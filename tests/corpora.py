"""Compiled corpora taken apart and put together again, with digests that fit whatever they hold."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


def store_in(directory: Path) -> Path:
    """The only compiled corpus in a directory."""
    (found,) = directory.glob(".forest-*")
    return found


def taken_apart(store: Path) -> Arrays:
    return {path.stem: np.load(path) for path in store.glob("*.npy")}


def put_together(store: Path, arrays: Arrays, believed: bool = False) -> None:
    """Replaces the arrays, and seals what is there then; see `seal`."""
    for path in store.glob("*.npy"):
        path.unlink()
    for name, array in arrays.items():
        np.save(store / f"{name}.npy", array)
    seal(store, believed)


def seal(store: Path, believed: bool = False) -> None:
    """Makes the manifest say what the files of arrays are; `believed`: also their times, as if they had
    been found whole before, so that only what would lead out of an array is looked for.
    """
    manifest = json.loads((store / "manifest.json").read_bytes())
    for path in store.glob("*.npy"):
        if believed:
            os.utime(path, (1e9, 1e9))  # a file that has just changed is looked through
        raw, found, array = path.read_bytes(), path.stat(), np.load(path, allow_pickle=False)
        manifest["arrays"][path.stem] = {
            "size": len(raw),
            "mtime_ns": found.st_mtime_ns if believed else None,
            "inode": found.st_ino,
            "sha256": hashlib.sha256(raw).hexdigest(),
            "dtype": array.dtype.str,
            "length": len(array),
        }
    write_manifest(store, manifest)


def write_manifest(store: Path, manifest: Any) -> None:
    """With a digest that fits it."""
    blank = json.dumps(manifest | {"sha256": ""}, separators=(",", ":"), ensure_ascii=False)
    sha256 = hashlib.sha256(blank.encode()).hexdigest()
    (store / "manifest.json").write_text(json.dumps(manifest | {"sha256": sha256}), encoding="utf-8")


def encoded(texts: list[str]) -> tuple[Any, Any]:
    """Bytes and pointers of texts, as a compiled corpus holds them."""
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([0, *map(len, raw)])
    return np.frombuffer(b"".join(raw), np.uint8), ends.astype(np.min_scalar_type(int(ends[-1])))
