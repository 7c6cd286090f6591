"""Figures for the notebooks: plain functions from data to a matplotlib figure.

They draw into figures of their own, never through pyplot's global state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from treelstm.data import Pairs
from treelstm.history import EpochRecord, value_of
from treelstm.trees import Array, Forest, key_of

SIMILAR, DISSIMILAR, TRAINING, VALIDATION = "tab:blue", "tab:orange", "tab:gray", "tab:blue"
_STYLES: list[dict[str, Any]] = [
    {"color": SIMILAR},
    {"color": "tab:gray", "linestyle": "--"},
    {"color": "tab:gray", "linestyle": ":"},
    {"color": "tab:green"},
]


def _figure(
    columns: int, rows: int = 1, *, width: float = 5.0, height: float = 3.2
) -> tuple[Figure, list[Axes]]:
    """A figure and its axes; `width` and `height` of each, in inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def corpus_figure(pairs: Pairs) -> Figure:
    """Pairs by class, and the sizes of the distinct trees."""
    figure, (classes, sizes) = _figure(2)
    counts = [int((pairs.label == label).sum()) for label in (1, 0)]
    bars = classes.barh(["similar", "dissimilar"], counts, color=[SIMILAR, DISSIMILAR])
    classes.bar_label(bars, [f"{count:,} ({count / len(pairs):.1%})" for count in counts], padding=3)
    classes.set(xlabel="pairs", xlim=(0, 1.35 * max(counts)), title="classes")
    classes.invert_yaxis()
    _, first = np.unique(pairs.forest.root[pairs.trees], return_index=True)
    nodes = pairs.forest.tree_nodes[pairs.trees[first]]
    sizes.hist(nodes, bins=min(40, int(nodes.max())), color=TRAINING)
    median = int(np.median(nodes))
    sizes.axvline(median, color="black", linewidth=1, label=f"median {median}")
    sizes.set(xlabel="nodes in a tree", ylabel="distinct trees", title="tree sizes")
    sizes.legend(frameon=False)
    return figure


def history_figure(
    epochs: Sequence[EpochRecord],
    resumed_at: tuple[int, int] | None = None,
    words: str = "",
    upright: bool = False,
) -> Figure:
    """Loss, and ranking quality on unseen pairs, by epoch; the best epoch is marked.

    The learning rate has a curve of its own where it changes. `words` stand above it all; `upright`
    puts one curve above the other.
    """
    varies = len({record["learning_rate"] for record in epochs}) > 1
    count = 3 if varies else 2
    if upright:
        figure, axes = _figure(1, count, width=4.6, height=2.3)
    else:
        figure, axes = _figure(count, width=12 / count - 1)
    if words:
        figure.suptitle(words, fontsize=10)
    if not epochs:
        axes[0].set_title("no epoch has ended yet")
        return figure
    number = [record["epoch"] for record in epochs]
    best = min(epochs, key=lambda record: record["validation_loss"])["epoch"]

    def curve(ax: Axes, name: str, label: str, **style: Any) -> None:
        marker = "." if len(number) < 60 else ""
        values = [value_of(record, name) for record in epochs]
        ax.plot(number, values, marker=marker, label=label, **style)

    loss, quality = axes[:2]
    curve(loss, "train_loss", "training", color=TRAINING)
    curve(loss, "validation_loss", "validation", color=VALIDATION)
    curve(quality, "validation_roc_auc", "ROC-AUC", color=VALIDATION)
    curve(quality, "validation_average_precision", "average precision", color=VALIDATION, linestyle="--")
    loss.set(ylabel="contrastive loss", title="loss", ylim=(0, None))
    quality.set(ylabel="score, 1 is perfect", title="unseen pairs", ylim=(None, 1.0))
    if varies:
        curve(axes[2], "learning_rate", "learning rate", color=TRAINING)
        axes[2].set(ylabel="learning rate, per step", title="schedule", yscale="log")
    for ax in axes:
        ax.axvline(best, color="black", linewidth=1, linestyle=":", label=f"best epoch {best}")
        if resumed_at and 0 < resumed_at[0] < number[-1]:
            ax.axvline(resumed_at[0] + 0.5, color="tab:red", linewidth=1, label="resumed here")
        ax.set_xlim(number[0] - 0.5, number[-1] + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        ax.legend(frameon=False)
    return figure


def distance_figure(distance: Array, label: Array, threshold: float) -> Figure:
    """Distances of both classes, each as a share of its class, with the threshold."""
    figure, (ax,) = _figure(1, width=7.0)
    bins = np.linspace(0, float(distance.max()) or 1.0, 50).tolist()
    for value, name, color in ((1, "similar", SIMILAR), (0, "dissimilar", DISSIMILAR)):
        chosen = distance[label == value]
        weights = np.full(len(chosen), 1 / max(len(chosen), 1))
        ax.hist(chosen, bins, weights=weights, alpha=0.6, color=color, label=f"{name} ({len(chosen):,})")
    ax.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.3f}")
    ax.set(xlabel="distance of the pair's encodings", ylabel="share of the class")
    ax.legend(frameon=False)
    return figure


