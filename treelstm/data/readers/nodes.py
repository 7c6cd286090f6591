"""Trees as flat lists: nodes that name their children or parent by ids, as in py150 and astminer."""

from __future__ import annotations

from typing import Any

from treelstm.data.readers.source import Malformed
from treelstm.data.readers.words import Word, nested

_IDS = ("id", "children", "parent")


def linked(line: int, nodes: list[Any]) -> dict[str, Any]:
    """The AST of nodes whose `children` are ids, or whose `parent` is one; the ids stay out.

    A node's id is its `id`, else its place in the list, from 0.

    Raises:
        Malformed: the ids do not make a tree.
    """
    if nodes and nodes[-1] == 0:  # how the lists of js150 and py150 end
        nodes = nodes[:-1]
    ids = [node.get("id", place) if isinstance(node, dict) else None for place, node in enumerate(nodes)]
    places = {number: place for place, number in enumerate(ids) if _is_id(number)}
    if len(places) < len(nodes) or not nodes:
        raise Malformed(line, "a list of nodes where one has no id of its own", _CORRECT)
    parents, order = [0] * len(nodes), list[int]()  # as places from 1, 0: none; as the lists name them
    for place, node in enumerate(nodes):
        children = node.get("children") or []
        links = [(each, place) for each in children] if isinstance(children, list) else [(None, place)]
        if (above := node.get("parent")) not in (None, -1):
            links.append((ids[place], places.get(above, -1) if _is_id(above) else -1))
        for child, parent in links:
            if not _is_id(child) or child not in places or parent < 0:
                raise Malformed(line, f"node {ids[place]} names a node that does not exist", _CORRECT)
            below = places[child]
            if parents[below] not in (0, parent + 1):
                raise Malformed(line, f"node {child} has two parents", _CORRECT)
            if not parents[below]:
                order.append(below)
            parents[below] = parent + 1
    roots = [place for place, parent in enumerate(parents) if not parent]
    if len(roots) != 1:
        raise Malformed(line, f"a list of nodes with {len(roots)} roots, expected one", _CORRECT)
    own = [{key: value for key, value in node.items() if key not in _IDS} for node in nodes]
    return nested([Word(i + 1, parents[i], "children", own[i], line) for i in roots + order])


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


_CORRECT = "Correct the ids or remove the tree"
