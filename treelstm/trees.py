"""JSON ASTs -> a forest of distinct subtrees -> batches.

Every JSON object is a node; objects inside it are its children, scalars inside it its symbols
`key=value`, and the key it hangs under is one more symbol, `role=key`. Child-sum does not see the
order of siblings, so subtrees that are equal up to that order are one subtree, stored and computed
once (hash-consing).

Shapes: N distinct subtrees, T trees, S symbols, E child-parent edges, B trees in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

Array = np.ndarray[Any, Any]

UNKNOWN = "?"  # the value of a key's unknown symbol; alone, the symbol of an unknown key


class TreeError(ValueError):
    """An AST is no tree: not a JSON object, or one without symbols and children."""


# --- from JSON to distinct subtrees ------------------------------------------------------------


def _scalar(value: Any) -> str:
    """A JSON scalar as a symbol's value, spelled as JSON spells it."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    text = str(value)
    return rf"\{text}" if text == UNKNOWN else text


def _nodes(ast: dict[str, Any], ignored: frozenset[str]) -> list[tuple[int, list[str], list[int]]]:
    """The nodes of one AST, parents first: (parent's position, symbols, empty list for children).

    A loop over a growing list: no recursion, so depth is bounded by memory alone.
    """
    pending: list[tuple[dict[str, Any], str | None, int]] = [(ast, None, -1)]
    nodes: list[tuple[int, list[str], list[int]]] = []
    for position, (node, role, parent) in enumerate(_growing(pending)):
        symbols = [] if role is None else [f"role={role}"]
        for key, value in node.items():
            if value is None or key in ignored:
                continue
            if isinstance(value, str) and value != UNKNOWN:
                symbols.append(f"{key}={value}")
            elif isinstance(value, dict):
                pending.append((value, key, position))
            elif isinstance(value, list):
                for item in _flat(value):
                    if isinstance(item, dict):
                        pending.append((item, key, position))
                    elif item is not None:
                        symbols.append(f"{key}={_scalar(item)}")
            else:
                symbols.append(f"{key}={_scalar(value)}")
        nodes.append((parent, symbols, []))
    return nodes


def _growing(items: list[Any]) -> Iterator[Any]:
    position = 0
    while position < len(items):
        yield items[position]
        position += 1


