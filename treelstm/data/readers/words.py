"""Words with heads, as every dependency parser gives them, nested into one AST.

A word is a node with the symbols `form`, `lemma`, `upos` (`xpos` where there is no `upos`) and a key for
each feature. It hangs in its head under its relation; several of one relation are a list, in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from treelstm.data.readers.source import Malformed

_CORRECT = "Correct the heads or remove the tree; the head of a root is 0"


class Word(NamedTuple):
    """One word of a sentence; words are numbered from 1, and a root has the head 0."""

    id: int
    head: int
    relation: str
    node: dict[str, Any]  # its symbols
    line: int


def node_of(
    line: int, form: str | None, lemma: str | None, upos: str | None, xpos: str | None, feats: str | None
) -> dict[str, Any]:
    """A node of what is given; `feats` is written Name=Value|Name=Value.

    Raises:
        Malformed: `feats` is not written so.
    """
    given = {"form": form, "lemma": lemma, "upos": upos, "xpos": None if upos else xpos}
    node: dict[str, Any] = {key: value for key, value in given.items() if value}
    for feature in feats.split("|") if feats else ():
        name, _, values = feature.partition("=")
        if not name or not values:
            found = f"the features are {(feats or '')[:80]}"
            raise Malformed(line, found, "Write Name=Value|Name=Value, or nothing")
        for value in values.split(","):
            _attach(node, name, value)
    return node


def _attach(node: dict[str, Any], key: str, value: Any) -> None:
    """Adds a symbol or a child under `key`, beside what is there."""
    if key not in node:
        node[key] = value
    elif isinstance(node[key], list):
        node[key].append(value)
    else:
        node[key] = [node[key], value]


def nested(words: Sequence[Word]) -> dict[str, Any]:
    """The AST of a sentence; of several roots, a node without symbols that holds them.

    Raises:
        Malformed: the heads do not make a tree.
    """
    if len({word.id for word in words}) < len(words):
        raise Malformed(words[0].line, "two nodes have one number", _CORRECT)
    below = defaultdict[int, list[Word]](list)
    for word in words:
        below[word.head].append(word)
    roots, top = below[0], dict[str, Any]()
    reached = [Word(0, 0, "", top, 0)]
    for word in reached:  # it grows during the loop
        for child in below.pop(word.id, ()):
            _attach(word.node, child.relation, child.node)
            reached.append(child)
    for word in words:
        if word.head in below:
            found = f"node {word.id} has the head {word.head}, which does not lead to a root"
            raise Malformed(word.line, found, _CORRECT)
    return roots[0].node if len(roots) == 1 else top
