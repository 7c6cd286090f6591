"""Figures of single trees, from left to right, and of trees side by side."""

import itertools
import textwrap
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path

from treelstm.figures import SIMILAR, as_written, drawable, shortened
from treelstm.trees.forest import Array, Forest, entries
from treelstm.trees.vocabulary import ROLE, key_of, value_of

_POINTS, _ROW = 8, 0.24  # font size; inches from leaf to leaf
_NODES, _LEVELS = 64, 16  # what can be read; more of a tree is not drawn
_APART, _TOGETHER, _SHARED = "#f4a259", "#7fb3e6", "#ffe08a"  # black text can be read on each
_FADED = LinearSegmentedColormap.from_list("effect", [_APART, "white", _TOGETHER], N=257)


def tree_figure(forest: Forest, tree: int, label_keys: Sequence[str] = (), title: str = "") -> Figure:
    """One tree from left to right, a row for each leaf: roles on the edges, names on the nodes.

    A node's name is its value of the first of `label_keys` that it has, else its symbols without the
    role. Of a large tree, the top is drawn, and the title says so.
    """
    return pair_figure(forest, [tree], label_keys, [title])


def pair_figure(
    forest: Forest,
    trees: Sequence[int],
    label_keys: Sequence[str],
    titles: Sequence[str],
    without: Sequence[Array] = (),
) -> Figure:
    """Trees side by side, as in `tree_figure`. Of several trees, the nodes are filled that are named by
    a symbol which all of them have, of the first of `label_keys` (of any key if there is none).

    With `without` of an `Explanation`, nodes are coloured by how the distance changes without them.
    """
    common = reduce(np.intersect1d, (_symbols(forest, tree) for tree in trees)) if len(trees) > 1 else ()
    names = [forest.symbols[symbol] for symbol in common]
    marked = {s for s in names if not label_keys or key_of(s) == label_keys[0]}
    drawings = [_Drawing(forest, tree, label_keys) for tree in trees]
    widths = [drawing.width for drawing in drawings]
    heads = []
    for text, drawing in zip(titles, drawings, strict=True):
        title = textwrap.fill(drawable(text), int(13 * drawing.width), max_lines=3, placeholder=" …")
        heads.append("\n".join(filter(None, (title, drawing.cut))))
    rows = max(drawing.rows for drawing in drawings)
    head = 0.15 + 0.17 * max(text.count("\n") + 1 for text in heads)  # inches
    foot = 0.3 if len(without) else 0.0
    height = _ROW * (rows + 0.5) + head + foot
    figure = Figure(figsize=(sum(widths), height))
    places = {"left": 0.01, "right": 1, "bottom": foot / height, "top": 1 - head / height}
    grid = figure.add_gridspec(1, len(trees), width_ratios=widths, **places)
    fills = (
        _fills(figure, without)
        if len(without)
        else [
            [_SHARED if symbols & marked else "white" for _, symbols in drawing.names]
            for drawing in drawings
        ]
    )
    for column, (drawing, text) in enumerate(zip(drawings, heads, strict=True)):
        ax = figure.add_subplot(grid[column])
        ax.set_axis_off()
        ax.set(xlim=(0, drawing.width), ylim=(rows - 0.25, -0.75))
        ax.set_title(text, fontsize=9, loc="left", pad=3)
        drawing.draw(ax, fills[column])
    return as_written(figure)


def _fills(figure: Figure, without: Sequence[Array]) -> list[list[Any]]:
    """The colour of each node, the stronger the more the distance changes without it; adds a legend."""
    most = max((float(np.nanmax(np.abs(each[1:]), initial=0)) for each in without), default=0) or 1.0
    words = {_APART: "keeps them apart", _TOGETHER: "brings them together", "white": "no effect"}
    patches = [Patch(facecolor=color, edgecolor="gray", label=text) for color, text in words.items()]
    title = {"ncols": 3, "frameon": False, "fontsize": _POINTS, "loc": "lower left"}
    figure.legend(handles=patches, bbox_to_anchor=(0.005, 0), borderaxespad=0.2, **title)
    return [[_FADED(0.5 + 0.5 * x) for x in np.nan_to_num(each) / most] for each in without]


