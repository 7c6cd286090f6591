"""JSON ASTs -> a forest of distinct subtrees -> batches.

Every JSON object is a node. The objects inside it are its children, the scalars inside it are its
symbols `key=value`, and its own key in its parent is one more symbol, `role=key`. Child-sum ignores
the order of siblings, so subtrees that differ only in that order are the same subtree, which is
stored and computed once (hash-consing).

Shapes: N distinct subtrees, T trees, S symbols, E child-parent edges, B trees in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from treelstm.errors import UserError

Array = np.ndarray[Any, Any]

UNKNOWN = "?"  # `key=?` stands for the unknown values of a key, `?` for symbols of unknown keys


class TreeError(UserError, ValueError):
    """An AST is not a JSON object, or has neither symbols nor children."""


def _scalar(value: Any) -> str:
    """The value part of a symbol, written as in JSON."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return rf"\{text}" if text == UNKNOWN else text


def _nodes(ast: dict[str, Any], ignored: frozenset[str]) -> list[tuple[int, list[str], list[int]]]:
    """The nodes of one AST, parents first: (parent's position, symbols, empty list for children).

    Not recursive, so that only memory limits the depth of a tree.
    """
    pending: list[tuple[dict[str, Any], str | None, int]] = [(ast, None, -1)]
    nodes: list[tuple[int, list[str], list[int]]] = []
    for position, (node, role, parent) in enumerate(pending):  # it grows during the loop
        symbols = [] if role is None else [f"role={role}"]
        for key, value in node.items():
            if value is None or key in ignored:
                continue
            for item in _flat(value) if isinstance(value, list) else (value,):
                if isinstance(item, str) and item != UNKNOWN:
                    symbols.append(f"{key}={item}")
                elif isinstance(item, dict):
                    pending.append((item, key, position))
                elif item is not None:
                    symbols.append(f"{key}={_scalar(item)}")
        nodes.append((parent, symbols, []))
    return nodes


def _flat(items: list[Any]) -> Iterator[Any]:
    """The items of nested lists, in order."""
    stack = items[::-1]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += reversed(item)
        else:
            yield item


