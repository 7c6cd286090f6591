"""Figures of runs, corpora and distances: functions from data to a matplotlib figure, without pyplot."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import cycle
from textwrap import wrap
from typing import Any, TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Tick
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from treelstm.data.pairs import Pairs
from treelstm.evaluation import threshold_scores
from treelstm.history import IN_HISTORY, EpochRecord, best, value_of
from treelstm.plain import shown
from treelstm.trees.arrays import Array

SIMILAR, DISSIMILAR, TRAINING, VALIDATION = "tab:blue", "tab:orange", "tab:gray", "tab:blue"
_KINDS = {1: ("similar", SIMILAR), 0: ("dissimilar", DISSIMILAR), -1: ("not labelled", TRAINING)}
_MOST_EPOCHS = 2_000  # in a figure
_Drawn = TypeVar("_Drawn", bound=Artist)
_STYLES = ((SIMILAR, "-"), ("tab:gray", "--"), ("tab:gray", ":"), ("tab:green", "-"), ("tab:red", "-."))
_PANELS: dict[str, dict[str, Any]] = {  # of history_figure
    "loss": {"title": "loss", "ylabel": "loss", "ylim": (0, None)},
    "quality": {"title": "unseen pairs", "ylabel": "score, 1 is perfect", "ylim": (None, 1.0)},
    "schedule": {"title": "schedule", "ylabel": "learning rate, per step", "yscale": "log"},
}


def new_figure(
    columns: int, rows: int = 1, *, width: float = 5.0, height: float = 3.2
) -> tuple[Figure, list[Axes]]:
    """A figure and its axes; `width` and `height` of each, in inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def corpus_figure(pairs: Pairs) -> Figure:
    """Pairs by class, their similarities if they have some, and the sizes of the distinct trees."""
    graded, labelled = ~np.isnan(pairs.similarity), bool((pairs.label >= 0).any())
    columns = 3 if labelled and graded.any() else 2
    figure, (kinds, *similarities, sizes) = new_figure(columns, width=10 / columns)
    for ax in similarities:
        bins = np.histogram_bin_edges(pairs.similarity[graded], 40).tolist()
        for label, (name, color) in _KINDS.items():
            if (chosen := graded & (pairs.label == label)).any():
                ax.hist(pairs.similarity[chosen], bins, color=color, label=name)
        ax.set(xlabel="similarity", ylabel="pairs", yscale="log", title="similarities")
    if not labelled:
        kinds.hist(pairs.similarity[graded], bins=40, color=TRAINING)
        kinds.set(xlabel="similarity", ylabel="pairs", title="graded pairs, not labelled")
    else:
        labels = {"similar": 1, "dissimilar": 0} | ({"not labelled": -1} if -1 in pairs.label else {})
        counts = [int((pairs.label == label).sum()) for label in labels.values()]
        bars = kinds.barh([*labels], counts, color=[SIMILAR, DISSIMILAR, TRAINING][: len(labels)])
        kinds.bar_label(bars, [f"{count:,} ({count / len(pairs):.1%})" for count in counts], padding=3)
        kinds.set(xlabel="pairs", xlim=(0, 1.35 * max(counts)), title="classes")
        kinds.invert_yaxis()
    _, first = np.unique(pairs.forest.root[pairs.trees], return_index=True)
    nodes = pairs.forest.tree_nodes[pairs.trees[first]]
    sizes.hist(nodes, bins=min(40, int(nodes.max())), color=TRAINING)
    median = int(np.median(nodes))
    sizes.axvline(median, color="black", linewidth=1, label=f"median {median}")
    sizes.set(xlabel="nodes in a tree", ylabel="distinct trees", title="tree sizes")
    return _finished(figure)


