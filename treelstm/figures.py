"""Figures of runs, corpora and distances: functions from data to a matplotlib figure, without pyplot."""

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox, ScaledTranslation

from treelstm.data.pairs import Pairs
from treelstm.drawing import MOST_POINTS, PageFigure, as_written, drawable, new_figure, shortened
from treelstm.evaluation import threshold_scores
from treelstm.history import IN_HISTORY, EpochRecord, Metric, best, summary, value_of
from treelstm.themes import DISSIMILAR, GREEN, MARK, NEUTRAL, SIMILAR
from treelstm.trees.arrays import Array

TRAINING, VALIDATION = NEUTRAL, SIMILAR
# Of the pairs with a label: what it is called, its colour, marker and outline.
_KINDS = {
    1: ("similar", SIMILAR, "o", "-"),
    0: ("dissimilar", DISSIMILAR, "^", "--"),
    -1: ("not labelled", NEUTRAL, "s", ":"),
}
_MOST_EPOCHS = 2_000  # in a figure
_LONG = (0, (8, 1, 1, 1))  # a dash
_STYLES = ((SIMILAR, "-"), (NEUTRAL, "--"), (NEUTRAL, ":"), (GREEN, _LONG), (DISSIMILAR, "-."))
# The part of viridis that is seen on white and on black.
_SIZES = ListedColormap(colormaps["viridis"](np.linspace(0.33, 0.67, 256)))
_WAYS = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7))
_PANELS: dict[str, dict[str, Any]] = {  # of history_figure
    "loss": {"title": "loss", "ylabel": "loss", "ylim": (0, None)},
    "quality": {"title": "unseen pairs", "ylabel": "score, 1 is perfect", "ylim": (None, 1.0)},
    "schedule": {"title": "schedule", "ylabel": "learning rate, per step", "yscale": "log"},
}


