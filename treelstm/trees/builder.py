"""JSON ASTs -> a forest of distinct subtrees.

Every JSON object is a node. The objects inside it are its children, the scalars inside it are its
symbols `key=value`, and its own key in its parent is one more symbol, `role=key`; trees/vocabulary.py
says how they are spelled. A list stands for its items; a list that is an item itself is a node, with a
symbol that says so, and its items have the key of the outer list. Child-sum ignores the order of
siblings, so subtrees that differ only in that order are the same subtree, which is stored and computed
once (hash-consing).

With `child_order`, the places of a list's items are kept, counted from 0 with nulls, and each scalar in
a list of several is a node of its own: a leaf with the symbol `key=value` and no role. The keys of an
object have no order, in JSON as here.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np

from treelstm.errors import UserError
from treelstm.trees.arrays import Array, pointers_of
from treelstm.trees.parts import Part, arrays_of_forest, merged, sorted_rows
from treelstm.trees.values import NotJson, as_json, first_problem, kind, written
from treelstm.trees.vocabulary import LIST, ROLE, spelled_key, spelled_text

if TYPE_CHECKING:
    from treelstm.trees.forest import Forest

# Position of the parent, an earlier node, or -1; place in its list; symbols.
Node = tuple[int, int, list[str]]

# A subtree is a row of numbers: its symbols, and ~(child + _PLACE times its place in its list).
_PLACE = 2**32

_MANY = 10_000  # nodes after which a tree is looked through for cycles
_AT_ONCE = 2**16  # subtrees; bounds the memory


class TreeError(UserError, ValueError):
    """An AST is no JSON object, is empty, or holds what JSON has no word for."""


class _Texts(dict[str, int]):
    """The number of the symbol of each text under one key."""

    def __init__(self, start: str, symbol_of: Callable[[str], int]) -> None:
        self.start, self.symbol_of = start, symbol_of

    def __missing__(self, text: str) -> int:
        self[text] = symbol = self.symbol_of(self.start + spelled_text(text))
        return symbol


class _Keys(dict[str, _Texts | None]):
    """The symbols of each key; None for an ignored one."""

    def __init__(self, symbol_of: Callable[[str], int]) -> None:
        self.symbol_of = symbol_of

    def __missing__(self, key: object) -> _Texts:
        if not isinstance(key, str):
            raise NotJson
        self[key] = texts = _Texts(spelled_key(key), self.symbol_of)
        return texts


class ForestBuilder:
    """Collects trees one by one; `forest()` returns them as flat arrays.

    With `share=False` equal subtrees are not merged, to measure what merging saves.
    """

    def __init__(
        self, ignored_keys: Iterable[str] = (), share: bool = True, child_order: bool = False
    ) -> None:
        self._ignored, self._child_order = frozenset(ignored_keys), child_order
        symbols = defaultdict[str, int]()
        symbols.default_factory = symbols.__len__  # a new symbol gets the next number
        self._symbols, self._symbol_of = symbols, symbols.__getitem__
        self._keys, self._roles = _Keys(self._symbol_of), _Texts(ROLE, self._symbol_of)
        self._keys |= dict.fromkeys(self._ignored)
        self._unshared = None if share else count()
        self._id_of: dict[tuple[Any, ...], int] = {}  # row -> number, in this order
        self._height: list[int] = []
        self._tree_of: dict[int, int] = {}  # root -> its place in the next three
        self._tree_nodes = array("Q")
        self._tree_lengths = array("Q")
        self._tree_subtrees = array("Q")  # of one distinct tree after the other
        self._trees = array("Q")

    def add(self, ast: Any, name: str = "ast") -> None:
        """Adds one tree; `name` begins the text of an error.

        Raises:
            TreeError: `ast` is no JSON object, is empty, or holds what JSON has no word for; says where.
        """
        self._trees.append(self.tree_of(ast, name))

    def add_nodes(self, nodes: list[Node]) -> None:
        """Adds the tree of these nodes."""
        rows = [[*map(self._symbol_of, symbols)] for _, _, symbols in nodes]
        places = {number: place for number, (_, place, _) in enumerate(nodes) if place}
        self._trees.append(self._tree([parent for parent, _, _ in nodes], rows, places))

    def tree_of(self, ast: Any, name: str = "ast") -> int:
        """The number of a tree among those that differ; raises as `add`, which calls it."""
        try:
            root = as_json(ast)
            if type(root) is not dict:
                raise TreeError(f"{name} is {kind(root)}, expected a JSON object, the root of the tree")
            parents, rows, places = self._nodes(root)
        except NotJson:
            found = first_problem(ast, self._ignored) or " changes while it is read"
            raise TreeError(f"{name}{found}") from None
        if len(rows) == 1 and not rows[0]:
            none = "no symbols and no children outside the ignored keys"
            raise TreeError(f"{name} is an empty tree: {none}")
        return self._tree(parents, rows, places)

    def _nodes(self, root: dict[str, Any]) -> tuple[list[int], list[list[int]], dict[int, int]]:
        """Parent and symbols of each node of one AST, and places that are not 0; raises NotJson.

        Not recursive, so that only memory limits the depth of a tree.
        """
        pending: list[tuple[Any, str | None]] = [(root, None)]
        parents, rows, places = [-1], list[list[int]](), dict[int, int]()
        keys, roles, child_order = self._keys, self._roles, self._child_order
        for position, (node, role) in enumerate(pending):  # it grows during the loop
            row = [] if role is None else [roles[role]]
            if type(node) is list:  # it is an item of a list
                row.append(self._symbol_of(LIST))
                node = {role: node}
            for key, value in node.items():
                if (texts := keys[key]) is None or value is None:
                    continue
                if type(value) is str:  # by far the most frequent
                    row.append(texts[value])
                    continue
                if type(value) is dict:
                    pending.append((value, key))
                    parents.append(position)
                    continue
                if type(value) is not list and type(value := as_json(value)) is not list:
                    value = [value]
                in_order = child_order and len(value) > 1
                for index, item in enumerate(value):
                    if type(item) is not dict:
                        item = as_json(item)
                    if type(item) is dict or type(item) is list:
                        pending.append((item, key))
                    elif in_order and item is not None:
                        pending.append(({key: item}, None))
                    elif type(item) is str:
                        row.append(texts[item])
                        continue
                    else:
                        if item is not None:
                            row.append(self._symbol_of(f"{texts.start}\\{written(item)}"))
                        continue
                    if in_order and index:
                        places[len(parents)] = index
                    parents.append(position)
            rows.append(row)
            if position == _MANY and first_problem(root, self._ignored):  # a cycle would never end
                raise NotJson
        return parents, rows, places

    def _tree(self, parents: list[int], rows: list[list[int]], places: dict[int, int]) -> int:
        """The number of the tree of these nodes, whose rows it changes."""
        id_of, height, subtree, number = self._id_of, self._height, -1, len(rows)
        distinct: set[int] = set()
        for row, parent in zip(reversed(rows), reversed(parents), strict=True):
            row.sort()
            key = tuple(row) if self._unshared is None else (tuple(row), next(self._unshared))
            if (found := id_of.get(key)) is None:
                id_of[key] = found = len(height)
                below = [height[~each % _PLACE] for each in row if each < 0]
                height.append(1 + max(below) if below else 0)
            subtree = child = found
            distinct.add(found)
            if places:
                number -= 1
                child += places.get(number, 0) * _PLACE
            if parent >= 0:
                rows[parent].append(~child)
        tree = self._tree_of.setdefault(subtree, len(self._tree_of))
        if tree == len(self._tree_nodes):
            self._tree_nodes.append(len(rows))
            self._tree_lengths.append(len(distinct))
            self._tree_subtrees.extend(distinct)
        return tree

    def part(self) -> Part:
        """All that was added, as arrays; its roots are those that differ."""
        rows = self._id_of.keys() if self._unshared is None else [row for row, _ in self._id_of]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        values = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
        row, is_child = np.repeat(np.arange(len(rows)), lengths), values < 0
        symbol_ptr, child_ptr = (
            pointers_of(np.bincount(row[which], minlength=len(rows))) for which in (~is_child, is_child)
        )
        symbols = sorted(self._symbols)
        number = np.empty(len(symbols), np.int64)
        number[[self._symbols[text] for text in symbols]] = np.arange(len(symbols))
        place, child = np.divmod(~values[is_child], _PLACE)
        part = Part(
            symbols=symbols,
            symbol_ptr=symbol_ptr,
            symbol=sorted_rows(symbol_ptr, number[values[~is_child]]),
            child_ptr=child_ptr,
            child=child,
            place=place,
            height=np.array(self._height, np.int64),
            digest=np.zeros(0, "S32"),
            root=np.fromiter(self._tree_of, np.int64, len(self._tree_of)),
            root_nodes=np.array(self._tree_nodes, np.int64),
            root_ptr=pointers_of(np.array(self._tree_lengths, np.int64)),
            root_subtrees=np.array(self._tree_subtrees, np.int64),
        )
        return replace(part, digest=_digests(part))

    def forest(self) -> Forest:
        """The trees so far. Orders of keys and trees do not matter, nor those of lists by default."""
        from treelstm.trees.forest import Forest  # imports torch

        trees = np.array(self._trees, np.int64)
        return Forest(**arrays_of_forest(merged([self.part()]), trees, self._child_order))


def _digests(part: Part) -> Array:
    """A name for each subtree (hex), made from its content, so equal in every forest."""
    texts = (text.encode("utf-8", "surrogatepass") for text in part.symbols)
    spelled = [b"%d:%b," % (len(text), text) for text in texts]  # sorted by the bytes of the text
    made, placed = list[bytes](), bool(part.place.any())
    for first in range(0, len(part.height), _AT_ONCE):
        own, below = (ptr[first : first + _AT_ONCE + 1] for ptr in (part.symbol_ptr, part.child_ptr))
        symbols = part.symbol[own[0] : own[-1]].tolist()
        children, places = (each[below[0] : below[-1]].tolist() for each in (part.child, part.place))
        cuts, edge_cuts = (own - own[0]).tolist(), (below - below[0]).tolist()
        for number in range(len(cuts) - 1):
            text = b"".join([spelled[each] for each in symbols[cuts[number] : cuts[number + 1]]]) + b";"
            if mine := children[edge_cuts[number] : edge_cuts[number + 1]]:
                names = [made[child] for child in mine]
                if placed:
                    each_place = places[edge_cuts[number] : edge_cuts[number + 1]]
                    names = [n + b"@%d" % p if p else n for n, p in zip(names, each_place, strict=True)]
                names.sort()
                text += b"".join(names)
            made.append(hashlib.blake2b(text, digest_size=16).hexdigest().encode())
    return np.array(made, "S32")


def compile_forest(
    asts: Iterable[Any],
    ignored_keys: Iterable[str] = (),
    share: bool = True,
    child_order: bool = False,
    first: int = 0,
) -> Forest:
    """The forest of `asts`, one tree each; `first` is the number of the first one in an error.

    Raises:
        TreeError: an AST is no JSON object, is empty, or holds what JSON has no word for; says where.
    """
    builder = ForestBuilder(ignored_keys, share, child_order)
    for number, ast in enumerate(asts, first):
        try:
            builder.add(ast, f"asts[{number}]")
        except TreeError as error:
            raise TreeError(f"{error}. Correct or remove it.") from None
    return builder.forest()
