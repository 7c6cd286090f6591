"""How well distances tell similar pairs from dissimilar ones, for encoders and simple baselines.

Shapes: P pairs, T distinct trees in them, R resamples. Labels are 1 similar, 0 dissimilar; the smaller
a distance, the more similar the pair.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from treelstm.config import ConfigError
from treelstm.data.pairs import Pairs
from treelstm.history import IN_EVALUATION, OF_GRADED_PAIRS
from treelstm.model.encoder import TreeEncoder, distances
from treelstm.model.objectives import Graded, objective_of
from treelstm.trees.arrays import Array
from treelstm.trees.vocabulary import UNKNOWN, key_of

Estimate = tuple[float, float, float]  # a metric, and both ends of its 95% interval

_QUERIES_PER_CALL = 256  # bounds the memory


@dataclass(frozen=True)
class Metrics:
    """How well distances fit a set of labelled pairs; all but the threshold lie between 0 and 1."""

    roc_auc: float
    average_precision: float
    f1: float  # at the threshold
    accuracy: float  # at the threshold; compare it with majority_rate
    majority_rate: float  # accuracy of always answering the more frequent class
    threshold: float  # a pair of a smaller distance is predicted similar

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def evaluate(encoder: TreeEncoder, pairs: Pairs) -> Metrics:
    """Metrics of `encoder` on `pairs`, at the encoder's own threshold."""
    return pair_metrics(pair_distances(encoder, pairs), pairs.label, encoder.threshold)


def pair_metrics(distance: Array, label: Array, threshold: float) -> Metrics:
    """Metrics of distances [P] against labels [P], which must hold both classes."""
    # scikit-learn takes 1.7 s to import, which would delay every start and resume.
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
    encoding = _encodings(encoder, pairs, pairs.trees)
    return distances(encoding[: len(pairs)], encoding[len(pairs) :]).cpu().numpy()


def _encodings(encoder: TreeEncoder, pairs: Pairs, trees: Array) -> torch.Tensor:
    """Encodings of trees of `pairs`, which must have been read as the encoder reads trees.

    Raises:
        ConfigError: they were read with other ignored keys or another child_order; names both.
    """
    theirs, ours = ((sorted(of.ignored_keys), of.child_order) for of in (pairs, encoder.settings))
    if theirs != ours:
        raise ConfigError(
            f"the pairs were read with ignored_keys={theirs[0]} and child_order={theirs[1]}, "
            f"the encoder has {ours[0]} and {ours[1]}. Read them with load_pairs(directory, "
            "encoder.settings.ignored_keys, child_order=encoder.settings.child_order)."
        )
    return encoder.encode_trees(pairs.forest, trees)


def threshold_scores(distance: Array, label: Array) -> tuple[Array, Array, Array]:
    """The D different distances, ascending; F1 and accuracy [D] of calling a pair similar up to each."""
    order, ends = ascending(distance)
    found, positives = np.cumsum(label[order])[ends], label.sum()
    f1 = 2 * found / (ends + 1 + positives)
    agreed = found + (len(label) - positives) - (ends + 1 - found)
    return distance[order][ends].astype(np.float64), f1, agreed / len(label)


def ascending(distance: Array) -> tuple[Array, Array]:
    """The pairs' order by distance [P], and the end of each stretch of equal distances in it [D]."""
    order = np.argsort(distance, kind="stable")
    return order, np.flatnonzero(np.append(np.diff(distance[order]) != 0, True))


def calibrated_threshold(distance: Array, label: Array) -> float:
    """The threshold with the best F1 on these pairs, halfway between two distances that occur; NaN
    unless all are labelled, and of both classes.

    Not the best accuracy: with unbalanced classes that threshold may predict no pair as similar.
    """
    if np.unique(label).tolist() != [0, 1]:
        return math.nan
    cut, f1, _ = threshold_scores(distance, label)
    best = int(np.argmax(f1))
    between = (cut[best] + cut[best + 1]) / 2 if best + 1 < len(cut) else np.nextafter(cut[best], np.inf)
    return float(between)