def curves_figure(label: Array, distances: dict[str, Array]) -> Figure:
    """ROC and precision-recall curves of several distances [P] on the same pairs, named."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (roc, precision) = _figure(2, width=4.6, height=3.8)
    for (name, distance), style in zip(distances.items(), _STYLES, strict=False):
        wrong, right, _ = roc_curve(label, -distance)
        roc.plot(wrong, right, label=name, **style)
        share, recall, _ = precision_recall_curve(label, -distance)
        precision.plot(recall, share, label=name, drawstyle="steps-post", **style)
    roc.plot([0, 1], [0, 1], color="lightgray", linewidth=1, zorder=0)
    precision.axhline(label.mean(), color="lightgray", linewidth=1, zorder=0)
    roc.set(xlabel="dissimilar pairs called similar (share)", ylabel="similar pairs found (share)")
    precision.set(xlabel="similar pairs found (share)", ylabel="of those called similar, right (share)")
    roc.set_title("ROC")
    precision.set(title="precision and recall", ylim=(0, 1.02))
    roc.legend(frameon=False)
    return figure


def threshold_figure(distance: Array, label: Array, threshold: float) -> Figure:
    """What F1 and accuracy would be at every threshold, and where the calibrated one lies."""
    from sklearn.metrics import precision_recall_curve

    figure, (ax,) = _figure(1, width=7.0)
    precision, recall, cut = precision_recall_curve(label, -distance)
    found, called = recall[:-1] * label.sum(), recall[:-1] * label.sum() / precision[:-1].clip(1e-12)
    right = found + (len(label) - label.sum()) - (called - found)
    f1 = 2 * found / (called + label.sum())
    ax.plot(-cut, f1, color=SIMILAR, label="F1")
    ax.plot(-cut, right / len(label), color=TRAINING, label="accuracy")
    ax.axhline(
        max(label.mean(), 1 - label.mean()), color="lightgray", linewidth=1, label="majority rate"
    )
    ax.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.3f}")
    ax.set(xlabel="threshold on the distance", ylabel="score, 1 is perfect", ylim=(0, 1.02))
    ax.legend(frameon=False)
    return figure


def comparison_figure(first: Array, second: Array, label: Array, names: tuple[str, str]) -> Figure:
    """Distances [P] of the same pairs by two encoders; pairs off the diagonal are judged differently."""
    figure, (ax,) = _figure(1, width=4.6, height=4.2)
    for value, name, color in ((0, "dissimilar", DISSIMILAR), (1, "similar", SIMILAR)):
        chosen = label == value
        ax.scatter(first[chosen], second[chosen], s=5, alpha=0.4, color=color, label=name, linewidths=0)
    limit = float(max(first.max(), second.max()))
    ax.plot([0, limit], [0, limit], color="black", linewidth=0.5)
    ax.set(xlabel=f"distance by {names[0]}", ylabel=f"distance by {names[1]}")
    ax.legend(frameon=False, markerscale=3)
    return figure


def map_figure(points: Array, nodes: Array, labels: dict[int, str], share: float) -> Figure:
    """Encodings in two dimensions [T, 2], coloured by the trees' sizes [T]; some named.

    `share`: of the encodings' variance that the two dimensions hold.
    """
    figure, (ax,) = _figure(1, width=9.0, height=6.0)
    dots = ax.scatter(points[:, 0], points[:, 1], c=nodes, s=8, cmap="viridis", alpha=0.6, linewidths=0)
    figure.colorbar(dots, label="nodes in the tree")
    for tree, text in labels.items():
        ax.annotate(
            _short(text, 40),
            points[tree],
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5},
        )
        ax.scatter(points[tree, 0], points[tree, 1], s=16, color="tab:red")
    ax.set(xlabel="first principal component", ylabel="second principal component")
    ax.set_title(f"{len(points):,} trees; the two components hold {share:.0%} of the variance")
    return figure


def _short(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


# --- trees -------------------------------------------------------------------------------------

_POINTS, _ROW = 8, 0.24  # font size; inches from leaf to leaf


def tree_figure(
    forest: Forest,
    tree: int,
    label_keys: Sequence[str] = (),
    title: str = "",
    marked: Collection[str] = (),
) -> Figure:
    """One tree from left to right, a row for each leaf: roles on the edges, names on the nodes.

    A node is named by its value of the first of `label_keys` it has, else by its symbols but the
    role. Nodes named by a symbol in `marked` are filled. Readable up to about 60 nodes.
    """
    return _trees_figure(forest, [tree], label_keys, [title], marked)


def pair_figure(
    forest: Forest, trees: Sequence[int], label_keys: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Trees side by side as in `tree_figure`; filled: symbols of the first of `label_keys` (of any
    key, if there is none) that all of the trees have.
    """
    symbols = [{s for node in forest.graph(tree).symbols for s in node} for tree in trees]
    shared = {s for s in set.intersection(*symbols) if not label_keys or key_of(s) == label_keys[0]}
    return _trees_figure(forest, trees, label_keys, titles, shared)