def corpus_figure(pairs: Pairs) -> PageFigure:
    """Pairs by class, their similarities if they have some, and the sizes of the distinct trees."""
    graded, labelled = ~np.isnan(pairs.similarity), bool((pairs.label >= 0).any())
    columns = 3 if labelled and graded.any() else 2
    figure, (kinds, *similarities, sizes) = new_figure(columns, width=10 / columns)
    for ax in similarities:
        bins = np.histogram_bin_edges(pairs.similarity[graded], 40).tolist()
        for label, (name, *_) in _KINDS.items():
            if (chosen := graded & (pairs.label == label)).any():
                ax.hist(pairs.similarity[chosen], bins, label=name, **_outlined(label))
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
    most, median = int(nodes.max()), int(np.median(nodes))
    bins = np.arange(0.5, most + 1.5, -(-most // 40))  # whole numbers of nodes, at most 40 bars
    sizes.hist(nodes, bins=[*bins.tolist(), most + 0.5], color=TRAINING)
    sizes.axvline(median, color="black", linewidth=1, label=f"median {median}")
    sizes.set(xlabel="nodes in a tree", ylabel="distinct trees", title="tree sizes")
    sizes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.alt = (
        f"{pairs.in_words}; {len(nodes):,} distinct trees of up to {most:,} nodes, median {median}"
    )
    return _finished(figure)


def history_figure(
    epochs: Sequence[EpochRecord],
    resumed_at: tuple[int, int] | None = None,
    title: str = "",
    upright: bool = False,
) -> PageFigure:
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
        figure.alt = "no epoch has ended yet"
        return _finished(figure)
    xlim, nth = (epochs[0]["epoch"] - 0.5, epochs[-1]["epoch"] + 0.5), 1 + len(epochs) // _MOST_EPOCHS
    best_record, said, rows = best(epochs), summary(epochs), 0
    epochs = epochs[::-nth][::-1]  # to the last
    number = [record["epoch"] for record in epochs]
    marker = "." if len(number) < 60 else ""
    for ax, panel in zip(axes, panels, strict=True):
        for metric, looks in lines_of(panel, epochs[-1]):
            values = [value_of(record, metric.key) for record in epochs]
            ax.plot(number, values, marker=marker, label=metric.label, **looks)
        ax.set(**_PANELS[panel])
        if best_record is not None:
            epoch = best_record["epoch"]
            ax.axvline(epoch, color="black", lw=1, ls=":", label=f"best epoch {epoch}")
        if resumed_at and 0 < resumed_at[0] < number[-1]:
            ax.axvline(resumed_at[0] + 0.5, color=MARK, lw=1, ls="--", label="resumed here")
        ax.set_xlim(xlim)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlabel("epoch" if nth == 1 else f"epoch (1 in {nth} is drawn)")
        below = ax.transAxes + ScaledTranslation(-0.3, -0.45, figure.dpi_scale_trans)  # inches
        where: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below}
        ax.legend(frameon=False, fontsize=8, ncols=2 if n < 3 else 1, **where)
        rows = max(rows, -(-len(ax.get_lines()) // (2 if n < 3 else 1)))
    figure.set_figheight(figure.get_figheight() + 0.18 * rows * (n if upright else 1))
    figure.alt = f"{' and '.join(_PANELS[name]['title'] for name in panels)} by epoch: {said}"
    return as_written(figure)


def lines_of(panel: str, record: EpochRecord) -> list[tuple[Metric, dict[str, Any]]]:
    """The metrics of a panel of `history_figure` that an epoch has, each with the looks of its line."""
    metrics = [each for each in IN_HISTORY if each.panel == panel and each.key in record]
    ours = [each for each in metrics if each.key.startswith("validation_")]
    looks = zip(ours, product((VALIDATION, GREEN), ("-", "--", ":", "-.")), strict=False)
    found = {each.key: {"color": color, "linestyle": line} for each, (color, line) in looks}
    training = {"color": TRAINING, "linestyle": "--"}
    return [(each, found.get(each.key, training)) for each in metrics]


def distance_figure(distance: Array, pairs: Pairs, threshold: float) -> PageFigure:
    """Histograms of the distances of both classes, each as shares of its class, and the threshold.

    Of pairs without both classes: distance against similarity; without that, one histogram.
    """
    figure, (ax,) = new_figure(1, width=7.0)
    ax.set(xlabel="distance of the pair's encodings", ylabel="share of the class")
    if not pairs.has_classes and pairs.has_grades:
        _dots(ax, distance, pairs.similarity, c=SIMILAR, s=6)
        ax.set(ylabel="similarity")
        correlation = np.corrcoef(distance, pairs.similarity)[0, 1]
        figure.alt = f"distance and similarity of {len(pairs):,} pairs, correlation {correlation:.3f}"
        return _finished(figure)
    bins = np.linspace(0, float(distance.max()) or 1.0, 50).tolist()
    said = list[str]()
    for kind, (name, *_) in _KINDS.items():
        chosen = distance[pairs.label == kind]
        if len(chosen):
            looks = _outlined(kind) | {"label": f"{name} ({len(chosen):,})"}
            ax.hist(chosen, bins, weights=np.full(len(chosen), 1 / len(chosen)), **looks)
            said.append(f"{name} ones around {np.median(chosen):.3f}")
    figure.alt = f"distances of {len(distance):,} pairs, threshold {threshold:.3f}: {', '.join(said)}"
    if not np.isnan(threshold):
        ax.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.3f}")
    return _finished(figure)


def curves_figure(label: Array, distances: Mapping[str, Array]) -> PageFigure:
    """ROC and precision-recall curves of named distances [P] on the same pairs."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (roc, precision) = new_figure(2, width=4.6, height=3.5 + 0.22 * len(distances))
    areas = list[float]()
    styled = zip(distances.values(), cycle(_STYLES), strict=False)
    for number, (distance, (color, line)) in enumerate(styled, 1):
        wrong, right, _ = roc_curve(label, -distance)
        roc.plot(wrong, right, linestyle=line, color=color, label=number)
        areas.append(np.trapezoid(right, wrong))
        share, recall, _ = precision_recall_curve(label, -distance)
        precision.plot(recall, share, linestyle=line, color=color, drawstyle="steps-post")
    roc.plot([0, 1], [0, 1], color=NEUTRAL, linewidth=0.6, zorder=0)
    precision.axhline(label.mean(), color=NEUTRAL, linewidth=0.6, zorder=0)
    roc.set(xlabel="dissimilar pairs called similar (share)", ylabel="similar pairs found (share)")
    roc.set_title("ROC")
    precision.set(xlabel="similar pairs found (share)", title="precision and recall", ylim=(0, 1.02))
    precision.set_ylabel("correct among pairs called similar (share)")
    legend = figure.legend(frameon=False, loc="outside lower left")
    for label_text, name in zip(legend.get_texts(), distances, strict=True):
        label_text.set_text(shortened(name, 110))  # as a line's label, a name "_x" would be left out
    said = [f"{name} {area:.3f}" for name, area in zip(distances, areas, strict=True)]
    figure.alt = f"ROC, and precision by recall; areas under the ROC: {', '.join(said)}"
    return as_written(figure)


def threshold_figure(distance: Array, label: Array, threshold: float) -> PageFigure:
    """F1 and accuracy by threshold; the given one is marked."""
    figure, (ax,) = new_figure(1, width=7.0)
    cut, f1, accuracy = threshold_scores(distance, label)
    ax.plot(cut, f1, color=SIMILAR, label="F1")
    ax.plot(cut, accuracy, "--", color=TRAINING, label="accuracy")
    majority_rate = max(label.mean(), 1 - label.mean())
    ax.axhline(majority_rate, color=TRAINING, linewidth=1, ls=":", label="majority rate")
    figure.alt = f"F1 and accuracy by threshold; at {threshold:.3f} "
    now = int(np.searchsorted(cut, threshold, side="right")) - 1
    figure.alt += f"F1 {f1[now]:.3f}, accuracy {accuracy[now]:.3f}; majority rate {majority_rate:.3f}"
    ax.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.3f}")
    ax.set(xlabel="threshold on the distance", ylabel="score, 1 is perfect", ylim=(0, 1.02))
    return _finished(figure)


def comparison_figure(first: Array, second: Array, label: Array, names: tuple[str, str]) -> PageFigure:
    """Distances [P] of the same pairs by two encoders; they differ on pairs off the diagonal."""
    figure, (ax,) = new_figure(1, width=5.0, height=4.6)
    for kind in sorted(np.unique(label).tolist()):  # similar ones, which are fewer, on top
        (name, color, marker, _), chosen = _KINDS[kind], label == kind
        _dots(ax, first[chosen], second[chosen], c=color, s=6, label=name, marker=marker)
    limit = float(max(first.max(), second.max()))
    ax.plot([0, limit], [0, limit], color="black", linewidth=0.5)
    figure.alt = f"distances of {len(label):,} pairs by {names[0]} and by {names[1]}, "
    figure.alt += f"correlation {np.corrcoef(first, second)[0, 1]:.3f}"
    x, y = (wrap(shortened(f"distance by {name}", 150), 44) for name in names)
    ax.set(xlabel="\n".join(x), ylabel="\n".join(y))
    return _finished(figure, markerscale=3)


def map_figure(points: Array, nodes: Array, labels: Mapping[int, str], share: float) -> PageFigure:
    """Encodings in two dimensions [T, 2], coloured by the trees' sizes [T], some labelled.

    `share` is the part of the encodings' variance that the two dimensions hold.
    """
    figure, (ax,) = new_figure(1, width=9.0, height=6.0)
    dots = _dots(ax, points[:, 0], points[:, 1], c=nodes, s=8, cmap=_SIZES)
    figure.colorbar(dots, label="nodes in the tree")
    ax.set(xlabel="first principal component", ylabel="second principal component")
    figure.alt = f"{len(points):,} trees; the two components hold {share:.0%} of the variance"
    ax.set_title(figure.alt)
    covered = _name_points(figure, ax, points, labels)
    dots.set_sizes(np.where(covered, 0, 8))
    return _finished(figure)


def _name_points(figure: PageFigure, ax: Axes, points: Array, labels: Mapping[int, str]) -> Array:
    """Marks points, and writes a text beside each where it covers neither another one nor such a point,
    and few others; where there is no room, none. Returns which points it covers.
    """
    marked, covered = points[[*labels]], np.zeros(len(points), bool)
    ax.scatter(marked[:, 0], marked[:, 1], s=16, color=MARK)
    figure.draw_without_rendering()  # lays the figure out
    size = figure.dpi / 72  # pixels of a point, the unit of a text's size
    every, at = ax.transData.transform(points), ax.transData.transform(marked)
    taken = [Bbox.from_bounds(x - 4 * size, y - 4 * size, 8 * size, 8 * size) for x, y in at.tolist()]
    for point, pixel, text in zip(marked, at, labels.values(), strict=True):
        looks: dict[str, Any] = {"size": 8, "arrowprops": {"arrowstyle": "-", "linewidth": 0.5}}
        note = ax.annotate(drawable(shortened(text)), point, (0, 0), textcoords="offset points", **looks)
        note.set(in_layout=False, parse_math=False, va="bottom")
        box = Text.get_window_extent(note)
        extent = np.array([box.width * 1.1, box.height])  # the reader's font may be wider
        best = (np.inf, note.get_position(), box, covered)
        for far, (x, y) in product((6, 15, 30, 50, 80, 120), _WAYS):
            corner = pixel + far * size * np.array([x, y]) - extent * [(1 - np.sign(x)) / 2, 0.5]
            place = Bbox([corner, corner + extent])
            inside = ax.bbox.contains(*place.min) and ax.bbox.contains(*place.max)
            if inside and not place.count_overlaps(taken):
                under = (np.abs(every - corner - extent / 2) < extent / 2 + 2).all(axis=1)
                cost = np.count_nonzero(under) + far / 2
                best = min(best, (cost, (corner - pixel) / size, place, under), key=lambda each: each[0])
        if best[0] == np.inf:
            note.remove()
        else:
            note.set(position=best[1])
            taken.append(best[2])
            covered = covered | best[3]
    return covered


def _outlined(kind: int) -> dict[str, Any]:
    """Looks of a histogram of one kind of pairs, behind or before those of another."""
    _, color, _, line = _KINDS[kind]
    return {
        "histtype": "stepfilled",
        "facecolor": to_rgba(color, 0.35),
        "edgecolor": color,
        "linestyle": line,
    }


def _dots(ax: Axes, x: Array, y: Array, **looks: Any) -> PathCollection:
    """Points; very many of them are a picture, also in SVG."""
    return ax.scatter(x, y, alpha=0.8, linewidths=0, rasterized=len(x) > MOST_POINTS, **looks)


def _finished(figure: PageFigure, **legend: Any) -> PageFigure:
    """The figure, with a legend wherever something has a label, and its words drawn as they are."""
    for ax in figure.axes:
        if any(ax.get_legend_handles_labels()):
            ax.legend(frameon=False, **legend)
    return as_written(figure)
