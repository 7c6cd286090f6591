"""Pretrained vectors of words, such as GloVe's or word2vec's: read from a file, found by symbol."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from treelstm.errors import UserError
from treelstm.files import open_file
from treelstm.trees.forest import Array
from treelstm.trees.vocabulary import key_of, value_of

STATE = {"vector_table", "vector_words"}  # names in an encoder's state dict
SCALE = 0.15  # root mean square of embeddings before training; a node adds up several symbols
_LINE_BYTES = 2**20  # the longest line that is read


class VectorsError(UserError, ValueError):
    """A file of vectors cannot be used; says where, what was found and what to do."""


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
        VectorsError: a file cannot be read, or holds something else; names the line.
    """
    try:
        if path.suffix == ".npy":
            words = [word for _, word in _lines(path.with_suffix(".txt"))]
            with open_file(path) as file:
                table = np.lib.format.read_array(file, allow_pickle=False)
        else:
            words, table = _text(path)
        if table.ndim != 2 or table.dtype.kind != "f" or len(table) != len(words) or not table.size:
            expected = f"one vector of floats for each of {len(words):,} words"
            found = f"{table.dtype} numbers of shape {list(table.shape)}"
            raise VectorsError(f"{path} holds {found}, expected {expected}. Write it again.")
    except OSError as error:
        remedy = "Set vectors to a file that you may read"
        raise VectorsError(f"{path} cannot be read ({error.strerror or error}). {remedy}.") from error
    except (ValueError, EOFError) as error:
        if isinstance(error, VectorsError):
            raise
        raise VectorsError(f"{path} is damaged ({error}). Write it again.") from error
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(table.astype(np.float32)).all(axis=1))
    if len(bad):
        found = f"the vector of {words[bad[0]]!r} holds a number that is not finite"
        raise VectorsError(f"{path}: {found}. Correct or remove it.")
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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers, from 1; at most a million bytes of each."""
    with io.BufferedReader(open_file(path)) as file:
        for number, line in enumerate(iter(partial(file.readline, _LINE_BYTES), b""), 1):
            try:
                yield number, line.decode().strip("\r\n")
            except UnicodeDecodeError as error:
                remedy = "Write the file in UTF-8"
                raise VectorsError(f"{path}:{number}: not UTF-8 ({error.reason}). {remedy}.") from error


def _text(path: Path) -> tuple[list[str], Array]:
    words, rows, size = list[str](), list[Array](), 0
    for number, line in _lines(path):
        parts = line.rstrip().split(" ")
        if number == 1 and len(parts) == 2 and all(map(str.isdecimal, parts)):
            continue
        size = size or len(parts) - 1
        try:
            row = np.array(parts[len(parts) - size :], np.float64)  # a word may hold spaces
            if not 0 < size < len(parts):
                raise ValueError
        except ValueError as error:
            found = f"{line:.40s}" + "…" * (len(line) > 40)
            expected = f"a word and {size or 'its'} numbers, with single spaces"
            remedy = "Correct or remove the line"
            raise VectorsError(f"{path}:{number}: {found!r}, expected {expected}. {remedy}.") from error
        words.append(" ".join(parts[: len(parts) - size]))
        rows.append(row)
    return words, np.stack(rows) if rows else np.zeros((0, 0), np.float32)
