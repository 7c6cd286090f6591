"""Pretrained vectors for the sample corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from treelstm import load_pairs


def some_vectors(tiny: Path, path: Path) -> Path:
    """Writes vectors of three of four roots of the sample corpus, of 4 numbers each."""
    pairs, random = load_pairs(tiny / "training"), np.random.default_rng(0)
    words = [s.partition("=")[2] for s in pairs.forest.symbols if s.startswith("radiko=")]
    words = [word for number, word in enumerate(words) if number % 4]
    rows = (" ".join(f"{x:.4f}" for x in random.normal(size=4)) for _ in words)
    path.write_text("".join(f"{word} {row}\n" for word, row in zip(words, rows, strict=True)))
    return path
