"""What the ASTs of a corpus hold, in the order of their text and with their ignored keys.

The compiled forest has lost both, so some trees of each file are read again, spread evenly over it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from treelstm.data.files import holds_trees
from treelstm.data.pairs import Pairs
from treelstm.data.problems import Problems
from treelstm.data.reading import read_jsonl

SURVEYED_NODES = 10_000  # in each file, about
_FILES = {"file", "filename", "source", "path", "uri", "identifierName"}  # texts beside positions


class Node(NamedTuple):
    """One object of a tree."""

    content: dict[str, Any]
    parent: int  # number of an earlier node, or -1
    tree: int
    role: str  # the key that it hangs under


@dataclass
class Survey:
    """Some trees of a corpus, node by node.

    The values of a key: scalars, positions as tuples of numbers, `...` for any other object or list.
    """

    ignored: frozenset[str]
    asts: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    values: defaultdict[str, list[tuple[int, Any]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, ast: dict[str, Any]) -> None:
        pending = [Node(ast, -1, len(self.asts), "")]
        self.asts.append(ast)
        while pending:
            node, me, below = pending.pop(), len(self.nodes), list[Node]()
            self.nodes.append(node)
            for key, value in node.content.items():
                if key in self.ignored or value is None:
                    continue
                if not isinstance(value, dict | list):  # by far the most frequent
                    self.values[key].append((me, value))
                    continue
                position = _position(value)
                if value != []:
                    self.values[key].append((me, position or ...))
                items = [] if position else [value]
                while items:
                    item = items.pop()
                    if isinstance(item, dict):
                        below.append(Node(item, me, node.tree, key))
                    elif isinstance(item, list):
                        items += reversed(item)
                    elif item is not None:
                        self.values[key].append((me, item))
            pending += reversed(below)


def _position(value: Any) -> tuple[int, ...] | None:
    """The numbers of [12, 17], {"line": 3, "column": 5} and the like: 2 to 8 whole numbers, no text."""
    numbers, pending = list[int](), [value]
    for item in pending:  # it grows during the loop
        if isinstance(item, dict):
            pending += [one for key, one in item.items() if key not in _FILES]
        elif isinstance(item, list) and not any(isinstance(one, dict) for one in item):
            pending += item
        elif type(item) is int and abs(item) < 2**63:
            numbers.append(item)
        elif item is not None:
            return None
        if len(pending) > 20:
            return None
    return tuple(numbers) if 2 <= len(numbers) <= 8 else None


def survey(pairs: Pairs) -> Survey:
    """Of each file, pairs of about `SURVEYED_NODES` nodes, spread evenly; equal trees count once.

    Where pairs name trees, of all trees about as many.
    """
    found, seen = Survey(frozenset(pairs.ignored_keys)), set[int]()
    roots, nodes = pairs.forest.root, pairs.forest.tree_nodes.astype(np.int64)
    both = nodes[pairs.first] + nodes[pairs.second]
    small = both <= max(SURVEYED_NODES, both.min())
    trees = [path for path in pairs.paths if holds_trees(path)]
    every = range(1, 2**62, 1 + int(nodes.sum()) // SURVEYED_NODES)
    for path in trees:
        for _, record in read_jsonl(path, Problems(), every):
            found.add(record["ast"])
    for number, path in enumerate(() if trees else pairs.paths):
        mine = np.flatnonzero(small & (pairs.file == number))
        mine = mine[:: 1 + int(both[mine].sum()) // SURVEYED_NODES]
        sides = np.stack((roots[pairs.first[mine]], roots[pairs.second[mine]]), 1).tolist()
        wanted = dict(zip(pairs.line[mine].tolist(), sides, strict=True))
        for line, record in read_jsonl(path, Problems(), {*wanted}):
            for side, root in zip(("ast1", "ast2"), wanted[line], strict=True):
                if root not in seen:
                    seen.add(root)
                    found.add(record[side]["ast"])
    return found
