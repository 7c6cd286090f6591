"""Why an encoder puts two trees near to each other or far apart: what each subtree and symbol does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from treelstm.model.encoder import GAIN_SCALE, TreeEncoder, distances
from treelstm.neutral import neutral_torch
from treelstm.trees.builder import ForestBuilder
from treelstm.trees.forest import Array, Forest, entries

MOST_NODES = 64  # of each tree, from the root on, in the order of `Forest.graph`: what a figure shows


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
    subtree keeps the trees apart, above 0 that it brings them together. Equal subtrees are shared, so
    only the nodes from the gap to the root are new. The root cannot be left out (NaN). The first 64
    nodes of each tree are explained.
    """
    graphs = [forest.graph(tree) for tree in trees]
    builder = ForestBuilder()
    for graph in graphs:
        parents = [-1, *graph.edge_index[0].tolist()]
        for gap in range(min(len(parents), MOST_NODES)):  # a gap at the root: the whole tree
            place = {-1: -1}  # of the nodes that stay
            for node, parent in enumerate(parents):
                if parent in place and (node != gap or node == 0):
                    place[node] = len(place) - 1
            del place[-1]
            builder.add_nodes(
                [(place.get(parents[node], -1), list(graph.symbols[node]), []) for node in place]
            )
    variants = builder.forest()
    z = encoder.encode_trees(variants, np.arange(len(variants)))
    counts = [min(len(graph.symbols), MOST_NODES) for graph in graphs]
    own, other = z.split(counts)
    distance = float(distances(own[:1], other[:1]))
    without = [
        np.append(np.nan, (distances(part[1:], whole) - distance).cpu().numpy())
        for part, whole in ((own, other[:1]), (other, own[:1]))
    ]
    symbols = _of_symbols(encoder, forest, trees, (own[0] - other[0]))
    of_bags = sum(symbols.values())
    nodes = [graph.symbols[:count] for graph, count in zip(graphs, counts, strict=True)]
    return Explanation(
        distance=distance,
        of_trees=distance - of_bags,
        of_bags=of_bags,
        without=(without[0], without[1]),
        nodes=(nodes[0], nodes[1]),
        symbols=dict(sorted(symbols.items(), key=lambda item: -abs(item[1]))),
    )


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
