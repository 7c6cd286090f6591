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
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, count
from typing import Any

import numpy as np

from treelstm.errors import UserError
from treelstm.trees.arrays import Array, bags_of, pointers_of
from treelstm.trees.forest import Forest
from treelstm.trees.values import NotJson, as_json, first_problem, kind, written
from treelstm.trees.vocabulary import LIST, ROLE, spelled_key, spelled_text

# Position of the parent, an earlier node, or -1; place in its list; symbols; empty list for children.
Node = tuple[int, int, list[str], list[int]]

_PLACE = 2**32  # a child is one number here: its subtree + _PLACE times its place in its list

_MANY = 10_000  # nodes after which a tree is looked through for cycles


class TreeError(UserError, ValueError):
    """An AST is no JSON object, is empty, or holds what JSON has no word for."""


class _Texts(dict[str, str]):
    """The symbol of each text under one key."""

    def __init__(self, start: str) -> None:
        self.start = start

    def __missing__(self, text: str) -> str:
        self[text] = symbol = self.start + spelled_text(text)
        return symbol


class _Keys(dict[str, _Texts | None]):
    """The symbols of each key; None for an ignored one."""

    def __missing__(self, key: object) -> _Texts:
        if not isinstance(key, str):
            raise NotJson
        self[key] = texts = _Texts(spelled_key(key))
        return texts


