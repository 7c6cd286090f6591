"""A map of encodings: every distinct tree of some pairs is a point, to be looked at and chosen.

Shapes: T distinct trees, N distinct subtrees.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import anywidget
import ipywidgets
import matplotlib
import numpy as np
import traitlets
from matplotlib.colors import to_hex

from treelstm import themes
from treelstm.data.pairs import Pairs
from treelstm.evaluation import PairScorer, distinct_trees, nearest, principal_components, ranks_off
from treelstm.figures import map_figure
from treelstm.plain import shown
from treelstm.tables import html_of
from treelstm.tree_figures import tree_text
from treelstm.trees.arrays import Array, rows_of
from treelstm.trees.forest import Forest
from treelstm.trees.vocabulary import LIST, ROLE, key_of, value_of
from treelstm.widgets.base import NightForm, together
from treelstm.widgets.sentences import TreeChoice

_VALUES = 7  # that have a colour and a mark of their own; the others share one
_NODES, _ERROR, _CLASS = "nodes", "error", "class"  # keys of trees follow as "key KEY"


class TreeMap(NightForm, anywidget.AnyWidget):
    """Encodings by their first two principal components; a click chooses a sentence in `choice`, whose
    tree and its neighbours are named. `.selected` are the positions of the trees inside the lasso.
    """

    _esm = together("common.js", "plane.js", "map.js")
    _css = themes.CSS + together("trees.css")
    choice = traitlets.Instance(TreeChoice).tag(sync=True, **ipywidgets.widget_serialization)
    about = traitlets.Unicode().tag(sync=True)
    points = traitlets.Bytes().tag(sync=True)  # float32 [T, 2]
    nodes = traitlets.Bytes().tag(sync=True)  # int32 [T]
    errors = traitlets.Bytes().tag(sync=True)  # float32 [T]
    error_means = traitlets.Unicode().tag(sync=True)
    links = traitlets.Bytes().tag(sync=True)  # int32 [pairs labelled similar, 2]
    colours: traitlets.List[Any] = traitlets.List().tag(sync=True)  # what `colour` may be, and its words
    colour = traitlets.Unicode(_NODES).tag(sync=True)
    coloured = traitlets.Dict().tag(sync=True)  # the points' numbers or codes, and what they mean
    ramps = traitlets.Dict().tag(sync=True)  # colours from low to high, for light and dark pages
    named: traitlets.List[int] = traitlets.List().tag(sync=True)  # the chosen tree, then its neighbours
    selected: traitlets.List[int] = traitlets.List().tag(sync=True)

    def __init__(
        self, scorer: PairScorer, pairs: Pairs, choice: TreeChoice, label_keys: Sequence[str] = ()
    ) -> None:
        """`scorer` is that of an encoder; `label_keys` name nodes."""
        assert scorer.encoder is not None
        self._pairs, self._scorer, self._keys, forest = pairs, scorer, label_keys, pairs.forest
        self._trees, first, second = distinct_trees(pairs)
        self._points, self._share = principal_components(scorer.encoder, pairs)
        self._errors, means = tree_errors(scorer, pairs)
        similar = (pairs.label == 1) & (first != second)
        keys = Counter(key_of(each) for each in forest.symbols if not each.startswith((ROLE, LIST)))
        several = sorted((key for key in keys if keys[key] > 1), key=lambda k: (k not in label_keys, k))
        colours = [[_NODES, "nodes of the tree"], [_ERROR, means], [_CLASS, "labels of its pairs"]]
        held = f"the two components hold {self._share:.0%} of the variance"
        super().__init__(
            choice=choice,
            about=shown(f"{scorer.encoder.origin}: {len(self._trees):,} trees; {held}"),
            points=self._points.astype("<f4").tobytes(),
            nodes=forest.tree_nodes[self._trees].astype("<i4").tobytes(),
            errors=self._errors.astype("<f4").tobytes(),
            error_means=means,
            links=np.stack((first[similar], second[similar]), axis=1).astype("<i4").tobytes(),
            colours=colours + [[f"key {key}", f"{shown(key)} (nearest to the root)"] for key in several],
            ramps={"light": _ramp(0, 0.62), "dark": _ramp(0.4, 1)},
        )
        self._name(choice.value)
        self._colour()
        choice.follow("map", self._name)
        self.observe(self._colour, "colour")
        self.on_msg(self._draw_tree)

    def _name(self, tree: int) -> None:
        self.named = [tree, *(other for other, _ in nearest(self._scorer, tree))]

    def _colour(self, _: Any = None) -> None:
        forest, trees = self._pairs.forest, self._trees
        if self.colour in (_NODES, _ERROR):
            numbers = forest.tree_nodes[trees] if self.colour == _NODES else self._errors
            low, high = np.percentile(numbers, [1, 99]).tolist()
            texts = [f"{low:.3g}", f"{high:.3g}"]
            shades = np.round(np.clip((numbers - low) / ((high - low) or 1), 0, 1) * 255)
            self.coloured = {"ends": texts, "codes": shades.astype(np.uint8).tobytes()}
        elif self.colour == _CLASS:
            self.coloured = _coded(_classes(self._pairs))
        else:
            symbols = nearest_values(forest, trees, self.colour.removeprefix("key "))
            texts = [shown(value_of(forest.symbols[each])) if each >= 0 else "" for each in symbols]
            self.coloured = _coded(texts)

    def _draw_tree(self, _: Any, content: dict[str, int], buffers: Any) -> None:
        """Sends the drawing of a tree that the browser asks for."""
        tree = content["tree"]
        text = tree_text(self._pairs.forest, int(self._trees[tree]), self._keys)
        self.send({"tree": tree, "text": text})

    def night_form(self) -> str:
        names = str(self.choice.names).split("\n")
        nodes = self._pairs.forest.tree_nodes[self._trees]
        figure = map_figure(self._points, nodes, {t: names[t] for t in self.named}, self._share)
        return html_of(figure)


def _ramp(low: float, high: float) -> list[str]:
    """A part of a perceptually uniform scale that has a contrast of 3:1 on the page."""
    return [to_hex(matplotlib.colormaps["viridis"](x)) for x in np.linspace(low, high, 24)]


def _coded(texts: Sequence[str]) -> dict[str, Any]:
    """For each point the number of its text among the most frequent ones; others and "" come last."""
    counts = Counter(filter(None, texts))
    most = [text for text, _ in counts.most_common(_VALUES)]
    number = {text: place for place, text in enumerate(most)}
    codes = np.array([number.get(text, len(most)) for text in texts], np.uint8)
    said = [[text, counts[text], False] for text in most]
    left = len(texts) - sum(counts[text] for text in most)
    other = f"{len(counts) - len(most):,} other values" if len(counts) > len(most) else "no value"
    return {"values": said + ([[other, left, True]] if left else []), "codes": codes.tobytes()}


def _classes(pairs: Pairs) -> list[str]:
    """Of each of the T trees, what its pairs are labelled."""
    trees, first, second = distinct_trees(pairs)
    texts = np.full(len(trees), "", object)
    other = first != second
    for label, text in ((0, "dissimilar to others only"), (1, "similar to another tree")):
        for side in (first, second):
            texts[side[(pairs.label == label) & other]] = text
    return [str(text) for text in texts]


def tree_errors(scorer: PairScorer, pairs: Pairs) -> tuple[Array, str]:
    """How wrong the pairs of each of the T trees are on average, and what that number means."""
    trees, first, second = distinct_trees(pairs)
    if pairs.has_classes:
        each = (scorer.distance < scorer.threshold) != (pairs.label == 1)
        means = "share of its pairs judged wrongly"
    elif pairs.has_grades:
        given, each = ~np.isnan(pairs.similarity), np.zeros(len(pairs))
        each[given] = np.abs(ranks_off(scorer.distance[given], pairs.similarity[given])) / given.sum()
        means = "ranks that its pairs are off (share)"
    else:
        each, means = scorer.distance, "mean distance of its pairs"
    both, twice = np.concatenate((first, second)), np.tile(each.astype(float), 2)
    sums, counts = (np.bincount(both, weights, len(trees)) for weights in (twice, None))
    return np.asarray(sums / np.maximum(counts, 1)), means


def nearest_values(forest: Forest, trees: Array, key: str) -> list[int]:
    """Of each tree the symbol of a key that stands nearest to its root, or -1."""
    count, far = len(forest.symbols), np.iinfo(np.int64).max // 2
    of_key = [key_of(each) == key and not each.startswith((ROLE, LIST)) for each in forest.symbols]
    mine = np.flatnonzero(np.array(of_key)[forest.symbol])
    rank = np.full(len(forest.height), far)  # levels below the subtree * symbols + symbol
    np.minimum.at(rank, rows_of(forest.symbol_ptr)[mine], forest.symbol[mine].astype(np.int64))
    ends = np.searchsorted(forest.height, np.arange(1, int(forest.height.max()) + 2)).tolist()
    pointers = forest.child_ptr.astype(np.int64)
    for start, end in pairwise(ends):  # children come before parents
        edges = pointers[start : end + 1]
        below = np.minimum.reduceat(rank[forest.child[edges[0] : edges[-1]]], edges[:-1] - edges[0])
        rank[start:end] = np.minimum(rank[start:end], below + count)
    found = rank[forest.root[trees]]
    return [int(rank % count) if rank < far else -1 for rank in found.tolist()]
