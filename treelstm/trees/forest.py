"""A forest: every distinct subtree of many trees once, as flat arrays; batches of its trees.

Shapes: N distinct subtrees, T trees, S symbols, E child-parent edges, B trees in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from treelstm.trees.arrays import Array, entries, firsts, pieces, pointers_of

if TYPE_CHECKING:
    from torch_geometric.data import Data

_AT_ONCE = 2**20  # numbers that numpy widens to index with them; bounds the memory


def _stable_order(values: Array, largest: int) -> Array:
    """Positions that sort `values`; 16 bits at a time, which numpy sorts by radix."""
    order = np.argsort(values.astype(np.uint16), kind="stable")
    for shift in range(16, int(largest).bit_length(), 16):
        order = order[np.argsort((values[order] >> shift).astype(np.uint16), kind="stable")]
    return order


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device; a GPU copies it from pinned memory, for which nobody waits."""
    if torch.device(device).type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Forest:
    """Distinct subtrees of many trees as flat, read-only arrays; any number of threads may read them.

    Subtree ids ascend with height, then by digest: in the order of ids, children come before parents.
    Arrays of a compiled corpus have the narrowest types, unsigned: widen them before a sum.
    """

    symbols: Sequence[str]  # text of each symbol id, sorted
    symbol_ptr: Array  # [N + 1] symbols of subtree i are symbol[symbol_ptr[i]:symbol_ptr[i + 1]]
    symbol: Array  # [S] symbol ids, sorted inside a subtree
    child_ptr: Array  # [N + 1] children of subtree i are child[child_ptr[i]:child_ptr[i + 1]]
    child: Array  # [E] subtree ids, sorted inside a subtree, equal children repeated
    place: Array  # [E] each child's place in its list, from 0; [0] if compiled without child_order
    height: Array  # [N] 0 for leaves
    root: Array  # [T] subtree id of each tree's root
    tree_ptr: Array  # [T + 1] tree t has tree_subtrees[tree_ptr[t]:tree_ptr[t + 1]]
    tree_subtrees: Array  # distinct subtree ids, sorted inside a tree
    bag_ptr: Array  # [T + 1] tree t has the symbols bag[bag_ptr[t]:bag_ptr[t + 1]]
    bag: Array  # distinct symbol ids, sorted inside a tree
    tree_nodes: Array  # [T] nodes of each tree before equal subtrees are merged
    tree_digest: Array  # [T] name of each tree, made from its content, so equal in every forest

    def __post_init__(self) -> None:
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def __repr__(self) -> str:
        return f"a forest of {len(self):,} trees, {len(self.height):,} distinct subtrees"

    def __len__(self) -> int:
        """Number of trees, T."""
        return len(self.root)

    @property
    def tree_heights(self) -> Array:
        """[T] edges on the longest path from root to leaf."""
        return self.height[self.root].astype(np.int64)

    def distinct(self, *trees: Array) -> Array:
        """Of each kind of equal trees among these numbers one, the lowest."""
        there = np.zeros(len(self), bool)
        for numbers in trees:
            for some in pieces(numbers, _AT_ONCE):
                there[some] = True
        numbers = np.flatnonzero(there)
        return numbers[np.unique(self.root[numbers], return_index=True)[1]]

    def batch(self, trees: Array, vocabulary_ids: Array, bags: bool = False) -> TreeBatch:
        """The distinct subtrees of `trees`, divided into levels of equal height.

        `trees`: [B] tree numbers. `vocabulary_ids`: [symbols] from `Vocabulary.ids(self.symbols)`. With
        `bags`, the rows of symbols after the subtrees' are those of the trees' bags.
        """
        positions, _ = entries(self.tree_ptr, trees)
        subtrees = np.sort(self.tree_subtrees[positions])  # np.unique hashes: three times slower
        subtrees = subtrees[firsts(subtrees)].astype(np.int64)
        own = np.arange(len(subtrees))
        cuts = np.append(firsts(self.height[subtrees]), len(subtrees))
        level = np.repeat(cuts[:-1], np.diff(cuts))  # the first subtree of each one's level

        # With the edges sorted by child id, one search per subtree finds the edges of each child. A
        # search per edge takes three times as long.
        edges, children_each = entries(self.child_ptr, subtrees)
        child_ids = self.child[edges]
        by_child = _stable_order(child_ids, len(self.height))
        by_child_ptr = np.append(np.searchsorted(child_ids[by_child], subtrees), len(edges))
        children = np.empty(len(child_ids), np.int64)
        children[by_child] = np.repeat(own, np.diff(by_child_ptr))
        child_ptr = pointers_of(children_each)
        ends = [pointers.tolist() for pointers in (cuts, child_ptr[cuts], by_child_ptr[cuts])]
        levels = zip(*(map(slice, part, part[1:]) for part in ends), strict=False)

        positions, symbols_each = entries(self.symbol_ptr, subtrees)
        symbol = self.symbol[positions]
        if bags:
            positions, each = entries(self.bag_ptr, trees)
            symbol = np.concatenate((symbol, self.bag[positions]))
            symbols_each = np.concatenate((symbols_each, each))
        symbol = vocabulary_ids[symbol]
        by_symbol = _stable_order(symbol, symbol.max(initial=0))
        sorted_symbol = symbol[by_symbol]
        first_use = firsts(sorted_symbol)
        root = np.searchsorted(subtrees, self.root[trees])
        by_root = _stable_order(root, len(subtrees))
        arrays = {
            "symbol": symbol,
            "symbol_ptr": pointers_of(symbols_each),
            "used": sorted_symbol[first_use],
            "user": np.repeat(np.arange(len(symbols_each)), symbols_each)[by_symbol],
            "user_start": first_use,
            "child": children,
            "parent": np.repeat(own, children_each),
            "child_ptr": child_ptr,
            "child_start": child_ptr[:-1] - child_ptr[level],
            "by_child": by_child,
            "by_child_start": by_child_ptr[:-1] - by_child_ptr[level],
            "root": root,
            "by_root": by_root,
            "root_start": np.searchsorted(root[by_root], own),
        }
        if len(self.place):
            places, arrays["place"] = np.unique(self.place[edges], return_inverse=True)
            arrays["places"] = places.astype(np.int64)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return TreeBatch(len(subtrees), list(levels), **tensors)

    def graph(self, tree: int) -> Data:
        """All nodes of one tree as a PyG graph: root first, edges from parent to child.

        `edge_index` [2, nodes - 1]; `subtree` [nodes]: subtree ids; `place` [nodes]: places in lists;
        `symbols`: each node's symbols.
        """
        from torch_geometric.data import Data  # a second and a half, and few need it

        subtree, place, parents = [int(self.root[tree])], [0], []
        for position, node in enumerate(subtree):  # it grows during the loop
            edges = slice(self.child_ptr[node], self.child_ptr[node + 1])
            child, places = self.child[edges].tolist(), self.place[edges].tolist()
            children = [*zip_longest(child, places, fillvalue=0)]
            if places:  # list by list
                children.sort(key=lambda edge: (self._role(edge[0]), edge[1]))
            parents += [position] * len(children)
            subtree += [child for child, _ in children]
            place += [where for _, where in children]
        return Data(
            edge_index=torch.tensor([parents, list(range(1, len(subtree)))]),
            subtree=torch.tensor(subtree),
            place=torch.tensor(place),
            symbols=[self.symbols_of(node) for node in subtree],
            num_nodes=len(subtree),
        )

    def _role(self, subtree: int) -> str:
        """The key that a subtree hangs under; a scalar of a list has it in its only symbol."""
        symbols = self.symbols_of(subtree)
        roles = (symbol[5:] for symbol in symbols if symbol.startswith("role="))
        return next(roles, symbols[0].partition("=")[0])

    def symbols_of(self, subtree: int) -> list[str]:
        """The symbols of a subtree as text."""
        ids = self.symbol[self.symbol_ptr[subtree] : self.symbol_ptr[subtree + 1]]
        return [self.symbols[symbol] for symbol in ids.tolist()]