class ForestBuilder:
    """Collects trees one by one; `forest()` returns them as flat arrays.

    With `share=False` equal subtrees are not merged, to measure what merging saves.
    """

    def __init__(
        self, ignored_keys: Iterable[str] = (), share: bool = True, child_order: bool = False
    ) -> None:
        self._ignored, self._child_order = frozenset(ignored_keys), child_order
        self._keys, self._roles = _Keys.fromkeys(self._ignored), _Texts(ROLE)
        self._unshared = None if share else count()
        self._symbol_of: defaultdict[str, int] = defaultdict()
        self._symbol_of.default_factory = self._symbol_of.__len__  # a new symbol gets the next number
        self._id_of: dict[tuple[Any, ...], int] = {}
        self._content: list[tuple[tuple[int, ...], tuple[int, ...]]] = []  # symbols, children
        self._height: list[int] = []
        self._tree_subtrees: dict[int, tuple[int, ...]] = {}  # root -> distinct subtrees
        self._roots: list[int] = []
        self._sizes: list[int] = []

    def add(self, ast: Any, name: str = "ast") -> None:
        """Adds one tree; `name` begins the text of an error.

        Raises:
            TreeError: `ast` is no JSON object, is empty, or holds what JSON has no word for; says where.
        """
        try:
            root = as_json(ast)
            if type(root) is not dict:
                raise TreeError(f"{name} is {kind(root)}, expected a JSON object, the root of the tree")
            nodes = self._nodes(root)
        except NotJson:
            found = first_problem(ast, self._ignored) or " changes while it is read"
            raise TreeError(f"{name}{found}") from None
        if len(nodes) == 1 and not nodes[0][2]:
            none = "no symbols and no children outside the ignored keys"
            raise TreeError(f"{name} is an empty tree: {none}")
        self.add_nodes(nodes)

    def _nodes(self, root: dict[str, Any]) -> list[Node]:
        """The nodes of one AST; raises NotJson.

        Not recursive, so that only memory limits the depth of a tree.
        """
        pending: list[tuple[Any, str | None, int, int]] = [(root, None, -1, 0)]
        nodes: list[Node] = []
        keys, roles = self._keys, self._roles
        for position, (node, role, parent, place) in enumerate(pending):  # it grows during the loop
            symbols = [] if role is None else [roles[role]]
            if type(node) is list:  # it is an item of a list
                symbols.append(LIST)
                node = {role: node}
            for key, value in node.items():
                if (texts := keys[key]) is None or value is None:
                    continue
                if type(value) is str:  # by far the most frequent
                    symbols.append(texts[value])
                    continue
                value = as_json(value)
                in_order = self._child_order and type(value) is list and len(value) > 1
                for index, item in enumerate(value if type(value) is list else (value,)):
                    item = as_json(item)
                    if type(item) in (dict, list):
                        pending.append((item, key, position, index * in_order))
                    elif in_order and item is not None:
                        pending.append(({key: item}, None, position, index))
                    elif type(item) is str:
                        symbols.append(texts[item])
                    elif item is not None:
                        symbols.append(f"{texts.start}\\{written(item)}")
            nodes.append((parent, place, symbols, []))
            if position == _MANY and first_problem(root, self._ignored):  # a cycle would never end
                raise NotJson
        return nodes

    def add_nodes(self, nodes: list[Node]) -> None:
        """Adds the tree of these nodes, which it changes."""
        symbol_of = self._symbol_of.__getitem__
        subtree = -1
        distinct: set[int] = set()
        for parent, place, symbols, children in reversed(nodes):
            ids = tuple(sorted(map(symbol_of, symbols)))
            content = (ids, tuple(sorted(children)))
            key = content if self._unshared is None else (*content, next(self._unshared))
            subtree = self._id_of.setdefault(key, len(self._content))
            if subtree == len(self._content):
                self._content.append(content)
                below = (self._height[child % _PLACE] for child in children)
                self._height.append(1 + max(below, default=-1))
            distinct.add(subtree)
            if parent >= 0:
                nodes[parent][3].append(subtree + place * _PLACE)
        self._tree_subtrees.setdefault(subtree, tuple(distinct))
        self._roots.append(subtree)
        self._sizes.append(len(nodes))

    def forest(self) -> Forest:
        """The trees so far. Orders of keys and trees do not matter, nor those of lists by default."""
        symbols = sorted(self._symbol_of)
        symbol_id = {self._symbol_of[text]: number for number, text in enumerate(symbols)}
        digest, height = np.array(self._digests(), "S32"), np.array(self._height, np.int64)
        order = np.lexsort((digest, height))
        new_id = np.argsort(order)
        contents = [self._content[i] for i in order]
        trees = [self._tree_subtrees[root] for root in self._roots]
        symbol_ptr, symbol = _flat_rows([sorted([symbol_id[i] for i in ids]) for ids, _ in contents])
        child_ptr, child = _flat_rows([children for _, children in contents])
        child, place = new_id[child % _PLACE], child // _PLACE
        in_rows = np.lexsort((place, child, np.repeat(np.arange(len(order)), np.diff(child_ptr))))
        number = new_id.tolist()
        tree_ptr, tree_subtrees = _flat_rows([sorted([number[i] for i in ids]) for ids in trees])
        bag_ptr, bag = bags_of(symbol_ptr, symbol, tree_ptr, tree_subtrees)
        return Forest(
            symbols=tuple(symbols),
            symbol_ptr=symbol_ptr,
            symbol=symbol,
            child_ptr=child_ptr,
            child=child[in_rows],
            place=place[in_rows] if self._child_order else place[:0],
            height=height[order],
            root=new_id[np.array(self._roots, np.int64)],
            tree_ptr=tree_ptr,
            tree_subtrees=tree_subtrees,
            bag_ptr=bag_ptr,
            bag=bag,
            tree_nodes=np.array(self._sizes, np.int64),
            tree_digest=digest[self._roots],
        )

    def _digests(self) -> list[bytes]:
        """A name for each subtree (hex), made from its content, so equal in every forest."""
        spelling = [text.encode("utf-8", "surrogatepass") for text in self._symbol_of]
        digests: list[bytes] = []
        for symbols, children in self._content:
            parts = sorted([spelling[symbol] for symbol in symbols])
            text = b"".join(b"%d:%b," % (len(part), part) for part in parts)
            placed = (divmod(child, _PLACE) for child in children)
            below = [digests[each] + (b"@%d" % place if place else b"") for place, each in placed]
            text += b";" + b"".join(sorted(below))
            digests.append(hashlib.blake2b(text, digest_size=16).hexdigest().encode())
        return digests


def _flat_rows(rows: list[list[int]]) -> tuple[Array, Array]:
    """Row pointers, and the values of all rows one after another."""
    pointers = pointers_of(np.fromiter(map(len, rows), np.int64, len(rows)))
    return pointers, np.fromiter(chain.from_iterable(rows), np.int64, int(pointers[-1]))


def compile_forest(
    asts: Iterable[Any], ignored_keys: Iterable[str] = (), share: bool = True, child_order: bool = False
) -> Forest:
    """The forest of `asts`, one tree each.

    Raises:
        TreeError: an AST is no JSON object, is empty, or holds what JSON has no word for; says where.
    """
    builder = ForestBuilder(ignored_keys, share, child_order)
    for number, ast in enumerate(asts):
        try:
            builder.add(ast, f"asts[{number}]")
        except TreeError as error:
            raise TreeError(f"{error}. Correct or remove it.") from None
    return builder.forest()
