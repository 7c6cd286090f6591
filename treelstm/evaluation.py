"""How well distances tell similar pairs from dissimilar ones, beside trivial baselines.

Shapes: P pairs, T distinct trees in them, R resamples. Labels are 1 similar, 0 dissimilar; small
distances speak for similar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from treelstm.data import Pairs
from treelstm.model.encoder import TreeEncoder, distances
from treelstm.trees import UNKNOWN, Array, Forest, key_of


@dataclass(frozen=True)
class Metrics:
    """What a set of pairs says of an encoder; all but the threshold lie between 0 and 1."""

    roc_auc: float
    average_precision: float
    f1: float  # at the threshold
    accuracy: float  # at the threshold; compare it with majority_rate
    majority_rate: float  # accuracy of always answering the more frequent class
    threshold: float  # distance under which a pair is predicted similar

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def evaluate(encoder: TreeEncoder, pairs: Pairs) -> Metrics:
    """Metrics of `encoder` on `pairs`, at the threshold that came with it."""
    return pair_metrics(pair_distances(encoder, pairs), pairs.label, encoder.threshold)


def pair_metrics(distance: Array, label: Array, threshold: float) -> Metrics:
    """Metrics of distances [P] against labels [P], both classes present."""
    # scikit-learn takes 1.7 s to import; a start or resume need not wait for it.
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    predicted = distance.astype(np.float64) < threshold
    return Metrics(
        roc_auc=float(roc_auc_score(label, -distance)),
        average_precision=float(average_precision_score(label, -distance)),
        f1=float(f1_score(label, predicted, zero_division=0.0)),
        accuracy=float((predicted == label).mean()),
        majority_rate=float(max(label.mean(), 1 - label.mean())),
        threshold=float(threshold),
    )


def pair_distances(encoder: TreeEncoder, pairs: Pairs) -> Array:
    """Distance of each pair [P], float32, without dropout; every distinct tree is encoded once."""
    encoding = encoder.encode_trees(pairs.forest, pairs.trees)
    return distances(encoding[: len(pairs)], encoding[len(pairs) :]).cpu().numpy()


def calibrated_threshold(distance: Array, label: Array) -> float:
    """The threshold with the best F1 on these pairs, halfway between two distances that occur.

    F1 because classes are unbalanced in practice: the threshold of the best accuracy may well be
    one that calls no pair similar.
    """
    order = np.argsort(distance, kind="stable")
    ascending = distance[order].astype(np.float64)
    hits = np.cumsum(label[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
    f1[:-1][np.diff(ascending) == 0] = -1.0  # equal distances fall on one side together
    best = int(np.argmax(f1))
    if best + 1 == len(order):
        return float(np.nextafter(ascending[best], np.inf))
    return float((ascending[best] + ascending[best + 1]) / 2)


def bag_distances(pairs: Pairs, key: str | None = None) -> Array:
    """A trivial baseline: cosine distance [P] of the trees' bags of symbols, weighted by TF-IDF.

    It sees which symbols a tree has and nothing of its structure. `key` keeps only that key's
    symbols, as in a bag of roots.
    """
    trees, first, second = distinct_trees(pairs)
    return _cosine_distances(_bag_vectors(pairs.forest, trees, key), first, second)


def _bag_vectors(forest: Forest, trees: Array, key: str | None = None) -> Any:
    """Unit vectors, sparse [T, symbols]."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    bags = [
        [
            symbol
            for node in forest.graph(tree).symbols
            for symbol in node
            if key is None or key_of(symbol) == key
        ]
        or [UNKNOWN]
        for tree in trees.tolist()
    ]
    return TfidfVectorizer(analyzer=list).fit_transform(bags)


def _cosine_distances(vectors: Any, first: Array, second: Array) -> Array:
    """Of rows `first` from rows `second` [P] of sparse unit vectors."""
    return np.asarray(1 - vectors[first].multiply(vectors[second]).sum(axis=1)).ravel()


# --- an encoder beside its baselines -----------------------------------------------------------


def distinct_trees(pairs: Pairs) -> tuple[Array, Array, Array]:
    """Numbers [T] of the distinct trees in `pairs`, and each pair's first and second among them [P]."""
    _, where, position = np.unique(
        pairs.forest.root[pairs.trees], return_index=True, return_inverse=True
    )
    return pairs.trees[where], position[: len(pairs)], position[len(pairs) :]


@dataclass(frozen=True)
class Contestant:
    """One way to tell similar pairs from others: an encoder, or a baseline."""

    distance: Array  # [P]
    threshold: float
    between: Callable[[Array], Array]  # positions [Q] among the T trees -> distances [Q, T]

    def metrics(self, label: Array) -> Metrics:
        return pair_metrics(self.distance, label, self.threshold)


