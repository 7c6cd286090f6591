"""A tree of a forest as a JSON AST again, to be shown, changed and read anew: the builder's way back."""

from __future__ import annotations

import json
from typing import Any

from treelstm.trees.forest import Forest
from treelstm.trees.vocabulary import LIST, ROLE, key_of, value_of


def ast_of(forest: Forest, tree: int) -> dict[str, Any]:
    """An AST that compiles to this tree, without what compiling leaves out: ignored keys, nulls, orders
    that do not count.
    """
    graph, nodes = forest.graph(tree), list[dict[str, list[Any]]]()
    places, parents = graph.place.tolist(), [-1, *graph.edge_index[0].tolist()]
    for symbols, parent, place in zip(graph.symbols, parents, places, strict=True):
        own, role = dict[str, list[Any]](), None
        for symbol in symbols:
            if symbol.startswith(ROLE):
                role = value_of(symbol)
            elif symbol != LIST:
                own.setdefault(key_of(symbol), []).append(_value(symbol))
        nodes.append(own)
        if parent >= 0:
            item: Any = own
            if role is None:  # a scalar of a list whose order counts
                ((role, (item,)),) = own.items()
            elif LIST in symbols:
                item = own.setdefault(role, [])  # its items follow
            items = nodes[parent].setdefault(role, [])
            items += [None] * (place - len(items))
            items.append(item)
    for own in nodes:
        alone = {k: v[0] for k, v in own.items() if len(v) == 1 and not isinstance(v[0], list)}
        own.update(alone)
    return nodes[0]


def _value(symbol: str) -> Any:
    """What a symbol says of its key: a text, a number or a boolean."""
    text = value_of(symbol)
    is_text = not symbol.endswith(f"=\\{text}") or text == "?" or text.startswith("\\")
    return text if is_text else json.loads(text)
