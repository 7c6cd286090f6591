"""Whether the arrays of a forest fit each other, so that it is safe to index with them.

Shapes: N distinct subtrees, T trees, E child-parent edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from treelstm.trees.arrays import Array, entries, pieces_of_rows, pointers_of, rows_of
from treelstm.trees.forest import Forest
from treelstm.trees.texts import Texts

_EDGES_AT_ONCE = 2**22  # bounds the memory


def require(holds: bool | np.bool_, otherwise: str) -> None:
    """Raises ValueError with the text unless it holds."""
    if not holds:
        raise ValueError(otherwise)


def within(values: Array, end: int, start: int = 0) -> bool:
    """Whether all values are at least `start` and below `end`."""
    if not len(values):
        return True
    return bool((values.dtype.kind == "u" or values.min() >= start) and values.max() < end)


def check_texts(name: str, texts: Sequence[Any]) -> None:
    """Raises ValueError unless the pointers of `Texts` fit its bytes."""
    if isinstance(texts, Texts):
        _check_pointers(name, texts.pointers, len(texts), len(texts.data))
        require(texts.there is None or len(texts.there) == len(texts), f"{name} differ in length")


def check_forest(forest: Forest, thorough: bool = True) -> None:
    """Raises ValueError unless every array is as `Forest` describes it; says which is not.

    Each start does what is not `thorough`, in a few passes: all numbers lie within the arrays that they
    point into, and each child is below its parent.
    """
    count, trees, height, child = len(forest.height), len(forest), forest.height, forest.child
    check_texts("symbols", forest.symbols)
    require(0 < trees == len(forest.tree_nodes) == len(forest.tree_digest), "trees are missing")
    require(within(forest.root, count), "a root does not exist")
    require(within(height, count) and (height[1:] >= height[:-1]).all(), "heights do not ascend")
    _check_rows("symbol", forest.symbol_ptr, forest.symbol, count, len(forest.symbols))
    _check_rows("child", forest.child_ptr, child, count, count)
    _check_rows("tree", forest.tree_ptr, forest.tree_subtrees, trees, count)
    _check_rows("bag", forest.bag_ptr, forest.bag, trees, len(forest.symbols))
    require((forest.tree_ptr[1:] > forest.tree_ptr[:-1]).all(), "a tree has no subtrees")
    last = forest.tree_subtrees[forest.tree_ptr[1:].astype(np.int64) - 1]
    require((last == forest.root).all(), "a root is not last")

    children, below = np.diff(forest.child_ptr), height[child]
    require((below < np.repeat(height, children)).all(), "a child is not below its parent")
    inner = np.flatnonzero(children)
    true_height = np.zeros(count, np.int64)
    true_height[inner] = np.maximum.reduceat(below, forest.child_ptr[inner]) if len(inner) else 0
    true_height[inner] += 1
    require((true_height == height).all(), "heights are wrong")
    if not thorough:
        return

    require(all(a < b for a, b in pairwise(forest.symbols)), "symbols are not sorted")
    _check_sorted("symbol", forest.symbol_ptr, forest.symbol)
    _check_sorted("child", forest.child_ptr, child)
    _check_sorted("tree", forest.tree_ptr, forest.tree_subtrees, distinct=True)
    _check_sorted("bag", forest.bag_ptr, forest.bag, distinct=True)
    parent = rows_of(forest.child_ptr)
    if len(place := forest.place):
        require(len(place) == len(child) and within(place, 2**32), "places are not those of children")
        twins = (child[1:] == child[:-1]) & (parent[1:] == parent[:-1])
        require((place[1:] > place[:-1])[twins].all(), "two children have one place")

    nodes = np.ones(count)  # float64: shared subtrees can stand for more nodes than int64 counts
    ends = np.searchsorted(height, np.arange(1, int(height[-1]) + 2))
    with np.errstate(over="ignore"):
        for level in map(slice, ends[:-1].tolist(), ends[1:].tolist()):
            edges = slice(*forest.child_ptr[[level.start, level.stop]].tolist())
            starts = forest.child_ptr[level].astype(np.int64) - edges.start
            nodes[level] += np.add.reduceat(nodes[child[edges]], starts)
    require((nodes[forest.root] == forest.tree_nodes).all(), "numbers of nodes are wrong")
    _check_trees(forest)


def _check_rows(name: str, ptr: Array, values: Array, rows: int, end: int) -> None:
    """Row pointers that cover `values`, which are below `end`."""
    _check_pointers(name, ptr, rows, len(values))
    require(within(values, end), f"{name}: a number is out of range")


def _check_pointers(name: str, ptr: Array, rows: int, end: int) -> None:
    require(len(ptr) == rows + 1 > 0, f"{name}_ptr has another length")
    require(ptr[0] == 0 and ptr[-1] == end, f"{name}_ptr has wrong ends")
    require((ptr[1:] >= ptr[:-1]).all(), f"{name}_ptr does not ascend")


def _check_sorted(name: str, ptr: Array, values: Array, distinct: bool = False) -> None:
    """The values are sorted inside each row."""
    fallen = values[1:] <= values[:-1] if distinct else values[1:] < values[:-1]
    begins = np.zeros(len(values) + 1, bool)
    begins[ptr] = True
    require(begins[1:-1][fallen].all(), f"{name}: a row is not sorted")


def _check_trees(forest: Forest) -> None:
    """Each tree lists with every subtree that subtree's children."""
    lengths, count = np.diff(forest.tree_ptr), len(forest.height)
    edges = pointers_of(np.diff(forest.child_ptr)[forest.tree_subtrees])
    for first, end in pieces_of_rows(edges[forest.tree_ptr], _EDGES_AT_ONCE):
        trees = np.arange(first, end)
        mine = forest.tree_subtrees[forest.tree_ptr[first] : forest.tree_ptr[end]]
        start_of_ids = np.repeat(trees * count, lengths[trees])
        listed = start_of_ids + mine
        positions, children_each = entries(forest.child_ptr, mine)
        wanted = np.repeat(start_of_ids, children_each) + forest.child[positions]
        at = np.searchsorted(listed, wanted)  # a child's id is below its parent's: never past the end
        require((listed[at] == wanted).all(), "a tree lacks a child of one of its subtrees")
