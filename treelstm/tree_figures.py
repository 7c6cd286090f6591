"""Figures of single trees, a row for each node, and of trees side by side."""

from __future__ import annotations

import textwrap
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path

from treelstm.drawing import PageFigure, as_written, drawable, shortened
from treelstm.themes import APART, NEUTRAL, SHARED, SIMILAR, TOGETHER
from treelstm.trees.arrays import Array
from treelstm.trees.forest import Forest
from treelstm.trees.naming import LONGEST_NAME
from treelstm.trees.vocabulary import ROLE, key_of, value_of

if TYPE_CHECKING:
    from torch_geometric.data import Data

_POINTS, _SMALL, _ROW = 8, 7, 0.2  # font sizes; inches from row to row
_ROWS, _LEVELS, _ROLE, _NAME = 42, 1.8, 1.1, 2.1  # at most: rows of a tree; inches of indents, of texts
_TOP, _NEAR = 16, 5  # levels that are drawn of a longer path: 16 at its start, 4 at its end
# A node, -1 for what is left out; the row that it hangs on; its level; how many are left out there.
_Row = tuple[int, int, int, int]


def tree_figure(
    forest: Forest, tree: int, label_keys: Sequence[str] = (), title: str = ""
) -> PageFigure:
    """One tree, each node below its parent, with its role and its name (see `node_name`). Of a large
    tree, the nodes nearest to the root are drawn, and gray words say where how many are left out.
    """
    return pair_figure(forest, [tree], label_keys, [title])


def pair_figure(
    forest: Forest,
    trees: Sequence[int],
    label_keys: Sequence[str],
    titles: Sequence[str],
    without: Sequence[Array] = (),
) -> PageFigure:
    """Trees side by side, as in `tree_figure`. Of several trees, the nodes are filled that are named by
    a symbol which all of them have, of any of `label_keys` but the last, which says the kind.

    With `without` of an `Explanation`, nodes are coloured by how the distance changes without them, and
    of a large tree those are drawn without which it changes most, with the paths to them.
    """
    bags = (forest.bag[forest.bag_ptr[tree] : forest.bag_ptr[tree + 1]] for tree in trees)
    names = [forest.symbols[s] for s in reduce(np.intersect1d, bags)] if len(trees) > 1 else []
    words = label_keys[:-1] or label_keys
    marked = {s for s in names if not words or key_of(s) in words}
    most = max((float(np.nanmax(np.abs(each[1:]), initial=0)) for each in without), default=0) or 1.0
    effects = [np.nan_to_num(each) / most for each in without] or [np.zeros(0)] * len(trees)
    graphs = map(forest.graph, trees)
    drawings = [_Drawing(*each, label_keys, marked) for each in zip(graphs, effects, strict=True)]
    widths, rows = [each.width for each in drawings], max(each.rows for each in drawings)
    heads = [drawing.title(text) for drawing, text in zip(drawings, titles, strict=True)]
    said = [f"{text or 'a tree'}: {d.nodes:,} nodes" for d, text in zip(drawings, titles, strict=True)]
    head = 0.15 + 0.17 * max(text.count("\n") + 1 for text in heads)  # inches
    foot = 0.3 if len(without) else 0.0
    height = _ROW * (rows + 0.5) + head + foot
    figure = PageFigure(figsize=(sum(widths), height))
    places = {"left": 0.01, "right": 1, "bottom": foot / height, "top": 1 - head / height}
    figure.alt = "; ".join(said) + (", coloured by their effect on the distance" if len(without) else "")
    grid = figure.add_gridspec(1, len(trees), width_ratios=widths, **places)
    if len(without):
        says = {-1: "keeps them apart", 1: "brings them together", 0: "no effect"}
        patches = [Patch(**_filled(effect), label=text) for effect, text in says.items()]
        style = {"ncols": 3, "frameon": False, "fontsize": _POINTS, "loc": "lower left"}
        figure.legend(handles=patches, bbox_to_anchor=(0.005, 0), borderaxespad=0.2, **style)
    for column, drawing in enumerate(drawings):
        ax = figure.add_subplot(grid[column])
        ax.set_axis_off()
        ax.set(xlim=(0, drawing.width), ylim=(rows - 0.25, -0.75))
        ax.set_title(heads[column], fontsize=9, loc="left", pad=3)
        ax.add_collection(LineCollection(drawing.lines, colors=NEUTRAL, linewidths=1, zorder=1))
        for x, y, text, looks in drawing.texts:
            ax.text(x, y, text, va="center_baseline", **looks)
    return as_written(figure)


def tree_text(forest: Forest, tree: int, label_keys: Sequence[str] = ()) -> str:
    """One tree as indented lines, folded like `tree_figure`."""
    graph, lines = forest.graph(tree), list[str]()
    for node, _, level, left_out in _folded([-1, *graph.edge_index[0].tolist()], np.zeros(0)):
        parts = [f"… {left_out:,} more"] if left_out else []
        if node >= 0:
            symbols = graph.symbols[node]
            role = next((f"{value_of(s)}: " for s in symbols if level and s.startswith(ROLE)), "")
            parts.insert(0, role + shortened(node_name(symbols, label_keys)[0]))
        lines.append("  " * level + "  ".join(parts))
    return "\n".join(lines)