class ForestBuilder:
    """Collects trees one by one; `forest()` returns them as flat arrays.

    With `share=False` equal subtrees are not merged, to measure what merging saves.
    """

    def __init__(self, ignored_keys: Iterable[str] = (), share: bool = True) -> None:
        self._ignored = frozenset(ignored_keys)
        self._unshared = None if share else count()
        self._symbol_of: dict[str, int] = {}
        self._id_of: dict[tuple[Any, ...], int] = {}
        self._content: list[tuple[tuple[int, ...], tuple[int, ...]]] = []  # symbols, children
        self._height: list[int] = []
        self._tree_subtrees: dict[int, tuple[int, ...]] = {}  # root -> distinct subtrees
        self._roots: list[int] = []
        self._sizes: list[int] = []

    def add(self, ast: Any) -> None:
        """Adds one tree.

        Raises:
            TreeError: `ast` is not a JSON object, or is empty.
        """
        if not isinstance(ast, dict):
            raise TreeError(f"is {_kind(ast)}, expected a JSON object, the root of the tree")
        nodes = _nodes(ast, self._ignored)
        if len(nodes) == 1 and not nodes[0][1]:
            raise TreeError("is an empty tree: no symbols and no children outside the ignored keys")
        symbol_of = self._symbol_of
        subtree = -1
        distinct: set[int] = set()
        for parent, symbols, children in reversed(nodes):
            ids = tuple(sorted([symbol_of.setdefault(text, len(symbol_of)) for text in symbols]))
            content = (ids, tuple(self._in_order(children)))
            key = content if self._unshared is None else (*content, next(self._unshared))
            subtree = self._id_of.setdefault(key, len(self._content))
            if subtree == len(self._content):
                self._content.append(content)
                self._height.append(1 + max((self._height[child] for child in children), default=-1))
            distinct.add(subtree)
            if parent >= 0:
                nodes[parent][2].append(subtree)
        self._tree_subtrees.setdefault(subtree, tuple(distinct))
        self._roots.append(subtree)
        self._sizes.append(len(nodes))

    def forest(self) -> Forest:
        """The trees so far. Their subtrees do not depend on the order of keys, siblings and trees."""
        symbols = sorted(self._symbol_of)
        symbol_id = {self._symbol_of[text]: number for number, text in enumerate(symbols)}
        digest, height = np.array(self._digests(), "S32"), np.array(self._height, np.int64)
        order = np.lexsort((digest, height))
        new_id = np.argsort(order).tolist()
        contents = [self._content[i] for i in order]
        trees = [self._tree_subtrees[root] for root in self._roots]
        symbol_ptr, symbol = _flat_rows([sorted([symbol_id[i] for i in ids]) for ids, _ in contents])
        child_ptr, child = _flat_rows([self._in_order([new_id[i] for i in ids]) for _, ids in contents])
        tree_ptr, tree_subtrees = _flat_rows([sorted([new_id[i] for i in ids]) for ids in trees])
        return Forest(
            symbols=tuple(symbols),
            symbol_ptr=symbol_ptr,
            symbol=symbol,
            child_ptr=child_ptr,
            child=child,
            height=height[order],
            root=np.array([new_id[root] for root in self._roots], np.int64),
            tree_ptr=tree_ptr,
            tree_subtrees=tree_subtrees,
            tree_nodes=np.array(self._sizes, np.int64),
            tree_digest=digest[self._roots],
        )

    def _in_order(self, siblings: list[Any]) -> list[Any]:
        """Sorts siblings, given as ids or digests; nothing else here depends on their order."""
        return sorted(siblings)

    def _digests(self) -> list[bytes]:
        """A name for each subtree (hex), made from its content, so equal in every forest."""
        spelling = [text.encode("utf-8", "surrogatepass") for text in self._symbol_of]
        digests: list[bytes] = []
        for symbols, children in self._content:
            parts = sorted([spelling[symbol] for symbol in symbols])
            text = b"".join(b"%d:%b," % (len(part), part) for part in parts)
            text += b";" + b"".join(self._in_order([digests[child] for child in children]))
            digests.append(hashlib.blake2b(text, digest_size=16).hexdigest().encode())
        return digests


def _kind(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _flat_rows(rows: list[list[int]]) -> tuple[Array, Array]:
    """Row pointers, and the values of all rows one after another."""
    pointers = _pointers(np.fromiter(map(len, rows), np.int64, len(rows)))
    return pointers, np.fromiter(chain.from_iterable(rows), np.int64, int(pointers[-1]))


def _pointers(lengths: Array) -> Array:
    pointers = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=pointers[1:])
    return pointers


def _firsts(ordered: Array) -> Array:
    """Positions of the first of each group of equal values."""
    different = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=different[1:])
    return np.flatnonzero(different)


def _stable_order(values: Array, largest: int) -> Array:
    """Positions that sort `values`; 16 bits at a time, which numpy sorts by radix."""
    order = np.argsort(values.astype(np.uint16), kind="stable")
    for shift in range(16, int(largest).bit_length(), 16):
        order = order[np.argsort((values[order] >> shift).astype(np.uint16), kind="stable")]
    return order


def entries(pointers: Array, rows: Array) -> tuple[Array, Array]:
    """Positions of the entries of `rows` in a flat array, and the length of each row."""
    starts = pointers[rows]
    lengths = pointers[rows + 1] - starts
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
    return positions, lengths