@dataclass
class TreeBatch:
    """Distinct subtrees of B trees, leaves first.

    Four nodes, root 3 with children 1 and 2, 2 with child 0, give levels {0, 1}, {2}, {3}:
    child = [0, 1, 2], parent = [2, 3, 3], child_ptr = [0, 0, 0, 1, 3], root = [3], and in levels
    nodes 0:2, 2:3, 3:4, edges down 0:0, 0:1, 1:3, edges up 0:2, 2:3, 3:3.

    No PyG `Data`: to set its attributes took a fifth of the time of making a batch of 16 pairs.
    """

    num_nodes: int  # N
    levels: list[tuple[slice, slice, slice]]  # nodes, edges down in `child`, edges up in `by_child`
    symbol: Tensor  # [S] vocabulary ids of the subtrees' symbols, then of the trees' bags, if wanted
    symbol_ptr: Tensor  # [R + 1] symbols of each row: N subtrees, then B bags, if wanted
    used: Tensor  # [U] the distinct ids in `symbol`, ascending
    user: Tensor  # [S] the rows in which each of `used` occurs
    user_start: Tensor  # [U] where the rows of each begin in `user`
    child: Tensor  # [E] edges, sorted by parent
    parent: Tensor  # [E]
    child_ptr: Tensor  # [N + 1] edges of each parent
    by_child: Tensor  # [E] positions of the edges, sorted by child
    child_start: Tensor  # [N] where a node's edges begin among its level's edges in `child`
    by_child_start: Tensor  # [N] the same in `by_child`
    root: Tensor  # [B] positions of the roots
    by_root: Tensor  # [B] the trees, sorted by root
    root_start: Tensor  # [N] where the trees of each root begin in `by_root`
    places: Tensor | None = None  # [P] the distinct places of children; these three with child_order
    place: Tensor | None = None  # [E] which of `places` each edge has
    factors: Tensor | None = None  # [P, H] float64, of each place, see `ChildSumTreeLSTM`
    with_vector: Tensor | None = None  # those of `used` that have a pretrained vector

    def to(self, device: torch.device | str) -> TreeBatch:
        """The same on another device; a GPU gets it without waiting, see `moved`."""
        if self.root.device.type == torch.device(device).type == "cpu":
            return self
        parts = {name: part for name, part in vars(self).items() if isinstance(part, Tensor)}
        there: dict[str, Any] = {name: moved(part, device) for name, part in parts.items()}
        return replace(self, **there)

    @property
    def leaves(self) -> int:
        """Subtrees without children."""
        return self.levels[0][0].stop if self.levels else 0

    @property
    def below_top(self) -> int:
        """Subtrees below the highest level, which include all children."""
        return self.levels[-1][0].start if self.levels else 0