def _flat(items: list[Any]) -> Iterator[Any]:
    """The items of nested lists, in order."""
    stack = [iter(items)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            yield item
        else:
            stack.pop()


class ForestBuilder:
    """Collects trees one by one; `forest()` gives them as flat arrays.

    With `share=False` every node counts as distinct, to measure what sharing is worth.
    """

    def __init__(self, ignored_keys: Iterable[str] = (), share: bool = True) -> None:
        self._ignored = frozenset(ignored_keys)
        self._unshared = None if share else count()
        self._symbol_of: dict[str, int] = {}
        self._id_of: dict[tuple[Any, ...], int] = {}
        self._content: list[tuple[tuple[int, ...], tuple[int, ...]]] = []  # symbols, children
        self._height: list[int] = []
        self._under: dict[int, tuple[int, ...]] = {}  # distinct subtrees under each root
        self._roots: list[int] = []
        self._sizes: list[int] = []

    def add(self, ast: Any) -> int:
        """Adds one tree; returns its number.

        Raises:
            TreeError: `ast` is no JSON object, or an empty one.
        """
        if not isinstance(ast, dict):
            raise TreeError(f"is {_kind(ast)}, expected a JSON object with the tree's root")
        nodes = _nodes(ast, self._ignored)
        if len(nodes) == 1 and not nodes[0][1]:
            raise TreeError("is an empty tree: no symbols and no children outside the ignored keys")
        symbol_of = self._symbol_of
        subtree = -1
        under: set[int] = set()
        for parent, symbols, children in reversed(nodes):
            ids = tuple(sorted([symbol_of.setdefault(text, len(symbol_of)) for text in symbols]))
            content = (ids, tuple(sorted(children)))
            key = content if self._unshared is None else (*content, next(self._unshared))
            subtree = self._id_of.setdefault(key, len(self._content))
            if subtree == len(self._content):
                self._content.append(content)
                self._height.append(1 + max((self._height[child] for child in children), default=-1))
            under.add(subtree)
            if parent >= 0:
                nodes[parent][2].append(subtree)
        self._under.setdefault(subtree, tuple(under))
        self._roots.append(subtree)
        self._sizes.append(len(nodes))
        return len(self._roots) - 1

    def forest(self) -> Forest:
        """The trees so far as a Forest, the same for every order of keys, siblings and trees."""
        spelling = sorted(self._symbol_of)
        symbol_id = np.empty(len(spelling), np.int64)
        symbol_id[[self._symbol_of[text] for text in spelling]] = np.arange(len(spelling))

        digest = np.array(self._digests(), "S32")
        height, roots = np.array(self._height, np.int64), np.array(self._roots, np.int64)
        order = np.lexsort((digest, height))
        new_id = np.empty(len(order), np.int64)
        new_id[order] = np.arange(len(order))

        symbol_ptr, symbol = _renumbered([self._content[i][0] for i in order], symbol_id)
        child_ptr, child = _renumbered([self._content[i][1] for i in order], new_id)
        under_ptr, under = _renumbered([self._under[i] for i in self._roots], new_id)
        return Forest(
            symbols=tuple(spelling),
            symbol_ptr=symbol_ptr,
            symbol=symbol,
            child_ptr=child_ptr,
            child=child,
            height=height[order],
            root=new_id[roots],
            under_ptr=under_ptr,
            under=under,
            tree_nodes=np.array(self._sizes, np.int64),
            tree_digest=digest[roots],
        )

    def _digests(self) -> list[bytes]:
        """A name for each subtree by content alone (hex), the same in every forest."""
        spelling = list(self._symbol_of)
        digests: list[bytes] = []
        for symbols, children in self._content:
            parts = sorted(spelling[symbol].encode("utf-8", "surrogatepass") for symbol in symbols)
            text = b"".join(b"%d:%b," % (len(part), part) for part in parts)
            text += b";" + b"".join(sorted(digests[child] for child in children))
            digests.append(hashlib.blake2b(text, digest_size=16).hexdigest().encode())
        return digests


def _kind(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _renumbered(rows: list[tuple[int, ...]], new_id: Array) -> tuple[Array, Array]:
    """Rows of old ids -> (row pointers, new ids), sorted inside each row."""
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    pointers = _pointers(lengths)
    flat = np.fromiter((item for row in rows for item in row), np.int64, int(pointers[-1]))
    values = new_id[flat]
    return pointers, values[np.lexsort((values, np.repeat(np.arange(len(rows)), lengths)))]


def _pointers(lengths: Array) -> Array:
    pointers = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=pointers[1:])
    return pointers


def _firsts(ordered: Array) -> Array:
    """Positions of the first of each group of equal values."""
    different = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=different[1:])
    return np.flatnonzero(different)


def _in_level(pointers: Array, cuts: Array) -> Array:
    """Where each row begins, counted from where its level begins."""
    starts: Array = pointers[:-1] - np.repeat(pointers[cuts[:-1]], np.diff(cuts))
    return starts


def _stable_order(values: Array, largest: int) -> Array:
    """Positions that sort `values`; in the narrowest type, as numpy sorts up to 16 bits by radix."""
    return np.argsort(values.astype(np.min_scalar_type(largest)), kind="stable")


def _slices(pointers: Array, rows: Array) -> tuple[Array, Array]:
    """Positions of the entries of `rows` in a flat array, and how many each row has."""
    starts = pointers[rows]
    lengths = pointers[rows + 1] - starts
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
    return positions, lengths


# --- the forest and its batches ----------------------------------------------------------------


