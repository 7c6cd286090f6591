"""Kinds of settings that differ in what a step computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

OF_VECTORS = {"vectors_keys": "radiko"}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without dropout": {"dropout": 0.0},
    "parts": {"shards": 3},
    "order": {"child_order": True},
    "bfloat16": {"precision": "bfloat16"},
    "ranking": {"objective": "ranking"},
    "ranking in parts": {"objective": "ranking", "shards": 2},
    "no bag": {"bag_of_symbols": False},
    "no states": {"hidden_dim": 0},
    "warm-up, cosine": {"warmup_steps": 4, "lr_schedule": "cosine"},
    "vectors": OF_VECTORS,
    "frozen vectors": {**OF_VECTORS, "vectors_frozen": True},
    "vectors of their size": {**OF_VECTORS, "embedding_dim": 4},
    "vectors in parts": {**OF_VECTORS, "shards": 2},
}


def settings_of(kind: str, vectors: Path) -> dict[str, Any]:
    """Settings of a kind; `vectors` is the file from `some_vectors`."""
    settings = KINDS[kind]
    return {**settings, "vectors": str(vectors)} if "vectors_keys" in settings else settings
