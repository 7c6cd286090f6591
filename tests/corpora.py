"""Compiled corpora taken apart and put together again, with a digest that fits whatever they hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]

NAME, DIGEST, LENGTH = 16, 48, 56  # where these end in a compiled corpus


def seal(path: Path, body: bytes) -> None:
    """Replaces all that follows the digest, and corrects the digest."""
    path.write_bytes(path.read_bytes()[:NAME] + hashlib.sha256(body).digest() + body)


def taken_apart(path: Path) -> tuple[dict[str, Any], Arrays]:
    raw = path.read_bytes()
    end = LENGTH + int.from_bytes(raw[DIGEST:LENGTH], "little")
    about, arrays, place = json.loads(raw[LENGTH:end]), {}, end
    for name, length in about["lengths"].items():
        dtype = np.dtype({"similarity": "<f8", "tree_digest": "S32"}.get(name, "<i8"))
        arrays[name] = np.frombuffer(raw, dtype, length, place).copy()
        place += arrays[name].nbytes
    return about, arrays


def put_together(path: Path, about: Any, arrays: Arrays, lengths: bool = True) -> None:
    """`lengths`: those of the arrays, whatever `about` says."""
    if lengths:
        about = about | {"lengths": {name: len(array) for name, array in arrays.items()}}
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % 8)
    body = len(header).to_bytes(8, "little") + header
    seal(path, body + b"".join(array.tobytes() for array in arrays.values()))
