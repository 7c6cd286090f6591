"""Parts of a forest, compiled apart from each other, as flat arrays; how they become one.

Shapes: N distinct subtrees, R roots, S symbols, E child-parent edges. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from treelstm.trees.arrays import Array, bags_of, entries, pieces_of_rows, pointers_of, rows_of

_AT_ONCE = 2**18  # symbols of trees: few are sorted faster


@dataclass(frozen=True)
class Part:
    """Distinct subtrees, children before parents, and some of them that are roots of trees."""

    symbols: list[str]  # sorted
    symbol_ptr: Array  # [N + 1]
    symbol: Array  # [S] sorted inside a subtree
    child_ptr: Array  # [N + 1]
    child: Array  # [E]
    place: Array  # [E]
    height: Array  # [N]
    digest: Array  # [N] hexadecimal
    root: Array  # [R] subtrees
    root_nodes: Array  # [R] nodes of the tree
    root_ptr: Array  # [R + 1]
    root_subtrees: Array  # distinct subtrees of each root


def merged(parts: Sequence[Part]) -> Part:
    """One part with the roots of all, in their order; equal subtrees of different parts are one.

    Subtrees are sorted by height, then by digest, so their order does not depend on the parts. Rows are
    sorted as in `Forest`.
    """
    symbols = sorted(set().union(*(part.symbols for part in parts)))
    number = {text: place for place, text in enumerate(symbols)}
    symbol_ids = [np.array([number[text] for text in part.symbols], np.int64) for part in parts]
    height, digest = (np.concatenate([getattr(part, n) for part in parts]) for n in ("height", "digest"))
    halves = np.frombuffer(bytes.fromhex(digest.tobytes().decode()), ">u8").astype(np.uint64)
    order = np.lexsort((halves[::2], height))
    same = np.diff(halves[2 * order]) == 0
    if (np.diff(halves[2 * order + 1])[same] != 0).any():  # halves of different digests are equal
        order = np.lexsort((halves[1::2], halves[::2], height))
        same = (np.diff(halves[2 * order]) == 0) & (np.diff(halves[2 * order + 1]) == 0)
    kept = np.ones(len(order), bool)
    if len(parts) > 1:
        kept[1:] = ~same
    new_id = np.empty_like(order)
    new_id[order] = np.cumsum(kept) - 1
    order = order[kept]

    def rows(ptr: str, name: str, new: Sequence[Array] | None) -> tuple[Array, Array]:
        """Pointers and values of the rows of the kept subtrees."""
        values = [getattr(part, name) for part in parts]
        values = [of[each] for of, each in zip(new, values, strict=True)] if new else values
        lengths = np.concatenate([np.diff(getattr(part, ptr)) for part in parts])
        positions, each = entries(pointers_of(lengths), order)
        return pointers_of(each), np.concatenate(values)[positions]

    new_ids = np.split(new_id, np.cumsum([len(part.height) for part in parts])[:-1])
    both = [*zip(new_ids, parts, strict=True)]
    symbol_ptr, symbol = rows("symbol_ptr", "symbol", symbol_ids)
    child_ptr, child = rows("child_ptr", "child", new_ids)
    _, place = rows("child_ptr", "place", None)
    in_rows = np.lexsort((place, child, rows_of(child_ptr)))
    root_ptr = pointers_of(np.concatenate([np.diff(part.root_ptr) for part in parts]))
    of_roots = np.concatenate([new[part.root_subtrees] for new, part in both])
    return Part(
        symbols=symbols,
        symbol_ptr=symbol_ptr,
        symbol=symbol,  # its rows stay sorted, as symbols are sorted in each part
        child_ptr=child_ptr,
        child=child[in_rows],
        place=place[in_rows],
        height=height[order],
        digest=digest[order],
        root=np.concatenate([new[part.root] for new, part in both]),
        root_nodes=np.concatenate([part.root_nodes for part in parts]),
        root_ptr=root_ptr,
        root_subtrees=sorted_rows(root_ptr, of_roots),
    )


def arrays_of_forest(part: Part, trees: Array, child_order: bool) -> dict[str, Any]:
    """The fields of a `Forest` whose trees are these of the roots of a merged part."""
    positions, lengths = entries(part.root_ptr, trees)
    tree_ptr, tree_subtrees = pointers_of(lengths), part.root_subtrees[positions]
    symbols_to = pointers_of(np.diff(part.symbol_ptr)[tree_subtrees])[tree_ptr]
    bags, each = list[Array](), list[Array]()
    for first, end in pieces_of_rows(symbols_to, _AT_ONCE):
        pointers = tree_ptr[first : end + 1] - tree_ptr[first]
        mine = tree_subtrees[tree_ptr[first] : tree_ptr[end]]
        ptr, bag = bags_of(part.symbol_ptr, part.symbol, pointers, mine)
        bags.append(bag)
        each.append(np.diff(ptr))
    return {
        "symbols": tuple(part.symbols),
        "symbol_ptr": part.symbol_ptr,
        "symbol": part.symbol,
        "child_ptr": part.child_ptr,
        "child": part.child,
        "place": part.place if child_order else part.place[:0],
        "height": part.height,
        "root": part.root[trees],
        "tree_ptr": tree_ptr,
        "tree_subtrees": tree_subtrees,
        "bag_ptr": pointers_of(np.concatenate([np.zeros(0, np.int64), *each])),
        "bag": np.concatenate([np.zeros(0, np.int64), *bags]),
        "tree_nodes": part.root_nodes[trees],
        "tree_digest": part.digest[part.root[trees]],
    }


def sorted_rows(pointers: Array, values: Array) -> Array:
    """Values that are not negative, sorted inside each row."""
    end = int(values.max(initial=0)) + 1
    starts = rows_of(pointers) * end
    return np.asarray(np.sort(starts + values) - starts)