def encoder_contestant(encoder: TreeEncoder, pairs: Pairs, calibrate: bool = False) -> Contestant:
    """An encoder with the threshold that came with it, or with one calibrated on these pairs."""
    trees, first, second = distinct_trees(pairs)
    vectors = encoder.encode_trees(pairs.forest, trees).cpu()
    distance = distances(vectors[first], vectors[second]).numpy()
    threshold = calibrated_threshold(distance, pairs.label) if calibrate else encoder.threshold
    return Contestant(distance, threshold, lambda rows: torch.cdist(vectors[rows], vectors).numpy())


def tfidf_scorer(pairs: Pairs) -> Contestant:
    """The bag of symbols, its threshold calibrated on these very pairs: it gets the benefit."""
    trees, first, second = distinct_trees(pairs)
    vectors = _bag_vectors(pairs.forest, trees)
    distance = _cosine_distances(vectors, first, second)
    threshold = calibrated_threshold(distance, pairs.label)
    return Contestant(distance, threshold, lambda rows: 1 - (vectors[rows] @ vectors.T).toarray())


# --- how sure one can be -----------------------------------------------------------------------


def resampled(
    pairs: Pairs, distance: Array, threshold: float, resamples: int = 1000, seed: int = 0
) -> dict[str, Array]:
    """Metrics on R resamples of the sentences, [R] each: roc_auc, average_precision, f1, accuracy.

    Pairs that share a tree are not independent, so the trees are drawn, with replacement, and a
    pair counts as often as the product of its trees' draws (pigeonhole bootstrap, Owen 2007). Equal
    seeds draw equal trees: differences of two calls are paired.
    """
    trees, first, second = distinct_trees(pairs)
    order = np.argsort(distance, kind="stable")
    label, ascending = pairs.label[order].astype(bool), distance[order]
    ends = np.flatnonzero(np.append(np.diff(ascending) != 0, True))  # of runs of equal distances
    similar = ascending.astype(np.float64) < threshold
    random = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _RESAMPLES_PER_CALL):
        rows = min(_RESAMPLES_PER_CALL, resamples - start)
        draws = random.integers(len(trees), size=(rows, len(trees)))
        draws += np.arange(rows)[:, None] * len(trees)
        times = np.bincount(draws.ravel(), minlength=rows * len(trees)).reshape(rows, len(trees))
        weight = times[:, first[order]] * np.where(first == second, 1, times[:, second])[:, order]
        parts.append(_weighted_metrics(weight.astype(np.float64), label, similar, ends))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


_RESAMPLES_PER_CALL = 100  # bounds the memory


def _weighted_metrics(weight: Array, label: Array, similar: Array, ends: Array) -> dict[str, Array]:
    """Metrics of weighted pairs: `weight` [R, P], by ascending distance; as scikit-learn's."""
    with np.errstate(invalid="ignore"):  # a resample without a class has no metrics
        right, wrong = (np.cumsum(weight * kind, axis=1)[:, ends] for kind in (label, ~label))
        positives, negatives = right[:, -1:], wrong[:, -1:]
        height = (right + np.pad(right, ((0, 0), (1, 0)))[:, :-1]) / 2  # of the ROC's trapezoids
        area = (np.diff(wrong, axis=1, prepend=0.0) * height).sum(axis=1)
        precision = right / np.maximum(right + wrong, 1e-300)
        gained = np.diff(right, axis=1, prepend=0.0)
        found = (weight * (label & similar)).sum(axis=1)
        called = (weight * similar).sum(axis=1)
        agreed = (weight * (label == similar)).sum(axis=1)
        return {
            "roc_auc": area / (positives * negatives)[:, 0],
            "average_precision": (gained * precision).sum(axis=1) / positives[:, 0],
            "f1": 2 * found / (called + positives[:, 0]),
            "accuracy": agreed / weight.sum(axis=1),
        }


def scores(contestant: Contestant, pairs: Pairs) -> dict[str, tuple[float, float, float]]:
    """roc_auc, average_precision, f1, accuracy: each on these pairs, and its 95% interval."""
    draws = resampled(pairs, contestant.distance, contestant.threshold)
    found = contestant.metrics(pairs.label).to_dict()
    return {name: (found[name], *interval(values)) for name, values in draws.items()}


def differences(
    first: Contestant, second: Contestant, pairs: Pairs
) -> dict[str, tuple[float, float, float]]:
    """`second` minus `first` in each metric of `scores`, with its 95% interval, on paired resamples."""
    draws = [resampled(pairs, each.distance, each.threshold) for each in (first, second)]
    found = [each.metrics(pairs.label).to_dict() for each in (first, second)]
    return {
        name: (found[1][name] - found[0][name], *interval(draws[1][name] - draws[0][name]))
        for name in draws[0]
    }


