"""Figures of many runs: their learning curves in one figure, and what each setting does to a metric."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator

from treelstm import run_table
from treelstm.drawing import PageFigure, as_written, new_figure, shortened
from treelstm.history import metric_named, value_of
from treelstm.runs import RunRow
from treelstm.sweeps import journal
from treelstm.themes import DISSIMILAR, GREEN, MARK, NEUTRAL, PURPLE, SIMILAR, YELLOW

_COLORS = (SIMILAR, DISSIMILAR, GREEN, PURPLE, YELLOW, MARK)
_DASHES = ("-", "--", ":", "-.")
_NAMED, _PANELS, _TICKS = 12, 12, 6  # at most: lines with names; settings in a figure; values marked
_NEEDED, _FEW = 10, 30  # finished runs, for shares


def curves_figure(rows: Sequence[RunRow], together: bool = False) -> PageFigure:
    """Learning curves of runs: a metric, and the validation loss where it means the same in all.

    The best twelve are named by the settings that differ, the others are gray. With `together`, runs
    that differ in the seed alone are one line, their mean, in a band of one standard deviation.
    """
    metric, loss = run_table.main_metric(rows), metric_named("validation_loss")
    rows = [row for row in run_table.ranked(rows) if row.history]
    if metric is None or not rows:
        return _empty("no epoch has ended yet")
    lines = [(text, [row]) for text, row in zip(run_table.labels(rows), rows, strict=True)]
    lines = run_table.groups(rows) if together else lines
    metrics = [metric, loss] if loss in run_table.shared_metrics(rows) and metric != loss else [metric]
    figure, axes = new_figure(len(metrics), width=10 / (1 + len(metrics)), height=3.6)
    last, names = max(len(row.history) for row in rows), list[str]()
    epoch = np.arange(1, last + 1)
    for number, (text, runs) in reversed([*enumerate(lines)]):  # the best on top
        color, dash = NEUTRAL, "-"
        if number < _NAMED:
            color = _COLORS[number % len(_COLORS)]
            dash = _DASHES[(number + number // len(_COLORS)) % len(_DASHES)]
        for ax, each in zip(axes, metrics, strict=True):
            values = np.full((len(runs), last), np.nan)
            for row, of in zip(runs, values, strict=True):
                of[: len(row.history)] = [value_of(record, each.key) for record in row.history]
            count = (~np.isnan(values)).sum(axis=0)
            mean = np.nansum(values, axis=0) / np.where(count, count, np.nan)
            looks: dict[str, Any] = {"color": color, "lw": 1.5 if number < _NAMED else 0.5}
            ax.plot(epoch, mean, dash, marker="." if last < 30 and number < _NAMED else "", **looks)
            if together and number < _NAMED:
                squares = np.nansum((values - mean) ** 2, axis=0)
                spread = np.sqrt(squares / np.maximum(count - 1, 1))
                band: dict[str, Any] = {
                    "facecolor": to_rgba(color, 0.15),
                    "edgecolor": color,
                    "linewidth": 0.4,
                }
                ax.fill_between(epoch, mean - spread, mean + spread, **band)
        if together:
            fewer = epoch[count < len(runs)]
            rest = f", fewer from epoch {fewer[0]} on" if len(fewer) else ""
            text += f" ({len(runs)} run{'s' * (len(runs) > 1)}{rest})"
        if number <= _NAMED:
            text = text if number < _NAMED else f"{len(lines) - _NAMED} more"
            names.insert(0, "\n".join(textwrap.wrap(shortened(text, 120), 42)))
    best = metric.format.format(rows[0].value(metric))
    figure.alt = (
        f"{metric.label} by epoch of {len(lines)} lines, {len(rows)} runs; best {best}: {lines[0][0]}"
    )
    for ax, each in zip(axes, metrics, strict=True):
        ax.set(xlabel="epoch", ylabel=each.label, xlim=(0.5, last + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles = axes[0].get_lines()[::-1][: len(names)]
    numbers = map(str, range(len(names)))  # as a line's label, "_x" would be left out
    legend = figure.legend(handles, numbers, loc="outside right upper", frameon=False, fontsize=7)
    for words, name in zip(legend.get_texts(), names, strict=True):
        words.set_text(name)
    figure.set_figheight(max(3.6, 0.4 + sum(0.06 + 0.13 * (1 + name.count("\n")) for name in names)))
    figure.set_figwidth(figure.get_figwidth() + 3.2)
    return as_written(figure)


def _empty(words: str) -> PageFigure:
    figure, (ax,) = new_figure(1, height=0.5)
    ax.set_title(words)
    figure.alt = words
    ax.set_axis_off()
    return figure


def importances(rows: Sequence[RunRow]) -> tuple[dict[str, float], str]:
    """The share of a metric's variance that each differing setting explains, largest first, and a
    sentence on it (functional ANOVA, Hutter et al. 2014); no shares where there is too little to tell.
    """
    metric = run_table.main_metric(rows)
    known = [row for row in rows if row.finished and metric and math.isfinite(row.value(metric))]
    names = [name for name in run_table.differing(known) if all(name in row.settings for row in known)]
    if metric is None or len(known) < _NEEDED or len(names) < 2:
        need = f"No shares: they need {_NEEDED} finished runs and 2 settings that differ in them"
        return {}, f"{need}; here are {len(known)} and {len(names)}."
    try:
        optuna = journal.optuna()
    except journal.NeedsOptuna:
        return {}, 'No shares: they need Optuna, pip install "treelstm[sweep]".'
    kinds, columns = dict[str, Any](), dict[str, list[Any]]()
    for name in names:
        scale, columns[name] = _scaled(known, name)
        of, choices = optuna.distributions, sorted({*columns[name]})
        ends = choices[0], choices[-1], scale == "log"
        kinds[name] = of.FloatDistribution(*ends) if scale else of.CategoricalDistribution(choices)
    study = optuna.create_study()
    for number, row in enumerate(known):
        params, value = {name: columns[name][number] for name in names}, row.value(metric)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(max_depth=6, seed=0)
    try:
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except RuntimeError:  # no variance
        return {}, f"No shares: {metric.label} is the same in all {len(known)} finished runs."
    words = f"Shares of the variance of {metric.label} in {len(known)} finished runs."
    return shares, words + " Of so few, they are rough." * (len(known) < _FEW)


def _scaled(rows: Sequence[RunRow], name: str) -> tuple[str, list[Any]]:
    """Values of a setting for an axis: "log" where they span decades, "linear", or "" for words."""
    values: list[Any] = [row.settings[name] for row in rows]
    if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        return "", [run_table.setting_text(row, name) for row in rows]
    low, high = min(values), max(values)
    return "log" if low > 0 and high / low >= 10 else "linear", values


def effects_figure(rows: Sequence[RunRow]) -> PageFigure:
    """A metric of each run's best epoch by each setting that differs, the most important one first."""
    metric = run_table.main_metric(rows)
    shares, words = importances(rows)
    rows = [row for row in rows if metric and math.isfinite(row.value(metric))]
    names = sorted(run_table.differing(rows), key=lambda name: -shares.get(name, 0.0))
    if metric is None or not names:
        return _empty("no setting differs between runs with an epoch")
    if names[_PANELS:]:
        words += f" Left out: {', '.join(names[_PANELS:])}."
    columns = min(3, len(names))
    figure, axes = new_figure(columns, -(-len(names[:_PANELS]) // columns), width=11 / 3, height=2.8)
    for ax, name in itertools.zip_longest(axes, names[:_PANELS]):
        if name is None:
            ax.remove()
            continue
        known = [row for row in rows if name in row.settings]
        scale, values = _scaled(known, name)
        texts = sorted({*values})
        if scale:
            ax.set_xscale(scale)
            if len(texts) <= _TICKS:
                ax.set_xticks(texts, [f"{value:.4g}" for value in texts])
                ax.minorticks_off()
        else:
            values = [texts.index(value) for value in values]
            ticks = [run_table.cut(text, 16) for text in texts]
            slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, ticks)) > 30 else {}
            ax.set_xticks(range(len(texts)), ticks, **slant)
            ax.set_xlim(-0.5, len(texts) - 0.5)
        both = [*zip(values, known, strict=True)]
        for said, color in (("not finished", "none"), ("finished", _COLORS[0])):
            points = [(x, r.value(metric)) for x, r in both if r.finished == (said == "finished")]
            if points:
                xs, ys = zip(*points, strict=True)
                ax.scatter(xs, ys, 20, facecolors=color, edgecolors=_COLORS[0], label=said)
        share = f" ({shares[name]:.0%})" if name in shares else ""
        ax.set(xlabel=f"{name}{share}", ylabel=metric.label)
    characters = int(13 * figure.get_figwidth())  # of a line
    figure.suptitle("\n".join(textwrap.wrap(words, characters)), fontsize=9)
    figure.alt = f"{metric.label} of {len(rows)} runs by {', '.join(names[:_PANELS])}. {words}"
    if not all(row.finished for row in rows):
        axes[0].legend(frameon=False, fontsize=8)
    return as_written(figure)