def history_figure(
    epochs: Sequence[EpochRecord],
    resumed_at: tuple[int, int] | None = None,
    title: str = "",
    upright: bool = False,
) -> Figure:
    """The metrics of `history.METRICS` that name a panel, by epoch; the best epoch is marked.

    The learning rate's panel is left out while it is constant; `upright` stacks the panels.
    """
    varies = len({record["learning_rate"] for record in epochs}) > 1
    panels = [name for name in _PANELS if name != "schedule" or varies]
    n = len(panels)
    figure, axes = (
        new_figure(1, n, width=4.6, height=2.3) if upright else new_figure(n, width=12 / n - 1)
    )
    if title:
        figure.suptitle(shortened(title, 120), fontsize=10)
    if not epochs:
        axes[0].set_title("no epoch has ended yet")
        return _finished(figure)
    xlim, nth = (epochs[0]["epoch"] - 0.5, epochs[-1]["epoch"] + 0.5), 1 + len(epochs) // _MOST_EPOCHS
    best_record = best(epochs)
    epochs = epochs[::-nth][::-1]  # to the last
    number = [record["epoch"] for record in epochs]
    marker = "." if len(number) < 60 else ""
    for ax, panel in zip(axes, panels, strict=True):
        drawn: list[str] = []  # colours
        metrics = [each for each in IN_HISTORY if each.panel == panel and each.key in epochs[-1]]
        for metric in metrics:
            color = VALIDATION if metric.key.startswith("validation_") else TRAINING
            style = ("-", "--", ":", "-.")[drawn.count(color) % 4]
            values = [value_of(record, metric.key) for record in epochs]
            ax.plot(number, values, style, color=color, marker=marker, label=metric.label)
            drawn.append(color)
        ax.set(**_PANELS[panel])
        if best_record is not None:
            epoch = best_record["epoch"]
            ax.axvline(epoch, color="black", lw=1, ls=":", label=f"best epoch {epoch}")
        if resumed_at and 0 < resumed_at[0] < number[-1]:
            ax.axvline(resumed_at[0] + 0.5, color="tab:red", linewidth=1, label="resumed here")
        ax.set_xlim(xlim)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch" if nth == 1 else f"epoch (1 in {nth} is drawn)")
    return _finished(figure)


def distance_figure(distance: Array, pairs: Pairs, threshold: float) -> Figure:
    """Histograms of the distances of both classes, each as shares of its class, and the threshold.

    Of pairs without both classes: distance against similarity; without that, one histogram.
    """
    figure, (ax,) = new_figure(1, width=7.0)
    ax.set(xlabel="distance of the pair's encodings", ylabel="share of the class")
    if not pairs.has_classes and pairs.has_grades:
        ax.scatter(distance, pairs.similarity, s=6, alpha=0.4, color=SIMILAR, linewidths=0)
        ax.set(ylabel="similarity")
        return _finished(figure)
    bins = np.linspace(0, float(distance.max()) or 1.0, 50).tolist()
    for kind, (name, color) in _KINDS.items():
        chosen = distance[pairs.label == kind]
        weights = np.full(len(chosen), 1 / max(len(chosen), 1))
        if len(chosen):
            words = f"{name} ({len(chosen):,})"
            ax.hist(chosen, bins, weights=weights, alpha=0.6, color=color, label=words)
    if not np.isnan(threshold):
        ax.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.3f}")
    return _finished(figure)