@dataclass(frozen=True)
class Forest:
    """Distinct subtrees of many trees as flat arrays; ids ascend with height, then with content.

    So sorting ids is the schedule: children always come before their parents.
    """

    symbols: tuple[str, ...]  # spelling of each symbol id, sorted
    symbol_ptr: Array  # [N + 1] symbols of subtree i are symbol[symbol_ptr[i]:symbol_ptr[i + 1]]
    symbol: Array  # [S] symbol ids, sorted inside a subtree
    child_ptr: Array  # [N + 1] children of subtree i are child[child_ptr[i]:child_ptr[i + 1]]
    child: Array  # [E] subtree ids, sorted inside a subtree, equal children repeated
    height: Array  # [N] 0 for leaves
    root: Array  # [T] subtree id of each tree's root
    under_ptr: Array  # [T + 1] distinct subtrees of tree t are under[under_ptr[t]:under_ptr[t + 1]]
    under: Array  # sorted subtree ids
    tree_nodes: Array  # [T] nodes of each tree before sharing
    tree_digest: Array  # [T] name of each tree by content, the same in every forest
    _position: Array = field(init=False, repr=False, compare=False)  # [N] scratch of `batch`

    def __post_init__(self) -> None:
        object.__setattr__(self, "_position", np.empty(len(self.height), np.int64))

    @classmethod
    def compile(
        cls, asts: Iterable[Any], ignored_keys: Iterable[str] = (), share: bool = True
    ) -> Forest:
        """The forest of `asts`, one tree each.

        Raises:
            TreeError: an AST is no JSON object or empty; says which one.
        """
        builder = ForestBuilder(ignored_keys, share)
        for number, ast in enumerate(asts):
            try:
                builder.add(ast)
            except TreeError as error:
                raise TreeError(f"asts[{number}] {error}. Remove or repair it.") from None
        return builder.forest()

    def __len__(self) -> int:
        """Number of trees, T."""
        return len(self.root)

    @property
    def tree_heights(self) -> Array:
        """[T] edges on the longest way from root to leaf."""
        return self.height[self.root]

    def batch(self, trees: Array, vocabulary_ids: Array) -> TreeBatch:
        """The distinct subtrees under `trees`, cut where the height changes.

        `trees`: [B] tree numbers. `vocabulary_ids`: [symbols] from `Vocabulary.ids(self.symbols)`.
        """
        under, _ = _slices(self.under_ptr, trees)
        subtrees = np.sort(self.under[under])  # np.unique hashes, which takes three times as long
        subtrees = subtrees[_firsts(subtrees)]
        own = np.arange(len(subtrees))
        position = self._position
        position[subtrees] = own
        cuts = np.append(_firsts(self.height[subtrees]), len(subtrees))

        edges, children_each = _slices(self.child_ptr, subtrees)
        children = position[self.child[edges]]
        child_ptr = _pointers(children_each)
        by_child = _stable_order(children, len(subtrees))
        by_child_ptr = _pointers(np.bincount(children, minlength=len(subtrees)))
        ends = [pointers.tolist() for pointers in (cuts, child_ptr[cuts], by_child_ptr[cuts])]
        levels = zip(*(map(slice, part, part[1:]) for part in ends), strict=False)

        symbols, symbols_each = _slices(self.symbol_ptr, subtrees)
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
            "child_start": _in_level(child_ptr, cuts),
            "by_child": by_child,
            "by_child_start": _in_level(by_child_ptr, cuts),
            "root": position[self.root[trees]],
        }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return TreeBatch(num_nodes=len(subtrees), levels=list(levels), **tensors)

    def graph(self, tree: int) -> Data:
        """One tree, shared subtrees unfolded, as a PyG graph: root first, edges parent to child.

        `edge_index` is [2, nodes - 1], `subtree` [nodes] the subtree ids, `symbols` the spelling
        of each node's symbols.
        """
        subtree, sources, targets = [int(self.root[tree])], [], []
        for position, node in enumerate(_growing(subtree)):
            for child in self.child[self.child_ptr[node] : self.child_ptr[node + 1]].tolist():
                sources.append(position)
                targets.append(len(subtree))
                subtree.append(child)
        return Data(
            edge_index=torch.tensor([sources, targets], dtype=torch.long),
            subtree=torch.tensor(subtree),
            symbols=[self.symbols_of(node) for node in subtree],
            num_nodes=len(subtree),
        )

    def symbols_of(self, subtree: int) -> list[str]:
        """Spelling of a subtree's symbols."""
        ids = self.symbol[self.symbol_ptr[subtree] : self.symbol_ptr[subtree + 1]]
        return [self.symbols[symbol] for symbol in ids.tolist()]


