"""Compiled corpora taken apart and put together again, with a digest that fits whatever they hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

Arrays = dict[str, np.ndarray[Any, Any]]

NAME, DIGEST, LENGTH = 16, 48, 56  # where these end in a compiled corpus: the last is of safetensors


def seal(path: Path, body: bytes) -> None:
    """Replaces all that follows the digest, and corrects the digest."""
    path.write_bytes(path.read_bytes()[:NAME] + hashlib.sha256(body).digest() + body)


def taken_apart(path: Path) -> tuple[dict[str, Any], Arrays]:
    arrays = load(path.read_bytes()[DIGEST:])
    return json.loads(arrays.pop("about").tobytes()), arrays


def put_together(path: Path, about: Any, arrays: Arrays) -> None:
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    seal(path, save({**whole, "about": text}))