def curves_figure(label: Array, distances: Mapping[str, Array]) -> Figure:
    """ROC and precision-recall curves of named distances [P] on the same pairs."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (roc, precision) = new_figure(2, width=4.6, height=3.5 + 0.22 * len(distances))
    styled = zip(distances.values(), cycle(_STYLES), strict=False)
    for number, (distance, (color, line)) in enumerate(styled, 1):
        wrong, right, _ = roc_curve(label, -distance)
        roc.plot(wrong, right, line, color=color, label=number)
        share, recall, _ = precision_recall_curve(label, -distance)
        precision.plot(recall, share, line, color=color, drawstyle="steps-post")
    roc.plot([0, 1], [0, 1], color="lightgray", linewidth=1, zorder=0)
    precision.axhline(label.mean(), color="lightgray", linewidth=1, zorder=0)
    roc.set(xlabel="dissimilar pairs called similar (share)", ylabel="similar pairs found (share)")
    roc.set_title("ROC")
    precision.set(xlabel="similar pairs found (share)", title="precision and recall", ylim=(0, 1.02))
    precision.set_ylabel("correct among pairs called similar (share)")
    legend = figure.legend(frameon=False, loc="outside lower left")
    for label_text, name in zip(legend.get_texts(), distances, strict=True):
        label_text.set_text(shortened(name, 110))  # as a line's label, a name "_x" would be left out
    return as_written(figure)


def threshold_figure(distance: Array, label: Array, threshold: float) -> Figure:
    """F1 and accuracy by threshold; the given one is marked."""
    figure, (ax,) = new_figure(1, width=7.0)
    cut, f1, accuracy = threshold_scores(distance, label)
    ax.plot(cut, f1, color=SIMILAR, label="F1")
    ax.plot(cut, accuracy, color=TRAINING, label="accuracy")
    majority_rate = max(label.mean(), 1 - label.mean())
    ax.axhline(majority_rate, color="lightgray", linewidth=1, label="majority rate")
    ax.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.3f}")
    ax.set(xlabel="threshold on the distance", ylabel="score, 1 is perfect", ylim=(0, 1.02))
    return _finished(figure)


def comparison_figure(first: Array, second: Array, label: Array, names: tuple[str, str]) -> Figure:
    """Distances [P] of the same pairs by two encoders; they differ on pairs off the diagonal."""
    figure, (ax,) = new_figure(1, width=5.0, height=4.6)
    for kind in sorted(np.unique(label).tolist()):  # similar ones, which are fewer, on top
        (name, color), chosen = _KINDS[kind], label == kind
        ax.scatter(first[chosen], second[chosen], s=5, alpha=0.4, color=color, label=name, linewidths=0)
    limit = float(max(first.max(), second.max()))
    ax.plot([0, limit], [0, limit], color="black", linewidth=0.5)
    x, y = (wrap(shortened(f"distance by {name}", 150), 44) for name in names)
    ax.set(xlabel="\n".join(x), ylabel="\n".join(y))
    return _finished(figure, markerscale=3)


def map_figure(points: Array, nodes: Array, labels: Mapping[int, str], share: float) -> Figure:
    """Encodings in two dimensions [T, 2], coloured by the trees' sizes [T], some labelled.

    `share` is the part of the encodings' variance that the two dimensions hold.
    """
    figure, (ax,) = new_figure(1, width=9.0, height=6.0)
    dots = ax.scatter(points[:, 0], points[:, 1], c=nodes, s=8, cmap="viridis", alpha=0.6, linewidths=0)
    figure.colorbar(dots, label="nodes in the tree")
    words: dict[str, Any] = {"size": 7, "arrowprops": {"arrowstyle": "-", "linewidth": 0.5}}
    for tree, text in labels.items():
        ax.annotate(shortened(text), points[tree], (4, 4), textcoords="offset points", **words)
        ax.scatter(points[tree, 0], points[tree, 1], s=16, color="tab:red")
    ax.set(xlabel="first principal component", ylabel="second principal component")
    ax.set_title(f"{len(points):,} trees; the two components hold {share:.0%} of the variance")
    return _finished(figure)


def shortened(text: str, characters: int = 40) -> str:
    """The text on one line, cut where it is longer."""
    text = drawable(" ".join(text.split()))
    return text if len(text) <= characters else text[: characters - 1] + "…"


def drawable(text: str) -> str:
    """The text, with � for what matplotlib's font lacks (rcParams["font.family"] names another)."""
    families = FontProperties().get_family()
    known = _characters(*families)
    missing = "\ufffd" if "\ufffd" in known else "?"
    return "".join(c if c in known else missing for c in shown(text).replace("\t", " "))


@cache
def _characters(*families: str) -> set[str]:
    fonts = (get_font(findfont(FontProperties(family=[family]))) for family in families)
    return {"\n"}.union(*(map(chr, font.get_charmap()) for font in fonts))


def _finished(figure: Figure, **legend: Any) -> Figure:
    """The figure, with a legend wherever something has a label, and its words drawn as they are."""
    for ax in figure.axes:
        if any(ax.get_legend_handles_labels()):
            ax.legend(frameon=False, **legend)
    return as_written(figure)


def as_written(drawn: _Drawn) -> _Drawn:
    """The figure, with its words drawn as they are: `$...$` is no formula."""
    for child in drawn.get_children():
        if isinstance(child, Text) and child.get_text():
            child.set(text=drawable(child.get_text()), parse_math=False, usetex=False)
        elif not isinstance(child, Tick):  # whose powers of ten are formulas
            as_written(child)
    return drawn
