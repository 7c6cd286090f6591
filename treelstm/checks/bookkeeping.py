"""Which keys of ASTs hold positions in the text or ids, told by their names and how their values behave.

Shapes: N nodes in the order of the text, K of them with a key, R numbers in each of its values.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from treelstm.data.survey import Survey
from treelstm.trees.arrays import Array

_ENOUGH = 12  # cases that are alike, which chance does not explain
_MANY = 8  # different values

# Names, in lower case and without _ and -.
_UNIT, _EDGE = "line|col|column|row|byte|char|character", "start|begin|end"
_PART = f"{_UNIT}|{_EDGE}|index|offset|pos|position|point|no|nr|num|number"
_POSITION = re.compile(f"({_PART}){{2,}}")  # such as lineno or endColOffset: nothing else is called so
_PERHAPS = re.compile(f"{_UNIT}|{_EDGE}|index|offset|position|loc|location|length|range|span")
_ID = re.compile(".*(id|hash|address)")

_LETTER = re.compile(r"[^\W\d_]")
_HEXADECIMAL = re.compile("(0x)?[0-9a-f]{8}[0-9a-f-]*", re.IGNORECASE)


class _Column(NamedTuple):
    """A key whose values are whole numbers, and where they stand."""

    name: str
    nodes: list[int]  # [K]
    rows: Array  # [K, R]
    groups: list[Array]  # [K] each: which nodes share a tree, a parent, a parent and the key there


def bookkeeping(found: Survey) -> list[str]:
    """The keys that hold positions, ids, or ids of parents.

    Some tell by themselves; others belong to one of these, or repeat what the parent has under one.
    """
    columns = {key: column for key in found.values if (column := _column(found, key))}
    telling = {  # the first number of each row that tells, by node
        key: dict(zip(column.nodes, number.tolist(), strict=True))
        for key, column in columns.items()
        for number in column.rows.T[::-1]
        if _is_telling(number, column)
    }
    chosen = {*telling, *(key for key in found.values if _are_hashes(found, key))}
    chosen |= {
        k for k, column in columns.items() if any(_belongs(column, of) for of in telling.values())
    }
    return sorted(chosen | {k for k in found.values for other in chosen if _repeats(found, k, other)})


def _column(found: Survey, key: str) -> _Column | None:
    """None unless nearly all values are whole numbers, equally many in each, and one value to a node.

    They may stand in texts, beside letters ("t_12") only if the key's name allows it.
    """
    letters = any(rule.fullmatch(_name(key)) for rule in (_ID, _POSITION, _PERHAPS))
    rows = defaultdict[int, dict[int, list[float]]](dict)  # by their length
    for node, value in found.values[key]:
        row = list(value) if isinstance(value, tuple) else []
        if isinstance(value, str) and (letters or not _LETTER.search(value)):
            row = re.findall("[0-9]{1,15}", value)
        elif type(value) is int and abs(value) < 2**63:
            row = [value]
        rows[len(row)][node] = [*map(float, row)]
    kept = rows[max(rows, key=lambda width: len(rows[width]))]
    numbers = np.array([*kept.values()])
    if not numbers.size or len(kept) < 0.9 * len(found.values[key]):
        return None
    nodes = [found.nodes[each] for each in kept]
    places = [(node.tree, node.parent, f"{node.parent} {node.role}") for node in nodes]
    groups = [np.unique(each, return_inverse=True)[1] for each in zip(*places, strict=True)]
    return _Column(_name(key), [*kept], numbers, groups)


def _name(key: str) -> str:
    return re.sub("[_-]", "", key.lower())


def _is_telling(number: Array, column: _Column) -> bool:
    """Whether a number has the name of a position, rises through a text, or names the nodes."""
    if _POSITION.fullmatch(column.name):
        return True
    years = number.min() >= 1000 and number.max() <= 2100
    if years or len(np.unique(number)) < _MANY:
        return False
    in_tree, *in_lists = (_rises(number, group) for group in column.groups)
    begins = number[np.unique(column.groups[1], return_index=True)[1]]
    anew = len(begins) >= 10 and len(np.unique(begins)) < _MANY  # places in a list, not in the text
    return in_tree or (any(in_lists) and not anew) or _names_nodes(number, column)


def _names_nodes(number: Array, column: _Column) -> bool:
    """Whether numbers count the nodes of each tree in any order, or are ids by size or name."""
    order = np.lexsort((number, column.groups[0]))
    step = np.diff(number[order])[np.diff(column.groups[0][order]) == 0]
    large = np.median(number) > 2**31
    if len(step) >= _ENOUGH and np.mean(step > 0 if large else step == 1) > 0.95:
        return True
    unique = len(number) >= 50 and len(np.unique(number)) > 0.98 * len(number)
    return unique and bool(large or _ID.fullmatch(column.name))


def _rises(number: Array, *groups: Array) -> bool:
    """Whether nearly all steps inside groups that change a number make it larger."""
    order = np.lexsort(groups)
    same = np.all([group[order][1:] == group[order][:-1] for group in groups], axis=0)
    step = np.diff(number[order])[same]
    return int((step > 0).sum()) >= max(_ENOUGH, 10 * int((step < 0).sum()))


def _belongs(column: _Column, position: dict[int, float]) -> bool:
    """Whether a column rises where a position stays the same, or has a name for what is beside it."""
    beside = np.array([position.get(node, np.nan) for node in column.nodes])
    near = np.mean(~np.isnan(beside)) > 0.9 or column.rows.shape[1] > 1
    if near and _PERHAPS.fullmatch(column.name):
        return True
    return any(_rises(column.rows[:, 0], beside, group) for group in column.groups)


def _are_hashes(found: Survey, key: str) -> bool:
    """Whether texts all differ and are hexadecimal, or hold digits under a name of ids."""
    texts = {value for _, value in found.values[key] if isinstance(value, str)}
    fits = re.compile("[0-9]").search if _ID.fullmatch(_name(key)) else _HEXADECIMAL.fullmatch
    return len(texts) >= max(20, 0.98 * len(found.values[key])) and all(map(fits, texts))


def _repeats(found: Survey, key: str, other: str) -> bool:
    """Whether a key has what the parent has under another one, as heads do."""
    above = dict(found.values[other])
    pairs = [(above.get(found.nodes[node].parent), value) for node, value in found.values[key]]
    same = [one == value for one, value in pairs if one is not None]
    return key != other and sum(same) >= max(_ENOUGH, 0.9 * len(same))