class _Drawing:
    """The texts and lines of a tree, and where they stand: x in inches, y in rows."""

    def __init__(self, graph: Data, effect: Array, keys: Sequence[str], marked: set[str]) -> None:
        """`effect`: of the first nodes, from -1 to 1, colours them; else `marked` symbols do."""
        rows = _folded([-1, *graph.edge_index[0].tolist()], effect)
        self.drawn, self.nodes = sum(node >= 0 for node, *_ in rows), int(graph.num_nodes)
        indent = min(0.2, _LEVELS / max(1, *(level for _, _, level, _ in rows)))
        self.texts, self.lines = list[tuple[float, int, str, Any]](), list[list[tuple[float, float]]]()
        self.rows, self.width = len(rows), 4.0
        for y, (node, above, level, left_out) in enumerate(rows):
            x = 0.1 + indent * level
            if y:
                left = x - indent + 0.03
                self.lines.append([(left, above + 0.45), (left, y), (x - 0.02, y)])
            if node >= 0:
                symbols = graph.symbols[node]
                role = next((value_of(s) for s in symbols if y and s.startswith(ROLE)), "")
                x = self._write(x, y, role, _ROLE, color=NEUTRAL, fontsize=_SMALL)
                name, named_by = node_name(symbols, keys)
                box = _filled(float(effect[node]) if node < len(effect) else 0.0)
                if named_by & marked and not len(effect):
                    box["facecolor"] = SHARED
                box["boxstyle"] = "round,pad=0.2"
                x = self._write(x, y, name, _NAME, fontsize=_POINTS, bbox=box)
            if left_out:
                more = f"… {left_out:,} more node{'s' * (left_out > 1)}"
                x = self._write(x, y, more, _NAME, color=NEUTRAL, fontsize=_SMALL, style="italic")
            self.width = max(self.width, x + 0.15)

    def title(self, text: str) -> str:
        """The text in at most three lines; below it, how many nodes are drawn if not all are."""
        text = shortened(text[:1000], 1000)
        fit = max(6, 1 + int(self.width * len(text) / (_inches(text, 9) or 1)))  # characters
        while fit > 5:
            fit -= 1
            lines = textwrap.wrap(text, fit, max_lines=3, placeholder=" …")
            if all(1.1 * _inches(line, 9) < self.width for line in lines):
                break
        said = f"{self.drawn} of {self.nodes:,} nodes shown" if self.drawn < self.nodes else ""
        return "\n".join(filter(None, (*lines, said)))

    def _write(self, x: float, y: int, text: str, inches: float, **looks: Any) -> float:
        """Adds a text, cut to so many inches; returns where the next one can begin."""
        text = shortened(text)
        while (width := _inches(text, looks["fontsize"])) > inches:
            text = shortened(text, int(len(text) * inches / width))
        self.texts += [(x, y, text, looks)] if text else []
        return x + (1.1 * width + 0.1 if text else 0)  # pixels are wider than measured


def _folded(parents: Sequence[int], effect: Array) -> list[_Row]:
    """What is drawn of a tree: the nodes with the strongest `effect`, then those nearest to the root."""
    depth, nodes = [0] * len(parents), range(1, len(parents))
    for node in nodes:
        depth[node] = depth[parents[node]] + 1
    strength = np.pad(np.abs(effect), (0, len(parents) - len(effect)))
    wanted = np.argsort(-strength, kind="stable").tolist()

    def rows(count: int) -> list[_Row]:
        near = [1] + [0] * len(nodes)  # 1: on a path to a wanted node; more: near its end
        for node in wanted[:count]:
            near[node] = _NEAR
        for node in reversed(nodes):
            near[parents[node]] = max(near[parents[node]], min(near[node], 1), near[node] - 1)
        return _rows(parents, [n > 1 or (n == 1 and d < _TOP) for n, d in zip(near, depth, strict=True)])

    counts = range(min(len(parents), _ROWS) + 1)
    return rows(bisect_right(counts, _ROWS, key=lambda count: len(rows(count))) - 1)


def _rows(parents: Sequence[int], drawn: Sequence[bool]) -> list[_Row]:
    """The rows, if these nodes are drawn. What is left out between a node and others below it has one
    row, after those of its children, and before those of the others, which hang on it.
    """
    nearest = [0] * len(parents)  # the node itself, or the one above it that is drawn
    below, left_out = defaultdict[int, list[int]](list), Counter[int]()
    for node, parent in enumerate(parents[1:], 1):
        nearest[node] = node if drawn[node] else nearest[parent]
        if drawn[node]:
            below[parent if drawn[parent] else ~nearest[parent]].append(node)
        else:
            left_out[nearest[parent]] += 1
    rows, stack = list[_Row](), [(0, -1, 0)]
    while stack:
        node, above, level = stack.pop()
        count, own = left_out[max(node, ~node)], [*below[node]]
        if node >= 0 and count and (own or below[~node]):
            own, count = [*own, ~node], 0  # else said in the node's row
        stack += [(each, len(rows), level + 1) for each in reversed(own)]
        rows.append((max(node, -1), above, level, count))
    return rows


def node_name(symbols: Sequence[str], label_keys: Sequence[str]) -> tuple[str, set[str]]:
    """The text on a node, and the symbols that it shows: those of the first of `label_keys` that it has
    and whose values are short, else of the first that it has, else all but its role.
    """
    own = [symbol for symbol in symbols if not symbol.startswith(ROLE)]
    of_keys = [[symbol for symbol in own if key_of(symbol) == key] for key in label_keys]
    named = [*filter(None, of_keys), own]
    short = (each for each in named if all(len(value_of(s)) <= LONGEST_NAME for s in each))
    shown = next(short, named[0])
    return shortened(", ".join(map(value_of, shown))) or "·", set(shown)


def _filled(effect: float) -> dict[str, Any]:
    """The looks of a box of that effect, from -1 to 1; the colours are told apart by the outline too."""
    fill = to_rgba(APART if effect < 0 else TOGETHER, abs(effect))
    return {"facecolor": fill, "edgecolor": SIMILAR, "linestyle": "--" if effect < 0 else "-"}


def _inches(text: str, points: float) -> float:
    text = drawable(text)
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=points), False)
    return float(width) / 72