@dataclass(frozen=True)
class Forest:
    """Distinct subtrees of many trees as flat, read-only arrays; any number of threads may read them.

    Subtree ids ascend with height, then by digest: in the order of ids, children come before parents.
    """

    symbols: tuple[str, ...]  # text of each symbol id, sorted
    symbol_ptr: Array  # [N + 1] symbols of subtree i are symbol[symbol_ptr[i]:symbol_ptr[i + 1]]
    symbol: Array  # [S] symbol ids, sorted inside a subtree
    child_ptr: Array  # [N + 1] children of subtree i are child[child_ptr[i]:child_ptr[i + 1]]
    child: Array  # [E] subtree ids, sorted inside a subtree, equal children repeated
    height: Array  # [N] 0 for leaves
    root: Array  # [T] subtree id of each tree's root
    tree_ptr: Array  # [T + 1] tree t has tree_subtrees[tree_ptr[t]:tree_ptr[t + 1]]
    tree_subtrees: Array  # distinct subtree ids, sorted inside a tree
    tree_nodes: Array  # [T] nodes of each tree before equal subtrees are merged
    tree_digest: Array  # [T] name of each tree, made from its content, so equal in every forest

    def __post_init__(self) -> None:
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    @staticmethod
    def compile(asts: Iterable[Any], ignored_keys: Iterable[str] = (), share: bool = True) -> Forest:
        """The forest of `asts`, one tree each.

        Raises:
            TreeError: an AST is not a JSON object, or is empty; says which one.
        """
        builder = ForestBuilder(ignored_keys, share)
        for number, ast in enumerate(asts):
            try:
                builder.add(ast)
            except TreeError as error:
                raise TreeError(f"asts[{number}] {error}. Remove or repair it.") from None
        return builder.forest()

    def __repr__(self) -> str:
        return f"a forest of {len(self):,} trees, {len(self.height):,} distinct subtrees"

    def __len__(self) -> int:
        """Number of trees, T."""
        return len(self.root)

    @property
    def tree_heights(self) -> Array:
        """[T] edges on the longest path from root to leaf."""
        return self.height[self.root]

    def batch(self, trees: Array, vocabulary_ids: Array) -> TreeBatch:
        """The distinct subtrees of `trees`, divided into levels of equal height.

        `trees`: [B] tree numbers. `vocabulary_ids`: [symbols] from `Vocabulary.ids(self.symbols)`.
        """
        positions, _ = entries(self.tree_ptr, trees)
        subtrees = np.sort(self.tree_subtrees[positions])  # np.unique hashes: three times slower
        subtrees = subtrees[_firsts(subtrees)]
        own = np.arange(len(subtrees))
        cuts = np.append(_firsts(self.height[subtrees]), len(subtrees))
        level = np.repeat(cuts[:-1], np.diff(cuts))  # the first subtree of each one's level

        # With the edges sorted by child id, one search per subtree finds the edges of each child. A
        # search per edge takes three times as long.
        edges, children_each = entries(self.child_ptr, subtrees)
        child_ids = self.child[edges]
        by_child = _stable_order(child_ids, len(self.height))
        by_child_ptr = np.append(np.searchsorted(child_ids[by_child], subtrees), len(edges))
        children = np.empty_like(child_ids)
        children[by_child] = np.repeat(own, np.diff(by_child_ptr))
        child_ptr = _pointers(children_each)
        ends = [pointers.tolist() for pointers in (cuts, child_ptr[cuts], by_child_ptr[cuts])]
        levels = zip(*(map(slice, part, part[1:]) for part in ends), strict=False)

        symbols, symbols_each = entries(self.symbol_ptr, subtrees)
        symbol = vocabulary_ids[self.symbol[symbols]]
        by_symbol = _stable_order(symbol, symbol.max(initial=0))
        sorted_symbol = symbol[by_symbol]
        first_use = _firsts(sorted_symbol)
        arrays = {
            "symbol": symbol,
            "symbol_ptr": _pointers(symbols_each),
            "used": sorted_symbol[first_use],
            "user": np.repeat(own, symbols_each)[by_symbol],
            "user_start": first_use,
            "child": children,
            "parent": np.repeat(own, children_each),
            "child_ptr": child_ptr,
            "child_start": child_ptr[:-1] - child_ptr[level],
            "by_child": by_child,
            "by_child_start": by_child_ptr[:-1] - by_child_ptr[level],
            "root": np.searchsorted(subtrees, self.root[trees]),
        }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return TreeBatch(num_nodes=len(subtrees), levels=list(levels), **tensors)

    def graph(self, tree: int) -> Data:
        """All nodes of one tree as a PyG graph: root first, edges from parent to child.

        `edge_index` [2, nodes - 1]; `subtree` [nodes]: subtree ids; `symbols`: each node's symbols.
        """
        subtree, parents = [int(self.root[tree])], []
        for position, node in enumerate(subtree):  # it grows during the loop
            children = self.child[self.child_ptr[node] : self.child_ptr[node + 1]].tolist()
            parents += [position] * len(children)
            subtree += children
        return Data(
            edge_index=torch.tensor([parents, list(range(1, len(subtree)))]),
            subtree=torch.tensor(subtree),
            symbols=[self.symbols_of(node) for node in subtree],
            num_nodes=len(subtree),
        )

    def symbols_of(self, subtree: int) -> list[str]:
        """The symbols of a subtree as text."""
        ids = self.symbol[self.symbol_ptr[subtree] : self.symbol_ptr[subtree + 1]]
        return [self.symbols[symbol] for symbol in ids.tolist()]


