"""Figures of single trees, from left to right, and of trees side by side."""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from treelstm.figures import SIMILAR, shortened
from treelstm.trees.forest import Forest
from treelstm.trees.vocabulary import key_of

_POINTS, _ROW = 8, 0.24  # font size; inches from leaf to leaf


def tree_figure(forest: Forest, tree: int, label_keys: Sequence[str] = (), title: str = "") -> Figure:
    """One tree from left to right, a row for each leaf: roles on the edges, names on the nodes.

    A node's name is its value of the first of `label_keys` that it has, else its symbols without the
    role. Readable up to about 60 nodes.
    """
    return pair_figure(forest, [tree], label_keys, [title])


def pair_figure(
    forest: Forest, trees: Sequence[int], label_keys: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Trees side by side, as in `tree_figure`. Of several trees, the nodes are filled that are named by
    a symbol which all of them have, of the first of `label_keys` (of any key if there is none).
    """
    symbols = [{s for node in forest.graph(tree).symbols for s in node} for tree in trees]
    common = set.intersection(*symbols) if len(trees) > 1 else set()
    marked = {s for s in common if not label_keys or key_of(s) == label_keys[0]}
    drawings = [_Drawing(forest, tree, label_keys) for tree in trees]
    widths = [drawing.width for drawing in drawings]
    heads = [
        textwrap.fill(text, int(13 * width), max_lines=3, placeholder=" …")
        for text, width in zip(titles, widths, strict=True)
    ]
    rows = max(drawing.rows for drawing in drawings)
    head = 0.15 + 0.17 * max(text.count("\n") + 1 for text in heads)  # inches
    height = _ROW * (rows + 0.5) + head
    figure = Figure(figsize=(sum(widths), height))
    places = {"left": 0.01, "right": 1, "bottom": 0, "top": 1 - head / height}
    grid = figure.add_gridspec(1, len(trees), width_ratios=widths, **places)
    for column, (drawing, text) in enumerate(zip(drawings, heads, strict=True)):
        ax = figure.add_subplot(grid[column])
        ax.set_axis_off()
        ax.set(xlim=(0, drawing.width), ylim=(rows - 0.25, -0.75))
        ax.set_title(text, fontsize=9, loc="left", pad=3)
        drawing.draw(ax, marked)
    return figure


class _Drawing:
    """Names, roles and positions of a tree's nodes: x by depth, in inches; y in rows, one a leaf."""

    def __init__(self, forest: Forest, tree: int, label_keys: Sequence[str]) -> None:
        graph = forest.graph(tree)
        self.edges: list[list[int]] = graph.edge_index.t().tolist()  # parents before their children
        self.roles = {
            child: next((s.partition("=")[2] for s in graph.symbols[child] if key_of(s) == "role"), "")
            for _, child in self.edges
        }
        self.names = [_name(symbols, label_keys) for symbols in graph.symbols]
        depth, self.row = _layout(graph.num_nodes, self.edges)
        self.rows = 1 + max(self.row)
        self.ends = [0.0] * graph.num_nodes  # right ends of the names
        self.x, right = [0.0] * graph.num_nodes, 0.1
        for level in range(max(depth) + 1):
            nodes = [node for node in range(graph.num_nodes) if depth[node] == level]
            left = right + max((_inches(self.roles.get(node, ""), 7) for node in nodes), default=0)
            left += 0.45 if level else 0.0
            for node in nodes:
                self.x[node] = left
                self.ends[node] = left + _inches(self.names[node][0], _POINTS)
            right = max(self.ends[node] for node in nodes)
        self.width = max(right + 0.25, 4.0)

    def draw(self, ax: Axes, marked: set[str]) -> None:
        white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        for parent, child in self.edges:
            left, x, y = self.ends[parent], self.x[child], self.row[child]
            xs, ys = [left + 0.06, left + 0.2, left + 0.2, x - 0.06], [self.row[parent]] * 2 + [y] * 2
            ax.plot(xs, ys, color="lightgray", linewidth=1, zorder=1)
            role = self.roles[child]
            ax.text(x - 0.12, y, role, color="gray", fontsize=7, ha="right", va="center", bbox=white)
        for node, (name, symbols) in enumerate(self.names):
            fill = "#ffe08a" if not symbols.isdisjoint(marked) else "white"
            box = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": SIMILAR}
            ax.text(self.x[node], self.row[node], name, va="center", fontsize=_POINTS, bbox=box)


def _name(symbols: Sequence[str], label_keys: Sequence[str]) -> tuple[str, set[str]]:
    """The text on a node, and the symbols that it shows."""
    own = [symbol for symbol in symbols if key_of(symbol) != "role"]
    of_keys = ([symbol for symbol in own if key_of(symbol) == key] for key in label_keys)
    shown = next(filter(None, of_keys), own)
    return shortened(", ".join(symbol.partition("=")[2] for symbol in shown)) or "·", set(shown)


def _inches(text: str, points: float) -> float:
    return TextPath((0, 0), text, size=points).get_extents().width / 72 if text.strip() else 0.0


def _layout(nodes: int, edges: list[list[int]]) -> tuple[list[int], list[float]]:
    """Depth and row of each node: one row a leaf, parents halfway between first and last child."""
    children: list[list[int]] = [[] for _ in range(nodes)]
    depth = [0] * nodes
    for parent, child in edges:
        children[parent].append(child)
        depth[child] = depth[parent] + 1
    row = [0.0] * nodes
    leaves, stack = 0, [0]
    while stack:
        node = stack.pop()
        if not children[node]:
            row[node], leaves = float(leaves), leaves + 1
        stack += reversed(children[node])
    for node in reversed(range(nodes)):
        if children[node]:
            row[node] = (row[children[node][0]] + row[children[node][-1]]) / 2
    return depth, row
