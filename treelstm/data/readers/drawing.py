"""A tree as indented lines, to see in a terminal or a page what the encoder will see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from treelstm.config import EncoderSettings
from treelstm.plain import shown
from treelstm.trees.builder import TreeError, compile_forest
from treelstm.trees.vocabulary import key_of

_LEVELS = 40  # more are not indented further


def drawing(
    ast: dict[str, Any], ignored_keys: Iterable[str] = EncoderSettings.ignored_keys, lines: int = 60
) -> str:
    """The symbols of each node, its role first, under its parent; at most so many nodes."""
    try:
        graph = compile_forest([ast], ignored_keys).graph(0)
    except TreeError as error:
        return str(error)
    below: list[list[int]] = [[] for _ in graph.symbols]
    for parent, child in graph.edge_index.t().tolist():
        below[parent].append(child)
    drawn, pending = list[str](), [(0, 0)]
    while pending and len(drawn) < lines:
        node, depth = pending.pop()
        symbols = sorted(graph.symbols[node], key=lambda symbol: key_of(symbol) != "role")
        drawn.append("  " * min(depth, _LEVELS) + shown("  ".join(symbols) or "·").replace("\n", " "))
        pending += [(child, depth + 1) for child in reversed(below[node])]
    more = len(graph.symbols) - len(drawn)
    return "\n".join([*drawn, f"... {more:,} more nodes"] if more else drawn)