def interval(values: Array) -> tuple[float, float]:
    """The middle 95% of resampled values [R]; resamples without a class do not count."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


# --- retrieval and neighbours ------------------------------------------------------------------


@dataclass(frozen=True)
class Retrieval:
    """How well the trees nearest to a tree are those labelled similar to it."""

    queries: int  # trees with at least one similar partner
    candidates: int  # trees that each is compared with
    precision: dict[int, float]  # k -> share of the k nearest that are labelled similar, mean
    possible: dict[int, float]  # k -> the most that a perfect ranking could reach
    chance: float  # what a random ranking reaches, at every k
    mean_reciprocal_rank: float  # mean of 1 / rank of the nearest tree labelled similar


def retrieval(contestant: Contestant, pairs: Pairs, at: Sequence[int] = (1, 5, 10)) -> Retrieval:
    """Each tree that has similar partners asks for them among all others.

    Trees nobody labelled count as not similar, so these are lower bounds. Of equally distant trees
    the similar ones count as farther: a distance that cannot tell trees apart gains nothing.
    """
    trees, first, second = distinct_trees(pairs)
    partners: dict[int, set[int]] = {}
    for a, b, similar in zip(first.tolist(), second.tolist(), pairs.label.tolist(), strict=True):
        if similar and a != b:
            partners.setdefault(a, set()).add(b)
            partners.setdefault(b, set()).add(a)
    queries = np.array(sorted(partners), np.int64)
    hits: dict[int, list[float]] = {k: [] for k in at}
    reciprocal = []
    for start in range(0, len(queries), _QUERIES_PER_CALL):
        chunk = queries[start : start + _QUERIES_PER_CALL]
        for query, distance in zip(chunk.tolist(), contestant.between(chunk), strict=True):
            relevant = np.zeros(len(trees), bool)
            relevant[list(partners[query])] = True
            others = np.arange(len(trees)) != query
            ranked = relevant[others][np.lexsort((relevant[others], distance[others]))]
            for k in at:
                hits[k].append(ranked[:k].mean())
            reciprocal.append(1 / (1 + int(np.argmax(ranked))))
    counts = np.array([len(partners[query]) for query in queries.tolist()])
    return Retrieval(
        queries=len(queries),
        candidates=len(trees) - 1,
        precision={k: float(np.mean(hits[k])) for k in at},
        possible={k: float(np.minimum(counts / k, 1).mean()) for k in at},
        chance=float(counts.mean() / (len(trees) - 1)),
        mean_reciprocal_rank=float(np.mean(reciprocal)),
    )


_QUERIES_PER_CALL = 256  # bounds the memory


def nearest(contestant: Contestant, tree: int, count: int = 5) -> list[tuple[int, float]]:
    """The trees nearest to one, by position among the T, with their distances, nearest first."""
    distance = contestant.between(np.array([tree]))[0]
    order = [int(i) for i in np.argsort(distance, kind="stable") if i != tree][:count]
    return [(i, float(distance[i])) for i in order]


def principal_components(encoder: TreeEncoder, pairs: Pairs) -> tuple[Array, float]:
    """The T encodings' first two principal components [T, 2], and their share of the variance."""
    from sklearn.decomposition import PCA

    vectors = encoder.encode_trees(pairs.forest, distinct_trees(pairs)[0]).cpu().numpy()
    analysis = PCA(2, random_state=0)
    points = np.asarray(analysis.fit_transform(vectors.astype(np.float64)))
    return points, float(analysis.explained_variance_ratio_.sum())


def most_wrong(distance: Array, label: Array, count: int = 2) -> Array:
    """Pairs that contradict their label most: the farthest similar, then the nearest dissimilar."""
    similar, dissimilar = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    farthest = similar[np.argsort(-distance[similar], kind="stable")][:count]
    return np.concatenate(
        (farthest, dissimilar[np.argsort(distance[dissimilar], kind="stable")][:count])
    )


def graded_correlation(distance: Array, similarity: Array) -> dict[str, float] | None:
    """Spearman's and Pearson's correlation of distance [P] with the graded similarity, over the pairs
    that have one; -1 is perfect. None where fewer than three have one, or all the same.
    """
    from scipy.stats import pearsonr, spearmanr

    given = ~np.isnan(similarity)
    if given.sum() < 3 or np.ptp(similarity[given]) == 0 or np.ptp(distance[given]) == 0:
        return None
    both = distance[given].astype(np.float64), similarity[given]
    return {"spearman": float(spearmanr(*both)[0]), "pearson": float(pearsonr(*both)[0])}
