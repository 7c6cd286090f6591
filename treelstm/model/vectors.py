"""Pretrained vectors of words, such as GloVe's or word2vec's: read from a file, found by symbol."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from treelstm.data.problems import DataError, Problems
from treelstm.data.reading import read_text
from treelstm.files import open_file
from treelstm.trees.arrays import Array
from treelstm.trees.vocabulary import key_of, value_of

STATE = {"vector_table", "vector_words"}  # names in an encoder's state dict
SCALE = 0.15  # root mean square of embeddings before training; a node adds up several symbols


@dataclass(frozen=True)
class Vectors:
    """V words and their vectors."""

    table: Tensor  # float32 [V, size]
    words: Tensor  # uint8 [bytes]: the words in UTF-8, one a line

    @classmethod
    def of_state(cls, weights: Mapping[str, Tensor]) -> Self:
        """Those that an encoder's state dict holds."""
        return cls(weights["vector_table"], weights["vector_words"])

    @cached_property
    def _rows(self) -> dict[str, int]:
        words = self.words.numpy().tobytes().decode().split("\n")
        return {word: row for row, word in reversed([*enumerate(words)])}  # the first of equal ones

    def rows_of(self, symbols: Iterable[str], keys: Sequence[str]) -> Array:
        """The row of each symbol `key=value` whose key is one of `keys`; -1 where there is none.

        A value without a vector takes that of its lower case.
        """
        get, rows = self._rows.get, []
        for symbol in symbols:
            known = key_of(symbol) in keys and not symbol.endswith(r"=\?")  # "?" has never had a vector
            value = value_of(symbol)
            rows.append(get(value, get(value.lower(), -1)) if known else -1)
        return np.array(rows, np.int64)


def read_vectors(path: Path) -> Vectors:
    """Reads a text file with a word and its numbers in each line (word2vec's first line, two counts, may
    be there), or an array [V, size] in a `.npy` file beside a `.txt` file with a word in each line.

    What all words share, the mean and the strongest principal components (one for each 100 numbers, at
    least one), is taken out: Mu & Viswanath 2018, arXiv:1702.01417. Then the table is scaled to the root
    mean square that drawn embeddings have.

    Raises:
        DataError: a file cannot be read, or holds something else; names the line.
    """
    problems = Problems()
    words, table = _array(path, problems) if path.suffix == ".npy" else _text(path, problems)
    if table.ndim != 2 or table.dtype.kind != "f" or len(table) != len(words) or not table.size:
        expected = f"one vector of floats for each of {len(words):,} words"
        found = f"holds {table.dtype} numbers of shape {list(table.shape)}, expected {expected}"
        if not problems.count:
            problems.add(path, 0, found, "Write it again")
    else:
        with np.errstate(over="ignore"):
            finite = np.isfinite(table.astype(np.float32)).all(axis=1)
        for bad in np.flatnonzero(~finite)[:1]:
            found = f"the vector of {words[bad]!r} holds a number that is not finite"
            problems.add(path, 0, found, "Correct or remove it")
    if problems.count:
        raise DataError(problems)
    text = torch.frombuffer(bytearray("\n".join(words).encode()), dtype=torch.uint8)
    return Vectors(torch.from_numpy(_evened(table)), text)


def _evened(table: Array) -> Array:
    """Vectors [V, size] without what all share, of the scale of embeddings."""
    table = table.astype(np.float64)
    if len(table) > 2 * table.shape[1]:  # fewer words do not tell what all share
        table -= table.mean(axis=0)
        _, axes = np.linalg.eigh(table.T @ table)
        shared = axes[:, -max(1, table.shape[1] // 100) :]
        table -= (table @ shared) @ shared.T
    size = float(np.sqrt(np.square(table).mean()))
    return (table * (SCALE / size if size else 1.0)).astype(np.float32, order="C")  # as commits hold it


def _array(path: Path, problems: Problems) -> tuple[list[str], Array]:
    words = [word for _, word in read_text(path.with_suffix(".txt"), problems)]
    try:
        with open_file(path) as file:
            return words, np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        problems.add(path, 0, f"cannot be read ({error})", "Make it readable, or write it again")
        return words, np.zeros(0)


def _text(path: Path, problems: Problems) -> tuple[list[str], Array]:
    words, rows, size = list[str](), list[Array](), 0
    for number, line in read_text(path, problems):
        parts = line.rstrip().split(" ")
        if number == 1 and len(parts) == 2 and all(map(str.isdecimal, parts)):
            continue
        size = size or len(parts) - 1
        try:
            row = np.array(parts[len(parts) - size :], np.float64)  # a word may hold spaces
        except ValueError:
            row = np.zeros(0)
        if not 0 < len(row) == size < len(parts):
            found = f"{line:.40s}" + "…" * (len(line) > 40)
            expected = f"a word and {size or 'its'} numbers, with single spaces"
            problems.add(path, number, f"{found!r}, expected {expected}", "Correct or remove the line")
        if problems.count:
            break
        words.append(" ".join(parts[: len(parts) - size]))
        rows.append(row)
    return words, np.stack(rows) if rows else np.zeros((0, 0), np.float32)
