"""Words with heads, as every dependency parser gives them, nested into one AST.

A word is a node with the symbols `form`, `lemma`, `upos` (`xpos` where there is no `upos`) and a key for
each feature. It hangs in its head under its relation; several of one relation are a list, in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from treelstm.data.readers.source import Malformed


@dataclass
class Word:
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
    tag = ("upos", upos) if upos else ("xpos", xpos)
    node: dict[str, Any] = {k: value for k, value in (("form", form), ("lemma", lemma), tag) if value}
    for feature in feats.split("|") if feats else ():
        name, _, values = feature.partition("=")
        if not name or not values:
            found = f"the features are {(feats or '')[:80]}"
            raise Malformed(line, found, "Write Name=Value|Name=Value, or nothing")
        for value in values.split(","):
            attach(node, name, value)
    return node


def attach(node: dict[str, Any], key: str, value: Any) -> None:
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
    known, below = {word.id for word in words}, defaultdict[int, list[Word]](list)
    if len(known) < len(words):
        raise Malformed(words[0].line, "two nodes have one number", _CORRECT)
    for word in words:
        if word.head == word.id:
            raise Malformed(word.line, f"node {word.id} is its own head", _CORRECT)
        if word.head and word.head not in known:
            found = f"node {word.id} has the head {word.head}, which is not there"
            raise Malformed(word.line, found, _CORRECT)
        below[word.head].append(word)
    reached = list(below[0])
    for word in reached:  # it grows during the loop
        reached += below[word.id]
    if len(reached) < len(words):
        among = {word.id for word in reached}
        lost = next(word for word in words if word.id not in among)
        found = f"node {lost.id} does not lead to a root: its heads form a circle"
        raise Malformed(lost.line, found, _CORRECT)
    roots = Word(0, 0, "", {}, 0)
    for word in (roots, *reached):
        for child in below[word.id]:
            attach(word.node, child.relation, child.node)
    return below[0][0].node if len(below[0]) == 1 else roots.node


_CORRECT = "Correct the heads or remove the sentence; the head of a root is 0"