def distinct_trees(pairs: Pairs) -> tuple[Array, Array, Array]:
    """Numbers [T] of the distinct trees in `pairs`; positions [P] of each pair's two trees in these."""
    roots = pairs.forest.root[pairs.trees]
    _, where, position = np.unique(roots, return_index=True, return_inverse=True)
    return pairs.trees[where], position[: len(pairs)], position[len(pairs) :]


def not_told_apart(encoder: TreeEncoder, pairs: Pairs) -> tuple[int, int]:
    """How many of the T trees are to the encoder equal to another one, because they differ only in
    symbols that it does not know; how many pairs are of two such trees, and so have distance 0.
    """
    forest, (trees, first, second) = pairs.forest, distinct_trees(pairs)
    ids, embedding = encoder.reading(forest)
    _, rows = np.unique(embedding.detach().cpu().numpy(), axis=0, return_inverse=True)
    symbols = np.split(rows.ravel()[ids][forest.symbol], forest.symbol_ptr[1:-1])
    children = np.split(forest.child, forest.child_ptr[1:-1])
    known, number = dict[tuple[bytes, bytes], int](), np.zeros(len(forest.height), np.int64)
    for subtree, (own, below) in enumerate(zip(symbols, children, strict=True)):  # children first
        content = np.sort(own).tobytes(), np.sort(number[below]).tobytes()
        number[subtree] = known.setdefault(content, len(known))
    tree = number[forest.root[trees]]
    alike = np.bincount(tree)[tree] > 1
    return int(alike.sum()), int(((first != second) & (tree[first] == tree[second])).sum())


@dataclass(frozen=True)
class PairScorer:
    """Distances of a set of pairs, as an encoder or a baseline computes them."""

    distance: Array  # [P]
    threshold: float  # a pair of a smaller distance is predicted similar
    between: Callable[[Array], Array]  # positions [Q] among the T trees -> distances [Q, T]
    similarity: Array | None = None  # [P] what the distances stand for, on the scale of the pairs
    encoder: TreeEncoder | None = None  # None: a baseline

    def metrics(self, label: Array) -> Metrics:
        return pair_metrics(self.distance, label, self.threshold)


def encoder_scorer(encoder: TreeEncoder, pairs: Pairs, calibrate: bool = False) -> PairScorer:
    """An encoder with its own threshold, or with one calibrated on these pairs, also if it has none.

    If its run's objective is graded, with the similarities that its distances stand for.
    """
    vectors = _encodings(encoder, pairs, distinct_trees(pairs)[0]).cpu()
    none = calibrate or math.isnan(encoder.threshold)
    scorer = vector_scorer(vectors, pairs, None if none else encoder.threshold)
    objective = objective_of(encoder.origin.config) if hasattr(encoder, "origin") else None
    graded = objective.similarity(scorer.distance) if isinstance(objective, Graded) else None
    return replace(scorer, similarity=graded, encoder=encoder)


def vector_scorer(vectors: torch.Tensor, pairs: Pairs, threshold: float | None) -> PairScorer:
    """The distances of vectors [T, O] of the distinct trees; without a threshold, a calibrated one."""
    _, first, second = distinct_trees(pairs)
    distance = distances(vectors[first], vectors[second]).numpy()
    if threshold is None:
        threshold = calibrated_threshold(distance, pairs.label)
    return PairScorer(distance, threshold, lambda rows: torch.cdist(vectors[rows], vectors).numpy())


