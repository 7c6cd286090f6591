"""Why an encoder puts two trees near to each other or far apart: what each subtree and symbol does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from treelstm.model.encoder import GAIN_SCALE, TreeEncoder, distances
from treelstm.neutral import neutral_torch
from treelstm.trees.arrays import Array, entries
from treelstm.trees.builder import ForestBuilder, Node
from treelstm.trees.forest import Forest

_MOST_NODES = 500  # of each tree, from the root on, in the order of `Forest.graph`
_MOST_WORK = 250_000  # nodes that are encoded for a tree: of one over 500 nodes, fewer are left out


@dataclass(frozen=True)
class Explanation:
    """The distance of two trees, taken apart."""

    distance: float
    of_trees: float  # the part of the distance that comes from the trees' states
    of_bags: float  # the part that comes from the bags of symbols; both add up to the distance
    without: tuple[Array, Array]  # for each node of the two trees, how the distance changes without it
    nodes: tuple[list[list[str]], list[list[str]]]  # the symbols of these nodes
    symbols: dict[str, float]  # what each symbol adds to `of_bags`, strongest first

    def strongest(self, count: int = 10) -> list[tuple[int, int, float]]:
        """The nodes that matter most: tree (0 or 1), node, change of the distance."""
        both = [(tree, node, float(x)) for tree in (0, 1) for node, x in enumerate(self.without[tree])]
        known = [each for each in both if not np.isnan(each[2])]
        return sorted(known, key=lambda each: -abs(each[2]))[:count]


@neutral_torch()
@torch.no_grad()
def explain(encoder: TreeEncoder, forest: Forest, trees: Sequence[int]) -> Explanation:
    """Explains the distance of two trees of a forest.

    Each subtree is left out in turn, and both trees are encoded again: a change below 0 says that the
    subtree keeps the trees apart, above 0 that it brings them together. The root cannot be left out
    (NaN). The first 500 nodes of each tree are explained, of a larger tree fewer.
    """
    variants, nodes = _variants(forest, trees)
    counts = [len(each) for each in nodes]
    own, other = encoder.encode_trees(variants, np.arange(len(variants))).split(counts)
    distance = float(distances(own[:1], other[:1]))
    without = [
        np.append(np.nan, (distances(part[1:], whole) - distance).cpu().numpy())
        for part, whole in ((own, other[:1]), (other, own[:1]))
    ]
    symbols = _of_symbols(encoder, forest, trees, (own[0] - other[0]))
    of_bags = sum(symbols.values())
    return Explanation(
        distance=distance,
        of_trees=distance - of_bags,
        of_bags=of_bags,
        without=(without[0], without[1]),
        nodes=(nodes[0], nodes[1]),
        symbols=dict(sorted(symbols.items(), key=lambda item: -abs(item[1]))),
    )


def _variants(forest: Forest, trees: Sequence[int]) -> tuple[Forest, list[list[list[str]]]]:
    """For each tree: itself, then without each of its first nodes but the root; these nodes' symbols.
    Siblings of a node that is left out keep their places, as if null stood there.
    """
    builder, symbols = ForestBuilder(child_order=len(forest.place) > 0), list[list[list[str]]]()
    for tree in trees:
        graph = forest.graph(tree)
        parents = [-1, *graph.edge_index[0].tolist()]
        nodes = [*zip(parents, graph.place.tolist(), graph.symbols, strict=True)]
        count = min(len(nodes), _MOST_NODES, max(_MOST_WORK // len(nodes), 2))
        for gap in range(count):  # a gap at the root: the whole tree
            position, kept = {-1: -1}, list[Node]()
            for node, (parent, place, own) in enumerate(nodes):
                if parent in position and (node != gap or not gap):
                    position[node] = len(kept)
                    kept.append((position[parent], place, own))
            builder.add_nodes(kept)
        symbols.append(graph.symbols[:count])
    return builder.forest(), symbols


def _of_symbols(
    encoder: TreeEncoder, forest: Forest, trees: Sequence[int], apart: torch.Tensor
) -> dict[str, float]:
    """What each symbol of the bags adds to the distance.

    The distance is the product of the difference of the encodings and its direction, so each symbol's
    part of the difference, times the direction, is its part of the distance.
    """
    length = float(torch.linalg.vector_norm(apart))
    if not encoder.settings.bag_of_symbols or length == 0:
        return {}
    ids, embedding = encoder.reading(forest)
    direction = torch.exp(encoder.gain * GAIN_SCALE) * (encoder.bag_weight.t() @ apart) / length
    parts: dict[str, float] = {}
    for tree, sign in zip(trees, (1.0, -1.0), strict=True):
        bag = forest.bag[entries(forest.bag_ptr, np.array([tree]))[0]]
        rows = embedding[ids[bag]]
        each = rows @ direction / torch.linalg.vector_norm(rows.sum(0))
        for symbol, part in zip(bag.tolist(), each.tolist(), strict=True):
            text = forest.symbols[symbol]
            parts[text] = parts.get(text, 0.0) + sign * part
    return parts