class TreeBatch(Data):
    """Distinct subtrees of B trees, leaves first; a PyG `Data`, so `.to(device)` and pinning work.

    `symbol` [S] and `symbol_ptr` [N + 1]: vocabulary ids of each subtree, one bag each.
    `used` [U]: the distinct ids among them, ascending; `user` [S]: the subtrees that they occur in,
    sorted by id; `user_start` [U]: where the subtrees of each begin.
    `child`, `parent` [E]: edges, sorted by parent; `child_ptr` [N + 1]: edges of each parent.
    `by_child` [E]: the same edges sorted by child.
    `root` [B]: positions of the roots.
    `levels`: slices of each height's nodes, its edges down in `child`, its edges up in `by_child`.
    `child_start`, `by_child_start` [N]: where a node's edges begin among those of its level, down in
    `child` and up in `by_child`.

    Four nodes, root 3 with children 1 and 2, 2 with child 0, give levels {0, 1}, {2}, {3}:
    child = [0, 1, 2], parent = [2, 3, 3], child_ptr = [0, 0, 0, 1, 3], root = [3], and in levels
    nodes 0:2, 2:3, 3:4, edges down 0:0, 0:1, 1:3, edges up 0:2, 2:3, 3:3.
    """

    @property
    def leaves(self) -> int:
        """Subtrees without children."""
        return int(self.levels[0][0].stop) if self.levels else 0

    @property
    def below_top(self) -> int:
        """Subtrees below the highest level: whatever may be a child."""
        return int(self.levels[-1][0].start) if self.levels else 0


# --- the vocabulary ----------------------------------------------------------------------------


class Vocabulary:
    """Symbols that an encoder knows, in a fixed order, with one unknown symbol per key.

    Known symbols come first (by frequency, then spelling), then `key=?` for each key, then `?` for
    symbols whose key is unknown. Nothing depends on the order of reading.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}

    @classmethod
    def of(cls, forest: Forest, trees: Array) -> Vocabulary:
        """The vocabulary of `trees`, each counted once however often it is named."""
        _, first = np.unique(forest.root[trees], return_index=True)
        under, _ = _slices(forest.under_ptr, trees[first])
        holders = np.bincount(forest.under[under], minlength=len(forest.height))  # trees over each
        weights = np.repeat(holders, np.diff(forest.symbol_ptr))
        frequency = np.bincount(forest.symbol, weights, minlength=len(forest.symbols))
        known = [int(i) for i in np.argsort(-frequency, kind="stable") if frequency[i] > 0]
        keys = sorted({key_of(forest.symbols[i]) for i in known})
        return cls([forest.symbols[i] for i in known] + [f"{key}={UNKNOWN}" for key in keys] + [UNKNOWN])

    def __len__(self) -> int:
        return len(self.symbols)

    def ids(self, symbols: Sequence[str]) -> Array:
        """[len(symbols)] id of each symbol; of its key's unknown symbol where it is not known."""
        last = len(self.symbols) - 1
        return np.array(
            [
                self._ids.get(symbol, self._ids.get(f"{key_of(symbol)}={UNKNOWN}", last))
                for symbol in symbols
            ],
            np.int64,
        )

    def is_unknown(self, ids: Array) -> Array:
        """Which ids stand for unknown symbols."""
        keys = len({key_of(symbol) for symbol in self.symbols[:-1]})
        return ids >= len(self.symbols) - 1 - keys


def key_of(symbol: str) -> str:
    """The key of a symbol `key=value`."""
    return symbol.partition("=")[0]
