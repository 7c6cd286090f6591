"""What the ASTs of a corpus hold, in the order of their text and with their ignored keys.

The compiled forest has lost both, so some trees of each file are read again, spread evenly over it.

Shapes: N nodes in the order of the text, K values of one key.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from treelstm.data.foreign import is_parents, links
from treelstm.data.pairs import Pairs, Problems
from treelstm.data.reading import read_jsonl
from treelstm.trees.forest import Array

SURVEYED_NODES = 20_000  # in each file
_FILES = {"file", "filename", "source", "path", "uri", "identifierName"}  # texts beside positions
_DIGITS = re.compile("[0-9]+")


@dataclass
class Key:
    """The values of one key: texts, numbers, positions as tuples of numbers, `...` for anything else."""

    node: list[int] = field(default_factory=list)  # [K]
    value: list[Any] = field(default_factory=list)  # [K]

    def note(self, node: int, value: Any) -> None:
        self.node.append(node)
        self.value.append(value)

    @cached_property
    def numbers(self) -> tuple[str, Array, Array] | None:
        """What the whole numbers of nearly all values stand in, as "n#"; their nodes and rows."""
        step = max(1, len(self.value) // 50)  # most keys are words, which a glance shows
        for values in (self.value[::step], self.value):
            rows = [_whole_numbers(value) for value in values]
            shape, count = Counter(each for each, _ in rows).most_common(1)[0]
            if "#" not in shape or count < 0.9 * len(values):
                return None
        kept = [k for k, (each, _) in enumerate(rows) if each == shape]
        return shape, np.array(self.node)[kept], np.array([rows[k][1] for k in kept])


def _whole_numbers(value: Any) -> tuple[str, list[float]]:
    if isinstance(value, str):
        value = value[:80]  # and what is longer is no position
        return _DIGITS.sub("#", value), [*map(float, _DIGITS.findall(value))]
    numbers = value if isinstance(value, tuple) else [value] * (type(value) is int)
    small = [float(number) for number in numbers if abs(number) < 2**63]
    return "#" * len(small), small


def _position(value: dict[str, Any] | list[Any]) -> tuple[int, ...] | None:
    """The numbers of [12, 17], {"line": 3, "column": 5} and the like: 2 to 8 whole numbers, no text."""
    found, pending = list[int](), list[Any]([value])
    for item in pending:  # it grows during the loop
        if isinstance(item, dict):
            pending += [one for key, one in item.items() if key not in _FILES]
        elif isinstance(item, list) and not any(isinstance(one, dict) for one in item):
            pending += item
        elif type(item) is int and abs(item) < 2**53:
            found.append(item)
        elif item is not None:
            return None
        if len(pending) > 20:
            return None
    return tuple(found) if 2 <= len(found) <= 8 else None


@dataclass
class Survey:
    """Some trees of a corpus, node by node."""

    ignored: frozenset[str]
    asts: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[tuple[int, int, int, str]] = field(default_factory=list)  # [N] parent, level, tree, role
    keys: defaultdict[str, Key] = field(default_factory=lambda: defaultdict(Key))
    hidden: defaultdict[str, Key] = field(default_factory=lambda: defaultdict(Key))  # ignored ones
    visible: dict[int, dict[str, Any]] = field(default_factory=dict)  # what nodes with ignored keys keep
    flat: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # links: trees

    def add(self, ast: dict[str, Any]) -> None:
        tree = len(self.asts)
        pending: list[tuple[dict[str, Any], int, int, str]] = [(ast, -1, 0, "")]
        self.asts.append(ast)
        while pending:
            node, parent, level, role = pending.pop()
            me, below, hides = len(self.nodes), [], False
            self.nodes.append((parent, level, tree, role))
            for key, value in node.items():
                if value is None or value == []:
                    continue
                if key in self.ignored:
                    hides = True
                    self.hidden[key].note(me, value if isinstance(value, str) else ...)
                elif not isinstance(value, dict | list):
                    self.keys[key].note(me, value)
                elif position := _position(value):
                    self.keys[key].note(me, position)
                else:
                    self.keys[key].note(me, ...)
                    items = [value]
                    while items:
                        item = items.pop()
                        if isinstance(item, dict):
                            below.append((item, me, level + 1, key))
                        elif isinstance(item, list):
                            items += reversed(item)
                        elif item is not None:
                            self.keys[key].note(me, item)
                if isinstance(value, list) and (said := _flat_list(value, node)):
                    self.flat[f"{key}: {said}"].add(tree)
            if hides:
                plain = ((k, v) for k, v in node.items() if not isinstance(v, dict | list | None))
                self.visible[me] = {k: v for k, v in plain if k not in self.ignored}
            pending += reversed(below)


def _flat_list(value: list[Any], node: dict[str, Any]) -> str:
    """The keys or words that say which tree a list stands for, as token lists do; or ""."""
    first = value[0]
    if isinstance(first, dict | list):
        items = first if isinstance(first, list) else value
        said = links(items) if len(items) > 1 else ""
        return said if said.split(", ")[-1] not in node else ""  # a node with a head of its own nests
    lists = [one for one in node.values() if isinstance(one, list) and one]
    others = [len(one) for one in lists if isinstance(one[0], str | dict)]
    parents = type(first) is int and len(value) in others and is_parents(value)
    return "a list of parents" if parents else ""


def survey(pairs: Pairs) -> Survey:
    """Of the distinct trees of these pairs, `SURVEYED_NODES` in each file, spread evenly."""
    roots, nodes = pairs.forest.root[pairs.trees], pairs.forest.tree_nodes[pairs.trees]
    _, first = np.unique(roots, return_index=True)
    first = np.sort(first[nodes[first] <= max(SURVEYED_NODES, nodes.min())])
    found = Survey(frozenset(pairs.ignored_keys))
    for number, path in enumerate(pairs.paths):
        mine = first[pairs.file[first % len(pairs)] == number]
        mine = mine[:: 1 + int(nodes[mine].sum()) // SURVEYED_NODES]
        sides = ("ast1", "ast2")
        wanted = {(int(pairs.line[k % len(pairs)]), sides[k // len(pairs)]) for k in mine.tolist()}
        for line, record in read_jsonl(path, Problems(), {}, {line for line, _ in wanted}):
            for side in sides:
                if (line, side) in wanted and isinstance(ast := record[side]["ast"], dict):
                    found.add(ast)
    return found
