from __future__ import annotations

import numpy as np
import pytest
from conftest import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from treelstm import evaluate, load_encoder, load_pairs, train
from treelstm.evaluation import bag_distances, calibrated_threshold, measure, pair_distances
from treelstm.model import distances


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 1.3]), st.booleans()),
        min_size=2,
        max_size=30,
    ).filter(lambda pairs: len({label for _, label in pairs}) == 2)
)
def test_no_threshold_has_a_better_f1_than_the_calibrated_one(pairs):
    distance = np.array([d for d, _ in pairs], np.float32)
    label = np.array([int(y) for _, y in pairs])
    found = measure(distance, label, calibrated_threshold(distance, label)).f1
    candidates = [*distance, *(distance + 0.01)]
    best = max(f1_score(label, distance < t, zero_division=0.0) for t in candidates)
    assert found == pytest.approx(best)


def test_metrics_of_a_perfect_and_of_a_useless_distance():
    label = np.array([1, 0, 0, 0])
    perfect = measure(np.array([0.1, 0.9, 0.8, 0.7]), label, 0.5)
    assert (perfect.roc_auc, perfect.average_precision, perfect.f1, perfect.accuracy) == (1, 1, 1, 1)
    useless = measure(np.ones(4), label, 0.5)
    assert useless.roc_auc == 0.5 and useless.f1 == 0
    assert useless.accuracy == useless.majority_rate == 0.75


def test_evaluate_uses_the_threshold_that_came_with_the_encoder(tiny, tmp_path):
    train(tiny_config(tiny, tmp_path / "run", epochs=1))
    encoder = load_encoder(tmp_path / "run" / "best_model.pt")
    pairs = load_pairs(tiny / "validation", encoder.ignored_keys)
    metrics = evaluate(encoder, pairs)
    assert metrics.threshold == encoder.threshold
    assert metrics.majority_rate == pytest.approx(2 / 3)
    assert (
        metrics.roc_auc
        == train(tiny_config(tiny, tmp_path / "run", epochs=1)).epochs[0]["validation_roc_auc"]
    )
    direct = distances(*encoder.encode_trees(pairs.forest, [pairs.first[0], pairs.second[0]]).split(1))
    assert pair_distances(encoder, pairs)[0] == pytest.approx(float(direct), rel=1e-5)


def test_the_bag_of_symbols_sees_symbols_and_no_structure(tiny):
    pairs = load_pairs(tiny / "training", ("plena_vorto",))
    bag = bag_distances(pairs, "radiko")
    same_roots = pairs.similarity == 1
    assert np.allclose(bag[same_roots], 0, atol=1e-9) and (bag[~same_roots] > 0.01).all()
