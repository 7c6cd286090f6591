"""How well distances tell similar pairs from dissimilar ones, beside a trivial baseline.

Shapes: P pairs. Labels are 1 similar, 0 dissimilar; small distances speak for similar.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from treelstm.data import Pairs
from treelstm.model import TreeEncoder, distances
from treelstm.trees import UNKNOWN, Array, key_of


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
    return measure(pair_distances(encoder, pairs), pairs.label, encoder.threshold)


def measure(distance: Array, label: Array, threshold: float) -> Metrics:
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
    from sklearn.feature_extraction.text import TfidfVectorizer

    forest = pairs.forest
    used, position = np.unique(pairs.trees, return_inverse=True)
    bags = [
        [
            symbol
            for node in forest.graph(tree).symbols
            for symbol in node
            if key is None or key_of(symbol) == key
        ]
        or [UNKNOWN]
        for tree in used.tolist()
    ]
    vectors = TfidfVectorizer(analyzer=list).fit_transform(bags)
    first, second = position[: len(pairs)], position[len(pairs) :]
    return np.asarray(1 - vectors[first].multiply(vectors[second]).sum(axis=1)).ravel()
