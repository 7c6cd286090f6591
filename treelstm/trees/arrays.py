"""Rows of different lengths as flat arrays: pointers, entries, groups. Imports no torch.

Row i of `values` is values[pointers[i]:pointers[i + 1]].
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def pointers_of(lengths: Array) -> Array:
    pointers = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=pointers[1:])
    return pointers


def rows_of(pointers: Array) -> Array:
    """The row of each entry."""
    return np.repeat(np.arange(len(pointers) - 1), np.diff(pointers))


def pieces(values: Array, at_once: int) -> Iterator[Array]:
    """A long array in parts, so that what is made of each takes little memory."""
    return (values[start : start + at_once] for start in range(0, len(values), at_once))


def pieces_of_rows(pointers: Array, at_once: int) -> Iterator[tuple[int, int]]:
    """The first row and the end of each part that has so many entries at most, or one row."""
    first, rows = 0, len(pointers) - 1
    while first < rows:
        end = int(np.searchsorted(pointers, pointers[first] + at_once, "right")) - 1
        end = max(end, first + 1)
        yield first, end
        first = end


def npy_header(kind: np.dtype[Any], *shape: int) -> bytes:
    """What numpy writes before the values of an array in a .npy file."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(kind)
    about = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def firsts(ordered: Array) -> Array:
    """Positions of the first of each group of equal values."""
    different = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=different[1:])
    return np.flatnonzero(different)


def bags_of(
    symbol_ptr: Array, symbol: Array, tree_ptr: Array, tree_subtrees: Array
) -> tuple[Array, Array]:
    """Row pointers [T + 1] and the distinct symbols of each tree's subtrees, sorted inside a tree."""
    trees, symbols = len(tree_ptr) - 1, int(symbol.max(initial=0)) + 1
    positions, each = entries(symbol_ptr, tree_subtrees)
    tree = np.repeat(rows_of(tree_ptr), each)
    both = tree * symbols + symbol[positions]
    both = np.sort(both.astype(np.uint32) if trees * symbols < 2**32 else both)
    both = both[firsts(both)].astype(np.int64)
    return np.searchsorted(both, np.arange(trees + 1) * symbols), both % symbols


def entries(pointers: Array, rows: Array) -> tuple[Array, Array]:
    """Positions of the entries of `rows` in a flat array, and the length of each row."""
    rows = np.asarray(rows, np.int64)  # narrow numbers would overflow here
    starts = pointers[rows].astype(np.int64)
    lengths = pointers[rows + 1] - starts
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
    return positions, lengths