def _trees_figure(
    forest: Forest,
    trees: Sequence[int],
    label_keys: Sequence[str],
    titles: Sequence[str],
    marked: Collection[str],
) -> Figure:
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
    """A tree as names, roles and places: a column for each depth, in inches; leaves on rows."""

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

    def draw(self, ax: Axes, marked: Collection[str]) -> None:
        for parent, child in self.edges:
            elbow = self.ends[parent] + 0.2
            ys = [self.row[parent], self.row[parent], self.row[child], self.row[child]]
            xs = [self.ends[parent] + 0.06, elbow, elbow, self.x[child] - 0.06]
            ax.plot(xs, ys, color="lightgray", linewidth=1, zorder=1)
            white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            place = (self.x[child] - 0.12, self.row[child])
            ax.text(
                *place, self.roles[child], color="gray", fontsize=7, ha="right", va="center", bbox=white
            )
        for node, (name, symbols) in enumerate(self.names):
            fill = "#ffe08a" if not symbols.isdisjoint(marked) else "white"
            box = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": SIMILAR}
            ax.text(self.x[node], self.row[node], name, va="center", fontsize=_POINTS, bbox=box)


def _name(symbols: Sequence[str], label_keys: Sequence[str]) -> tuple[str, set[str]]:
    """What stands on a node, and the symbols that it tells."""
    own = [symbol for symbol in symbols if key_of(symbol) != "role"]
    for key in label_keys:
        named = {symbol for symbol in own if key_of(symbol) == key}
        if named:
            return _short(", ".join(sorted(s.partition("=")[2] for s in named)), 40), named
    return _short(", ".join(symbol.partition("=")[2] for symbol in own), 40) or "·", set(own)


def _inches(text: str, points: float) -> float:
    return TextPath((0, 0), text, size=points).get_extents().width / 72 if text.strip() else 0.0


def _layout(nodes: int, edges: list[list[int]]) -> tuple[list[int], list[float]]:
    """Depth and row of each node: leaves on rows of their own, parents at the middle of theirs."""
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
