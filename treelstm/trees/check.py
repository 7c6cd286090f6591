"""Whether the arrays of a forest fit each other, so that it is safe to index with them.

Shapes: N distinct subtrees, T trees, E child-parent edges.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from treelstm.trees.arrays import Array, entries
from treelstm.trees.forest import Forest

_EDGES_AT_ONCE = 2**22  # bounds the memory


def require(holds: bool | np.bool_, otherwise: str) -> None:
    """Raises ValueError with the text unless it holds."""
    if not holds:
        raise ValueError(otherwise)


def within(values: Array, end: int) -> bool:
    """Whether all values are at least 0 and below `end`."""
    return not len(values) or bool(values.min() >= 0 and values.max() < end)


def check_forest(forest: Forest) -> None:
    """Raises ValueError unless every array is as `Forest` describes it; says which is not."""
    count, trees, height, child = len(forest.height), len(forest), forest.height, forest.child
    require(all(a < b for a, b in pairwise(forest.symbols)), "symbols are not sorted")
    require(0 < trees == len(forest.tree_nodes) == len(forest.tree_digest), "trees are missing")
    require(within(forest.root, count), "a root does not exist")
    require(within(height, count) and (height[1:] >= height[:-1]).all(), "heights do not ascend")
    _check_rows("symbol", forest.symbol_ptr, forest.symbol, count, len(forest.symbols))
    _check_rows("child", forest.child_ptr, child, count, count)
    _check_rows("tree", forest.tree_ptr, forest.tree_subtrees, trees, count, distinct=True)
    _check_rows("bag", forest.bag_ptr, forest.bag, trees, len(forest.symbols), distinct=True)

    parent = np.repeat(np.arange(count), np.diff(forest.child_ptr))
    require((height[child] < height[parent]).all(), "a child is not below its parent")
    inner = np.flatnonzero(np.diff(forest.child_ptr))
    true_height = np.zeros(count, np.int64)
    true_height[inner] = 1 + np.maximum.reduceat(height[child], forest.child_ptr[inner])
    require((true_height == height).all(), "heights are wrong")
    if len(place := forest.place):
        require(len(place) == len(child) and within(place, 2**32), "places are not those of children")
        twins = (child[1:] == child[:-1]) & (parent[1:] == parent[:-1])
        require((place[1:] > place[:-1])[twins].all(), "two children have one place")

    nodes = np.ones(count)  # float64: shared subtrees can stand for more nodes than int64 counts
    ends = np.searchsorted(height, np.arange(1, height[-1] + 2))
    with np.errstate(over="ignore"):
        for level in map(slice, ends[:-1].tolist(), ends[1:].tolist()):
            edges = slice(forest.child_ptr[level.start], forest.child_ptr[level.stop])
            starts = forest.child_ptr[level] - edges.start
            nodes[level] += np.add.reduceat(nodes[child[edges]], starts)
    require((nodes[forest.root] == forest.tree_nodes).all(), "numbers of nodes are wrong")
    _check_trees(forest)


def _check_rows(
    name: str, ptr: Array, values: Array, rows: int, end: int, distinct: bool = False
) -> None:
    """Row pointers that cover `values`, which are below `end` and sorted inside each row."""
    require(len(ptr) == rows + 1, f"{name}_ptr has another length")
    require(ptr[0] == 0 and ptr[-1] == len(values), f"{name}_ptr has wrong ends")
    require((ptr[1:] >= ptr[:-1]).all(), f"{name}_ptr does not ascend")
    require(within(values, end), f"{name}: a number is out of range")
    fallen = values[1:] <= values[:-1] if distinct else values[1:] < values[:-1]
    begins = np.zeros(len(values) + 1, bool)
    begins[ptr] = True
    require(begins[1:-1][fallen].all(), f"{name}: a row is not sorted")


def _check_trees(forest: Forest) -> None:
    """Each tree lists its root last, and with every subtree that subtree's children."""
    lengths, count = np.diff(forest.tree_ptr), len(forest.height)
    require((lengths > 0).all(), "a tree has no subtrees")
    require((forest.tree_subtrees[forest.tree_ptr[1:] - 1] == forest.root).all(), "a root is not last")
    edges = np.concatenate(([0], np.cumsum(np.diff(forest.child_ptr)[forest.tree_subtrees])))
    edges_to = edges[forest.tree_ptr]  # [T + 1]
    first = 0
    while first < len(forest):
        last = np.searchsorted(edges_to, edges_to[first] + _EDGES_AT_ONCE, "right") - 1
        trees = np.arange(first, max(first + 1, last))
        mine = forest.tree_subtrees[forest.tree_ptr[first] : forest.tree_ptr[trees[-1] + 1]]
        start_of_ids = np.repeat(trees * count, lengths[trees])
        listed = start_of_ids + mine
        positions, children_each = entries(forest.child_ptr, mine)
        wanted = np.repeat(start_of_ids, children_each) + forest.child[positions]
        at = np.searchsorted(listed, wanted)  # a child's id is below its parent's: never past the end
        require((listed[at] == wanted).all(), "a tree lacks a child of one of its subtrees")
        first = int(trees[-1]) + 1
