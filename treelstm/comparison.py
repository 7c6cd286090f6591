"""An encoder beside its rivals: resampled intervals, paired differences, and a verdict in words.

Shapes: P pairs, T distinct trees in them, R resamples.
"""

from collections.abc import Mapping

import numpy as np

from treelstm.data.pairs import Pairs
from treelstm.evaluation import (
    Estimate,
    PairScorer,
    Retrieval,
    ascending,
    distinct_trees,
    interval,
    metrics_of,
)
from treelstm.history import METRICS, Metric
from treelstm.trees.arrays import Array

_RESAMPLES_PER_CALL = 100  # bounds the memory


def bootstrap_metrics(
    pairs: Pairs, scorer: PairScorer, resamples: int = 1000, seed: int = 0
) -> dict[str, Array]:
    """The metrics that `metrics_of` gives, on R resamples of the trees: [R] each, by name.

    Pairs that share a tree are not independent. So trees are drawn, with replacement, and a pair's
    weight is the product of how often its two trees were drawn (pigeonhole bootstrap, Owen 2007).
    Calls with equal seeds draw the same trees, so that their results can be subtracted. Spearman's
    ranks are those among all pairs.
    """
    trees, first, second = distinct_trees(pairs)
    order, ends = ascending(scorer.distance)
    label = pairs.label[order].astype(bool)
    similar = scorer.distance[order].astype(np.float64) < scorer.threshold
    random = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _RESAMPLES_PER_CALL):
        rows = min(_RESAMPLES_PER_CALL, resamples - start)
        draws = random.integers(len(trees), size=(rows, len(trees)))
        draws += np.arange(rows)[:, None] * len(trees)
        times = np.bincount(draws.ravel(), minlength=rows * len(trees)).reshape(rows, len(trees))
        weight = times[:, first[order]] * np.where(first == second, 1, times[:, second])[:, order]
        part = dict[str, Array]()
        with np.errstate(invalid="ignore"):  # NaN where a resample lacks a class
            if pairs.has_classes:
                part |= _weighted_metrics(weight.astype(np.float64), label, similar, ends)
            if pairs.has_grades:
                part |= _weighted_fit(weight.astype(np.float64), scorer, pairs.similarity, order)
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _weighted_metrics(weight: Array, label: Array, similar: Array, ends: Array) -> dict[str, Array]:
    """Metrics [R] by field, as scikit-learn's, of pairs by ascending distance, weighted [R, P]."""
    right, wrong = (np.cumsum(weight * kind, axis=1)[:, ends] for kind in (label, ~label))
    positives, negatives = right[:, -1:], wrong[:, -1:]
    height = (right + np.pad(right, ((0, 0), (1, 0)))[:, :-1]) / 2  # of the ROC's trapezoids
    area = (np.diff(wrong, axis=1, prepend=0.0) * height).sum(axis=1)
    precision = right / np.maximum(right + wrong, 1e-300)
    gained = np.diff(right, axis=1, prepend=0.0)
    found, predicted, agreed = (
        (weight * kind).sum(axis=1) for kind in (label & similar, similar, label == similar)
    )
    return {
        "roc_auc": area / (positives * negatives)[:, 0],
        "average_precision": (gained * precision).sum(axis=1) / positives[:, 0],
        "f1": 2 * found / (predicted + positives[:, 0]),
        "accuracy": agreed / weight.sum(axis=1),
    }


def _weighted_fit(
    weight: Array, scorer: PairScorer, similarity: Array, order: Array
) -> dict[str, Array]:
    """The metrics [R] of graded pairs, weighted [R, P]; `order` is that of the weights' columns."""
    from scipy.stats import rankdata

    given = ~np.isnan(similarity[order])
    order, weight = order[given], weight[:, given] / weight[:, given].sum(axis=1, keepdims=True)
    near, similarity = -scorer.distance[order].astype(np.float64), similarity[order]

    def correlation(x: Array, y: Array) -> Array:
        x, y = x - x.mean(), y - y.mean()
        mean_x, mean_y = weight @ x, weight @ y
        spread = (weight @ x**2 - mean_x**2) * (weight @ y**2 - mean_y**2)
        return np.asarray((weight @ (x * y) - mean_x * mean_y) / np.sqrt(spread))

    ranks = correlation(rankdata(near), rankdata(similarity))
    found = {"pearson": correlation(near, similarity), "spearman": ranks}
    if scorer.similarity is not None:
        found["mse"] = weight @ (scorer.similarity[order] - similarity) ** 2
    return found


def compared(
    scorers: Mapping[str, PairScorer], pairs: Pairs
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """Of each scorer its metrics; then the first one's minus those of each other, on equal resamples."""
    draws = {name: bootstrap_metrics(pairs, each) for name, each in scorers.items()}
    found = {name: metrics_of(each, pairs) for name, each in scorers.items()}
    mine, *others = scorers
    scores = {
        who: {name: (value, *interval(draws[who][name])) for name, value in found[who].items()}
        for who in scorers
    }
    differences = {
        who: {
            name: (found[mine][name] - value, *interval(draws[mine][name] - draws[who][name]))
            for name, value in found[who].items()
            if name in found[mine]
        }
        for who in others
    }
    return scores, differences


def verdict(
    scores: Mapping[str, Mapping[str, Estimate]],
    differences: Mapping[str, Mapping[str, Estimate]],
    found: Mapping[str, Retrieval],
    graded: bool,
) -> str:
    """In a sentence or two: which rivals an encoder is better than, by distance and in retrieval.

    `scores` and `differences` are those of `compared`, `found` the retrieval of each, the encoder first;
    any may be empty. `graded`: Pearson's correlation counts, where there is one. Better is a difference
    whose 95% interval is clear of 0.
    """
    sentences = []
    own = next(iter(scores.values()), {})
    if by := deciding(own, graded):
        ranked = _ranked({who: each[by.name] for who, each in differences.items()})
        sentences.append(f"By {by.label} ({own[by.name][0]:.3f}), this encoder is {ranked}.")
    if found:
        mine, *others = found
        ranked = _ranked({who: found[mine].difference(found[who]) for who in others})
        sentences.append(
            f"In retrieval (precision at 1: {found[mine].precision[1]:.3f}), it is {ranked}."
        )
    return " ".join(sentences)


def deciding(own: Mapping[str, Estimate], graded: bool) -> Metric | None:
    """Which of an encoder's metrics decides; None if there are none."""
    by = ["average_precision", "pearson"][:: -1 if graded else 1]
    name = next((each for each in by if each in own), None)
    return next((metric for metric in METRICS if metric.name == name), None)


def _ranked(differences: Mapping[str, Estimate]) -> str:
    """Rivals by whether one is better than they are, with the differences and their intervals."""
    parts: dict[str, list[str]] = {"better than": [], "not clearly better than": [], "worse than": []}
    for who, (by, low, high) in differences.items():
        words = "better than" if low > 0 else "worse than" if high < 0 else "not clearly better than"
        name = who.partition(",")[0]
        parts[words].append(f"the {name} ({by:+.3f} [{low:+.3f}, {high:+.3f}])")
    return "; ".join(f"{words} {' and '.join(names)}" for words, names in parts.items() if names)