def tfidf_scorer(pairs: Pairs, key: str | None = None) -> PairScorer:
    """A simple baseline: cosine distance of the trees' bags of symbols, weighted by TF-IDF.

    It depends on which symbols a tree has, not on its structure, and is favoured by a threshold that is
    calibrated on these very pairs. With `key`, only symbols of that key count, as in a bag of roots.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    trees, first, second = distinct_trees(pairs)
    bags = []
    for tree in trees.tolist():
        symbols = [symbol for node in pairs.forest.graph(tree).symbols for symbol in node]
        bags.append([symbol for symbol in symbols if key in (None, key_of(symbol))] or [UNKNOWN])
    vectors = TfidfVectorizer(analyzer=list).fit_transform(bags)  # sparse [T, symbols], unit rows
    distance = np.asarray(1 - vectors[first].multiply(vectors[second]).sum(axis=1)).ravel()
    threshold = calibrated_threshold(distance, pairs.label)
    return PairScorer(distance, threshold, lambda rows: 1 - (vectors[rows] @ vectors.T).toarray())


def untrained_encoder(encoder: TreeEncoder, seed: int) -> TreeEncoder:
    """An encoder with fresh weights, and the vocabulary, settings and device of `encoder`."""
    fresh = TreeEncoder(encoder.vocabulary, encoder.settings, seed=seed, vectors=encoder.vectors)
    return fresh.to(encoder.embedding.device).eval()


def metrics_of(scorer: PairScorer, pairs: Pairs) -> dict[str, float]:
    """The metrics of `history.IN_EVALUATION` if the pairs have both classes, and those of
    `history.OF_GRADED_PAIRS` if they have graded similarities, by name.
    """
    of_classes = scorer.metrics(pairs.label).to_dict() if pairs.has_classes else {}
    found = {metric.name: of_classes[metric.name] for metric in IN_EVALUATION if of_classes}
    if pairs.has_grades:
        predicted = scorer.distance if scorer.similarity is None else scorer.similarity
        graded = graded_quality(scorer.distance, predicted, pairs.similarity)
        if scorer.similarity is None:  # nothing says what the distances stand for
            del graded["validation_mse"]
        found |= {metric.name: graded[metric.key] for metric in OF_GRADED_PAIRS if metric.key in graded}
    return found


def interval(values: Array) -> tuple[float, float]:
    """The middle 95% of resampled values [R], NaN left out."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Retrieval:
    """Whether the trees nearest to a tree are those labelled similar to it."""

    queries: int  # trees with at least one tree labelled similar
    candidates: int  # trees that each is compared with
    precision: dict[int, float]  # k -> share of the k nearest that are labelled similar, mean
    possible: dict[int, float]  # k -> precision of a perfect ranking
    chance: float  # precision of a random ranking, at every k
    mean_reciprocal_rank: float  # mean of 1 / rank of the nearest tree labelled similar
    first_right: Array  # [queries] whether the nearest one is labelled similar

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "first_right"}

    def difference(self, other: "Retrieval", resamples: int = 1000) -> Estimate:
        """Precision at 1 minus that of another ranking of the same trees, on resampled queries."""
        more = self.first_right.astype(float) - other.first_right
        random = np.random.default_rng(0)
        means = [more[random.integers(len(more), size=len(more))].mean() for _ in range(resamples)]
        return (float(more.mean()), *interval(np.array(means)))


def can_retrieve(pairs: Pairs) -> bool:
    """Whether some tree has another that is labelled similar to it."""
    return bool(((pairs.label == 1) & pairs.of_two_trees).any())