class _Drawing:
    """Names, roles and positions of a tree's nodes: x by depth, in inches; y in rows, one a leaf."""

    def __init__(self, forest: Forest, tree: int, label_keys: Sequence[str]) -> None:
        subtrees, depth, self.children, partly = _top(forest, int(forest.root[tree]))
        symbols = [forest.symbols_of(subtree) for subtree in subtrees]
        roles = [next((s for s in of_node if s.startswith(ROLE)), "") for of_node in symbols]
        self.roles = ["", *(shortened(value_of(role), 24) for role in roles[1:])]
        self.names = [node_name(of_node, label_keys, i in partly) for i, of_node in enumerate(symbols)]
        count, total = len(subtrees), int(forest.tree_nodes[tree])
        self.cut = f"{count} of {total:,} nodes shown, the top of the tree" if partly else ""
        self.row = _rows(self.children)
        self.rows = 1 + max(self.row)
        self.ends = [0.0] * count  # right ends of the names
        self.x, right = [0.0] * count, 0.1
        for level in range(max(depth) + 1):
            nodes = [node for node in range(count) if depth[node] == level]
            left = right + max(_inches(self.roles[node], 7) for node in nodes) + (0.45 if level else 0.0)
            for node in nodes:
                self.x[node] = left
                self.ends[node] = left + _inches(self.names[node][0], _POINTS)
            right = max(self.ends[node] for node in nodes)
        self.width = max(right + 0.25, 4.0)

    def draw(self, ax: Axes, fills: Sequence[Any]) -> None:
        """`fills`: the colours of the first nodes; the others are white."""
        white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        for parent, children in enumerate(self.children):
            for child in children:
                left, x, y = self.ends[parent], self.x[child], self.row[child]
                xs = [left + 0.06, left + 0.2, left + 0.2, x - 0.06]
                ax.plot(xs, [self.row[parent]] * 2 + [y] * 2, color="lightgray", linewidth=1, zorder=1)
                role = {"color": "gray", "fontsize": 7, "ha": "right", "va": "center", "bbox": white}
                ax.text(x - 0.12, y, self.roles[child], role)
        for node, (name, _) in enumerate(self.names):
            fill = fills[node] if node < len(fills) else "white"
            box = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": SIMILAR}
            ax.text(self.x[node], self.row[node], name, va="center", fontsize=_POINTS, bbox=box)


def _symbols(forest: Forest, tree: int) -> Array:
    """The numbers of the symbols of a tree's nodes."""
    subtrees = forest.tree_subtrees[forest.tree_ptr[tree] : forest.tree_ptr[tree + 1]]
    return forest.symbol[entries(forest.symbol_ptr, subtrees)[0]]


def _top(forest: Forest, root: int) -> tuple[list[int], list[int], list[list[int]], set[int]]:
    """Level by level: each node's subtree, depth and children, and the nodes with children left out."""
    subtrees, depth, partly = [root], [0], set()
    children: list[list[int]] = []
    for parent, subtree in enumerate(subtrees):  # it grows during the loop
        below = [child for child, _ in forest.children(subtree)]
        room = _NODES - len(subtrees) if depth[parent] < _LEVELS - 1 else 0
        if len(below) > room:
            partly.add(parent)
        children.append([*range(len(subtrees), len(subtrees) + min(len(below), room))])
        subtrees += below[:room]
        depth += [depth[parent] + 1] * len(children[parent])
    return subtrees, depth, children, partly


def node_name(
    symbols: Sequence[str], label_keys: Sequence[str], partly: bool = False
) -> tuple[str, set[str]]:
    """The text on a node, and the symbols that it shows; ends in "…" if not all children are drawn."""
    own = [symbol for symbol in symbols if not symbol.startswith(ROLE)]
    of_keys = ([symbol for symbol in own if key_of(symbol) == key] for key in label_keys)
    shown = next(filter(None, of_keys), own)
    name = shortened(", ".join(value_of(symbol) for symbol in shown)) or "·"
    return name + " …" * partly, set(shown)


def _inches(text: str, points: float) -> float:
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=points), False)
    return float(width) / 72


def _rows(children: list[list[int]]) -> list[float]:
    """Row of each node: one row a leaf, parents halfway between first and last child."""
    row, leaves = [0.0] * len(children), itertools.count()

    def place(node: int) -> float:  # at most _LEVELS deep
        below = [place(child) for child in children[node]]
        row[node] = (below[0] + below[-1]) / 2 if below else float(next(leaves))
        return row[node]

    place(0)
    return row
