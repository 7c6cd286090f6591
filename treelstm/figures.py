"""Figures for the notebooks: plain functions from data to a matplotlib figure.

They draw into figures of their own, never through pyplot's global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from treelstm.data import Pairs
from treelstm.trees import Array, Forest, key_of

SIMILAR, DISSIMILAR, TRAINING, VALIDATION = "tab:blue", "tab:orange", "tab:gray", "tab:blue"


def _figure(columns: int, width: float = 5.0, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes = [figure.add_subplot(1, columns, number + 1) for number in range(columns)]
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
    epochs: Sequence[dict[str, Any]], resumed_at: tuple[int, int] | None = None
) -> Figure:
    """Loss, and ranking quality on unseen pairs, by epoch; the best epoch is marked."""
    figure, (loss, quality) = _figure(2)
    if not epochs:
        loss.set_title("no epoch has ended yet")
        return figure
    number = [record["epoch"] for record in epochs]
    best = min(epochs, key=lambda record: record["validation_loss"])["epoch"]

    def curve(ax: Axes, name: str, label: str, **style: Any) -> None:
        ax.plot(number, [record[name] for record in epochs], marker=".", label=label, **style)

    curve(loss, "train_loss", "training", color=TRAINING)
    curve(loss, "validation_loss", "validation", color=VALIDATION)
    curve(quality, "validation_roc_auc", "ROC-AUC", color=VALIDATION)
    curve(quality, "validation_average_precision", "average precision", color=VALIDATION, linestyle="--")
    loss.set(xlabel="epoch", ylabel="contrastive loss", title="loss", ylim=(0, None))
    quality.set(xlabel="epoch", ylabel="score, 1 is perfect", title="unseen pairs", ylim=(None, 1.0))
    for ax in (loss, quality):
        ax.axvline(best, color="black", linewidth=1, linestyle=":", label=f"best epoch {best}")
        if resumed_at and resumed_at[0] > 0:
            ax.axvline(resumed_at[0] + 0.5, color="tab:red", linewidth=1, label="resumed here")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
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


def tree_figure(forest: Forest, tree: int, label_keys: Sequence[str] = (), title: str = "") -> Figure:
    """One tree: roles on the edges, each node named by its value of the first of `label_keys` it has.

    Without such a value a node shows its symbols but the role. Readable up to about 60 nodes.
    """
    graph = forest.graph(tree)
    edges: list[list[int]] = graph.edge_index.t().tolist()
    place = _tree_layout(graph.num_nodes, edges)
    leaves = len({x for x, y in place if x == int(x)})
    figure = Figure(figsize=(min(18, 2 + 1.1 * leaves), 1.6 + 1.1 * -min(y for _, y in place)))
    ax = figure.add_subplot()
    figure.set_layout_engine("constrained")
    for parent, child in edges:
        (x0, y0), (x1, y1) = place[parent], place[child]
        ax.plot([x0, x1], [y0, y1], color="lightgray", linewidth=1, zorder=1)
        role = next(s.partition("=")[2] for s in graph.symbols[child] if key_of(s) == "role")
        ax.text((x0 + 2 * x1) / 3, (y0 + 2 * y1) / 3, role, color="gray", fontsize=7, ha="center")
    for (x, y), symbols in zip(place, graph.symbols, strict=True):
        box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": SIMILAR}
        ax.text(x, y, _node_label(symbols, label_keys), ha="center", va="center", fontsize=8, bbox=box)
    ax.set_axis_off()
    ax.margins(0.08, 0.15)
    ax.set_title(title, fontsize=10)
    return figure


def _node_label(symbols: Sequence[str], label_keys: Sequence[str]) -> str:
    values = {key_of(symbol): symbol.partition("=")[2] for symbol in symbols}
    named = [values[key] for key in label_keys if key in values]
    return named[0] if named else "\n".join(v for key, v in values.items() if key != "role")[:40] or "·"


def _tree_layout(nodes: int, edges: list[list[int]]) -> list[tuple[float, float]]:
    """Leaves side by side, each parent above the middle of its children; positions by node."""
    children: list[list[int]] = [[] for _ in range(nodes)]
    depth = [0] * nodes
    for parent, child in edges:  # parents come before their children
        children[parent].append(child)
        depth[child] = depth[parent] + 1
    x = [0.0] * nodes
    column, stack = 0, [0]
    while stack:
        node = stack.pop()
        if not children[node]:
            x[node], column = float(column), column + 1
        stack += reversed(children[node])
    for node in reversed(range(nodes)):
        if children[node]:
            x[node] = (x[children[node][0]] + x[children[node][-1]]) / 2
    return list(zip(x, (-float(d) for d in depth), strict=True))