def retrieval(scorer: PairScorer, pairs: Pairs, at: Sequence[int] = (1, 5, 10)) -> Retrieval:
    """Ranks all other trees by distance, for each tree that has one labelled similar.

    Trees without a label count as not similar, so the results are lower bounds. Among equally distant
    trees the similar ones are ranked last, so that a constant distance gains nothing.
    """
    trees, first, second = distinct_trees(pairs)
    total, similar = len(trees), (pairs.label == 1) & (first != second)
    a, b = first[similar], second[similar]
    links = np.unique(np.append(a * total + b, b * total + a))  # each link in both directions
    queries, starts, counts = np.unique(links // total, return_index=True, return_counts=True)
    partners = np.split(links % total, starts[1:])
    top = np.zeros((len(queries), min(max(at), total - 1)), bool)
    rank = np.zeros(len(queries))
    for start in range(0, len(queries), _QUERIES_PER_CALL):
        chunk = queries[start : start + _QUERIES_PER_CALL]
        for row, distance in enumerate(scorer.between(chunk), start):
            relevant = np.zeros(total, bool)
            relevant[partners[row]] = True
            order = np.lexsort((relevant, distance))
            ranked = relevant[order[order != queries[row]]]
            top[row], rank[row] = ranked[: max(at)], 1 + np.argmax(ranked)
    return Retrieval(
        queries=len(queries),
        candidates=total - 1,
        precision={k: float(top[:, :k].mean(axis=1).mean()) for k in at},
        possible={k: float(np.minimum(counts / k, 1).mean()) for k in at},
        chance=float(counts.mean() / (total - 1)),
        mean_reciprocal_rank=float((1 / rank).mean()),
        first_right=rank == 1,
    )


def nearest(scorer: PairScorer, tree: int, count: int = 5) -> list[tuple[int, float]]:
    """The trees nearest to one, nearest first: their positions among the T trees, and distances."""
    distance = scorer.between(np.array([tree]))[0]
    order = np.argsort(distance, kind="stable").tolist()
    return [(i, float(distance[i])) for i in order if i != tree][:count]


def principal_components(encoder: TreeEncoder, pairs: Pairs) -> tuple[Array, float]:
    """The T encodings' first two principal components [T, 2], and their share of the variance."""
    from sklearn.decomposition import PCA

    vectors = _encodings(encoder, pairs, distinct_trees(pairs)[0]).cpu().numpy()
    analysis = PCA(2, random_state=0)
    points = np.asarray(analysis.fit_transform(vectors.astype(np.float64)))
    return points, float(analysis.explained_variance_ratio_.sum())


def most_wrong(distance: Array, pairs: Pairs, count: int = 2) -> Array:
    """Positions of the farthest similar pairs, then of the nearest dissimilar ones.

    Without labels: of pairs whose distances are too large for their similarity, by rank, then too small.
    """
    if (pairs.label < 0).all():
        given = np.flatnonzero(~np.isnan(pairs.similarity))
        order = given[np.argsort(ranks_off(distance[given], pairs.similarity[given]))]
        return np.concatenate((order[:count], order[::-1][: min(count, len(order) - count)]))
    similar, dissimilar = np.flatnonzero(pairs.label == 1), np.flatnonzero(pairs.label == 0)
    farthest = similar[np.argsort(-distance[similar], kind="stable")]
    closest = dissimilar[np.argsort(distance[dissimilar], kind="stable")]
    return np.concatenate((farthest[:count], closest[:count]))


def pair_errors(distance: Array, pairs: Pairs, threshold: float) -> Array:
    """How wrong each distance [P] is: how far on the wrong side of the threshold it lies, negative on
    the right one; without a threshold, of 0. Of pairs with a similarity only: by how large a share of
    these its rank among the distances is off.
    """
    side = np.where(pairs.label == 1, 1.0, -1.0)
    error = side * (distance.astype(np.float64) - np.nan_to_num(threshold))
    if len(graded := np.flatnonzero(pairs.label < 0)):
        ranks = ranks_off(distance[graded], pairs.similarity[graded])
        error[graded] = np.abs(ranks) / len(graded)
    return np.asarray(error)


def ranks_off(distance: Array, similarity: Array) -> Array:
    """By how many ranks each pair is too near for its similarity; negative: too far."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(-distance) - rankdata(similarity))


def graded_quality(distance: Array, predicted: Array, similarity: Array) -> dict[str, float]:
    """How well distances [P] and the similarities that they stand for fit the pairs' own, by the keys of
    an epoch's record. Correlations leave out pairs without a similarity (NaN); there are none where
    fewer than three remain, or all distances or all similarities are equal.
    """
    from scipy.stats import pearsonr, spearmanr

    given, found = ~np.isnan(similarity), dict[str, float]()
    both = distance[given].astype(np.float64), similarity[given]
    if given.sum() > 2 and all(np.ptp(each) for each in both):
        found["validation_pearson"] = -float(pearsonr(*both)[0])
        found["validation_spearman"] = -float(spearmanr(*both)[0])
    found["validation_mse"] = float(np.mean((predicted.astype(np.float64) - similarity) ** 2))
    return found