class TreeBatch(Data):
    """Distinct subtrees of B trees, leaves first; a PyG `Data`, so `.to(device)` and pinning work.

    Four nodes, root 3 with children 1 and 2, 2 with child 0, give levels {0, 1}, {2}, {3}:
    child = [0, 1, 2], parent = [2, 3, 3], child_ptr = [0, 0, 0, 1, 3], root = [3], and in levels
    nodes 0:2, 2:3, 3:4, edges down 0:0, 0:1, 1:3, edges up 0:2, 2:3, 3:3.
    """

    symbol: Tensor  # [S] vocabulary ids of the subtrees' symbols
    symbol_ptr: Tensor  # [N + 1] symbols of each subtree
    used: Tensor  # [U] the distinct ids in `symbol`, ascending
    user: Tensor  # [S] the subtrees in which each of `used` occurs
    user_start: Tensor  # [U] where the subtrees of each begin in `user`
    child: Tensor  # [E] edges, sorted by parent
    parent: Tensor  # [E]
    child_ptr: Tensor  # [N + 1] edges of each parent
    by_child: Tensor  # [E] positions of the edges, sorted by child
    child_start: Tensor  # [N] where a node's edges begin among its level's edges in `child`
    by_child_start: Tensor  # [N] the same in `by_child`
    root: Tensor  # [B] positions of the roots
    levels: list[tuple[slice, slice, slice]]  # nodes, edges down in `child`, edges up in `by_child`

    @property
    def leaves(self) -> int:
        """Subtrees without children."""
        return self.levels[0][0].stop if self.levels else 0

    @property
    def below_top(self) -> int:
        """Subtrees below the highest level, which include all children."""
        return self.levels[-1][0].start if self.levels else 0


class Vocabulary:
    """Symbols that an encoder knows, in a fixed order, with one unknown symbol per key.

    Known symbols come first (by frequency, then alphabetically), then `key=?` for each key, then `?`
    for symbols whose key is unknown. The order of the trees does not matter.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}

    @classmethod
    def of(cls, forest: Forest, trees: Array) -> Vocabulary:
        """The vocabulary of `trees`; repeated trees count once."""
        _, first = np.unique(forest.root[trees], return_index=True)
        subtrees = forest.tree_subtrees[entries(forest.tree_ptr, trees[first])[0]]
        trees_with = np.bincount(subtrees, minlength=len(forest.height))  # each subtree
        weights = np.repeat(trees_with, np.diff(forest.symbol_ptr))
        frequency = np.bincount(forest.symbol, weights, minlength=len(forest.symbols))
        known = [int(i) for i in np.argsort(-frequency, kind="stable") if frequency[i] > 0]
        keys = sorted({key_of(forest.symbols[i]) for i in known})
        return cls([forest.symbols[i] for i in known] + [f"{key}={UNKNOWN}" for key in keys] + [UNKNOWN])

    def __len__(self) -> int:
        return len(self.symbols)

    def ids(self, symbols: Sequence[str]) -> Array:
        """[len(symbols)] id of each symbol, or of its key's unknown symbol if it is not known."""
        last = len(self.symbols) - 1
        get = self._ids.get
        ids = [get(symbol, get(f"{key_of(symbol)}={UNKNOWN}", last)) for symbol in symbols]
        return np.array(ids, np.int64)

    def is_unknown(self, ids: Array) -> Array:
        """True for the ids of unknown symbols."""
        keys = len({key_of(symbol) for symbol in self.symbols[:-1]})
        return ids >= len(self.symbols) - 1 - keys


def key_of(symbol: str) -> str:
    """The key of a symbol `key=value`."""
    return symbol.partition("=")[0]
