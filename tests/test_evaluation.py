from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score

from treelstm import evaluate, load_encoder, load_pairs, train
from treelstm.comparison import bootstrap_metrics, compared, verdict
from treelstm.config import ConfigError, EncoderSettings
from treelstm.data.pairs import Pairs
from treelstm.evaluation import (
    PairScorer,
    calibrated_threshold,
    can_retrieve,
    distinct_trees,
    encoder_scorer,
    graded_quality,
    interval,
    metrics_of,
    most_wrong,
    nearest,
    not_told_apart,
    pair_distances,
    pair_metrics,
    principal_components,
    retrieval,
    tfidf_scorer,
    untrained_encoder,
)
from treelstm.history import IN_EVALUATION
from treelstm.model.encoder import TreeEncoder, distances
from treelstm.trees.builder import compile_forest
from treelstm.trees.vocabulary import Vocabulary


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
    found = pair_metrics(distance, label, calibrated_threshold(distance, label)).f1
    candidates = [*distance, *(distance + 0.01)]
    best = max(f1_score(label, distance < t, zero_division=0.0) for t in candidates)
    assert found == pytest.approx(best)


def test_metrics_of_a_perfect_and_of_a_useless_distance():
    label = np.array([1, 0, 0, 0])
    perfect = pair_metrics(np.array([0.1, 0.9, 0.8, 0.7]), label, 0.5)
    assert (perfect.roc_auc, perfect.average_precision, perfect.f1, perfect.accuracy) == (1, 1, 1, 1)
    useless = pair_metrics(np.ones(4), label, 0.5)
    assert useless.roc_auc == 0.5 and useless.f1 == 0
    assert useless.accuracy == useless.majority_rate == 0.75


def test_evaluate_uses_the_encoders_own_threshold(tiny, tmp_path):
    train(tiny_config(tiny, tmp_path / "run", epochs=1))
    encoder = load_encoder(tmp_path / "run" / "best_model.pt")
    pairs = load_pairs(tiny / "validation", encoder.settings.ignored_keys)
    metrics = evaluate(encoder, pairs)
    assert metrics.threshold == encoder.threshold
    assert metrics.majority_rate == pytest.approx(2 / 3)
    assert (
        metrics.roc_auc
        == train(tiny_config(tiny, tmp_path / "run", epochs=1)).epochs[0]["validation_roc_auc"]
    )
    direct = distances(*encoder.encode_trees(pairs.forest, [pairs.first[0], pairs.second[0]]).split(1))
    assert pair_distances(encoder, pairs)[0] == pytest.approx(float(direct), rel=1e-5)


def test_pairs_that_were_read_otherwise_than_the_encoder_reads_trees_are_refused(tiny, tmp_path):
    train(tiny_config(tiny, tmp_path / "run", epochs=1, ignored_keys=["nombro"]))
    encoder = load_encoder(tmp_path / "run" / "best_model.pt")
    pairs = load_pairs(tiny / "validation")
    refused = pytest.raises(ConfigError, match=r"read with ignored_keys=\['category.*\['nombro'\]")
    for score in (evaluate, pair_distances, encoder_scorer, principal_components):
        with refused:
            score(encoder, pairs)
    assert evaluate(encoder, load_pairs(tiny / "validation", ["nombro"])).roc_auc > 0
    assert repr(pairs).startswith("72 pairs (24 similar) of ") and len(repr(pairs.forest)) < 100


def test_the_bag_of_symbols_sees_symbols_and_no_structure(tiny):
    pairs = load_pairs(tiny / "training", ("plena_vorto",))
    bag = tfidf_scorer(pairs, "radiko").distance
    same_roots = pairs.similarity == 1
    assert np.allclose(bag[same_roots], 0, atol=1e-9) and (bag[~same_roots] > 0.01).all()


@pytest.fixture(scope="module")
def pairs(tiny) -> Pairs:
    return load_pairs(tiny / "validation")


def test_intervals_hold_the_metric_narrow_with_more_trees_and_are_reproducible(pairs):
    bag = tfidf_scorer(pairs)
    perfect = PairScorer(1.0 - pairs.label, 0.5, bag.between)
    scores, differences = compared({"perfect": perfect, "bag": bag, "again": bag}, pairs)
    found = scores["bag"]
    assert list(found) == [*(metric.field for metric in IN_EVALUATION), "pearson", "spearman"]
    for name, (value, low, high) in found.items():
        assert -1 <= low < high <= 1 and low - 0.1 < value < high + 0.1, name
    assert scores["again"] == found and scores["perfect"]["roc_auc"] == (1, 1, 1)
    assert differences["bag"]["roc_auc"][0] == 1 - found["roc_auc"][0] > 0
    _, same = compared({"bag": bag, "again": bag}, pairs)
    assert all(each == (0, 0, 0) for each in same["again"].values())


def test_resampled_metrics_are_those_of_pairs_repeated_as_their_trees_were_drawn(pairs):
    distance = tfidf_scorer(pairs).distance.round(1)  # with ties
    scorer = PairScorer(distance, 0.45, lambda rows: rows, similarity=1 - distance)
    found = bootstrap_metrics(pairs, scorer, resamples=5, seed=3)
    assert {"pearson", "spearman", "mse", "roc_auc"} < {*found}
    trees, first, second = distinct_trees(pairs)
    assert (first != second).all()
    drawn = np.random.default_rng(3).integers(len(trees), size=(5, len(trees)))
    for row in range(5):
        times = np.bincount(drawn[row], minlength=len(trees))
        repeated = np.repeat(np.arange(len(pairs)), times[first] * times[second])
        some = replace(scorer, distance=distance[repeated], similarity=1 - distance[repeated])
        expected = metrics_of(some, pairs[repeated])
        for name, values in found.items():  # ranks are those among all pairs
            assert values[row] == pytest.approx(expected[name], abs=0.05 if name == "spearman" else 1e-9)


def test_resampling_sentences_is_more_cautious_than_resampling_pairs(pairs):
    bag = tfidf_scorer(pairs)
    distance, sentences = bag.distance, bootstrap_metrics(pairs, bag)["average_precision"]
    random, alone = np.random.default_rng(0), []
    for _ in range(300):
        rows = random.integers(len(pairs), size=len(pairs))
        alone.append(average_precision_score(pairs.label[rows], -distance[rows]))
    widths = [np.subtract(*interval(np.array(values))[::-1]) for values in (sentences, alone)]
    assert widths[0] > 0.9 * widths[1]


def test_retrieval_of_a_perfect_a_blind_and_a_reversed_distance(pairs):
    trees, first, second = distinct_trees(pairs)
    partner = np.zeros((len(trees), len(trees)), bool)
    similar = pairs.label == 1
    partner[first[similar], second[similar]] = partner[second[similar], first[similar]] = True
    perfect = retrieval(PairScorer(np.empty(0), 0, lambda rows: ~partner[rows]), pairs)
    assert perfect.precision == perfect.possible and perfect.mean_reciprocal_rank == 1
    assert perfect.queries == partner.any(axis=1).sum() and perfect.candidates == len(trees) - 1
    blind = retrieval(PairScorer(np.empty(0), 0, lambda rows: np.zeros_like(partner[rows])), pairs)
    worst = retrieval(PairScorer(np.empty(0), 0, lambda rows: partner[rows]), pairs)
    assert (
        blind.to_dict() == worst.to_dict()
        and worst.precision[1] == 0
        and worst.mean_reciprocal_rank < 0.1
    )


def test_an_encoders_scorer_agrees_with_evaluate_and_with_itself(tiny, tmp_path, pairs):
    train(tiny_config(tiny, tmp_path / "run", epochs=1))
    encoder = load_encoder(tmp_path / "run" / "best_model.pt")
    mine = encoder_scorer(encoder, pairs)
    assert mine.metrics(pairs.label) == evaluate(encoder, pairs)
    _, first, second = distinct_trees(pairs)
    between = mine.between(first)[np.arange(len(pairs)), second]
    assert between == pytest.approx(mine.distance, abs=1e-4)
    tree = int(first[0])
    found = nearest(mine, tree, 3)
    assert [d for _, d in found] == sorted(mine.between(np.array([tree]))[0])[1:4]
    points, share = principal_components(encoder, pairs)
    assert points.shape == (len(distinct_trees(pairs)[0]), 2) and 0 < share <= 1
    own = encoder_scorer(encoder, pairs, calibrate=True)
    assert own.metrics(pairs.label).f1 >= mine.metrics(pairs.label).f1


def test_an_untrained_encoder_differs_from_a_trained_one_in_its_weights_alone(tiny, tmp_path, pairs):
    settings = {"epochs": 1, "precision": "bfloat16"}
    train(tiny_config(tiny, tmp_path / "run", **settings))
    encoder = load_encoder(tmp_path / "run" / "best_model.pt")
    fresh, again = (untrained_encoder(encoder, seed=5) for _ in range(2))
    assert fresh.vocabulary.symbols == encoder.vocabulary.symbols
    assert fresh.settings == encoder.settings and fresh.settings.precision == "bfloat16"
    distance = pair_distances(fresh, pairs)
    assert (distance == pair_distances(again, pairs)).all()
    assert distance.shape == (len(pairs),) and (distance != pair_distances(encoder, pairs)).any()


def test_the_most_wrong_pairs_are_far_similar_and_near_dissimilar_ones(pairs):
    five = pairs[np.arange(5)]
    distance, labelled = (
        np.array([0.1, 0.9, 0.5, 0.2, 0.8]),
        replace(five, label=np.array([1, 1, 1, 0, 0])),
    )
    assert most_wrong(distance, labelled).tolist() == [1, 2, 3, 4]
    assert most_wrong(distance, labelled, 1).tolist() == [1, 3]
    similarity = np.array([0.9, 0.95, 0.5, 0.1, 0.2])
    graded = replace(five, label=np.full(5, -1), similarity=similarity)
    assert most_wrong(distance, graded, 1).tolist() == [1, 3]  # too far, then too near
    positive = replace(five, label=np.ones(5, int))
    assert most_wrong(distance, positive).tolist() == [1, 4]


def test_pairs_without_classes_get_the_numbers_that_fit_them_and_no_others(pairs):
    bag = tfidf_scorer(pairs)
    graded = replace(pairs, label=np.full(len(pairs), -1))
    scorer = replace(tfidf_scorer(graded), similarity=1 - bag.distance)
    found = metrics_of(scorer, graded)
    assert [*found] == ["pearson", "spearman", "mse"] and np.isnan(scorer.threshold)
    assert found["pearson"] == pytest.approx(np.corrcoef(-bag.distance, pairs.similarity)[0, 1])
    assert found["mse"] == pytest.approx(np.mean((1 - bag.distance - pairs.similarity) ** 2))
    assert not can_retrieve(graded)
    positive = pairs[np.flatnonzero(pairs.label == 1)]
    positive = replace(positive, similarity=np.full(len(positive), np.nan))
    scores, differences = compared({"a": tfidf_scorer(positive), "b": tfidf_scorer(positive)}, positive)
    assert scores == {"a": {}, "b": {}} and differences == {"b": {}} and can_retrieve(positive)


def test_the_verdict_names_each_rival_by_what_the_intervals_say(pairs):
    trees, first, second = distinct_trees(pairs)
    partner, similar = np.zeros((len(trees), len(trees)), bool), pairs.label == 1
    partner[first[similar], second[similar]] = partner[second[similar], first[similar]] = True
    perfect = PairScorer(1.0 - pairs.label, 0.5, lambda rows: ~partner[rows])
    useless = PairScorer(pairs.label + 0.0, 0.5, lambda rows: partner[rows])
    half = np.where(np.arange(len(pairs)) % 4, perfect.distance, useless.distance)
    mine = PairScorer(half, 0.5, lambda rows: partner[rows] == (rows % 4 == 0)[:, None])
    scorers = {"mine": mine, "ideal, of no use": perfect, "twin": mine, "bad one": useless}
    found = {name: retrieval(each, pairs) for name, each in scorers.items()}
    said = verdict(*compared(scorers, pairs), found, graded=False)
    by_score, by_rank = said.split(". In retrieval")
    assert by_score.startswith("By average precision (0.") and by_rank.startswith(" (precision at 1: ")
    for half in (by_score, by_rank):
        better, unclear, worse = (
            half.index(words) for words in ("is better", "not clearly", "worse than")
        )
        assert better < half.index("the bad one (+") < unclear < half.index("the twin (+0.000")
        assert unclear < worse < half.index("the ideal (-") and "of no use" not in half
    graded = verdict(*compared(scorers, pairs), {}, graded=True)
    assert graded.startswith("By Pearson correlation (") and "retrieval" not in graded


def test_graded_similarity_is_correlated_where_it_is_given():
    distance, similarity = np.array([0.1, 0.5, 0.3, 0.9]), np.array([0.9, 0.2, np.nan, 0.1])
    found = graded_quality(distance, distance, similarity)
    assert found["validation_spearman"] == -spearmanr([0.1, 0.5, 0.9], [0.9, 0.2, 0.1])[0] == 1
    assert 0.8 < found["validation_pearson"] < 1
    assert graded_quality(distance, distance, np.full(4, np.nan)).keys() == {"validation_mse"}


KNOWN = [{"verb": "runs", "who": [{"name": "cat", "age": 1}, {"name": "dog", "age": 2}]}]
UNSEEN = {  # pairs of trees that differ only in symbols that an encoder of KNOWN does not know
    "values": ({"verb": "runs", "who": {"name": "emu"}}, {"verb": "runs", "who": {"name": "gnu"}}),
    "numbers": ({"who": {"age": 7}}, {"who": {"age": 8}}),
    "keys": ({"verb": "runs", "mood": "good"}, {"verb": "runs", "pace": "slow"}),
    "at the root": ({"verb": "flies"}, {"verb": "swims"}),
    "in another order": (
        {"who": [{"name": "emu", "age": 1}, {"name": "gnu", "age": 2}]},
        {"who": [{"name": "emu", "age": 2}, {"name": "gnu", "age": 1}]},
    ),
    "twice": ({"who": [{"name": "emu"}, {"name": "emu"}]}, {"who": [{"name": "emu"}, {"name": "gnu"}]}),
}
SEEN = {  # and some that differ in more
    "a known value": ({"who": {"name": "cat"}}, {"who": {"name": "gnu"}}),
    "the shape": ({"who": {"name": "emu"}}, {"who": [{"name": "gnu"}, {"name": "emu"}]}),
    "the key": ({"who": {"name": "emu"}}, {"who": {"age": 9}}),
    "nothing": ({"who": {"name": "owl"}}, {"who": {"name": "owl"}}),
}


@pytest.mark.parametrize("kind", [*UNSEEN, *SEEN])
@pytest.mark.parametrize("bag", [False, True], ids=["tree alone", "with the bag"])
def test_trees_that_differ_only_in_unknown_symbols_are_counted(tmp_path, kind, bag):
    both = (UNSEEN | SEEN)[kind]
    lines = [{"ast1": {"ast": a}, "ast2": {"ast": b}, "similarity": 1} for a, b in (both, KNOWN * 2)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    forest = compile_forest(KNOWN)
    vocabulary = Vocabulary.of(forest, np.arange(1))
    encoder = TreeEncoder(vocabulary, EncoderSettings(bag_of_symbols=bag))
    found = not_told_apart(encoder, load_pairs(tmp_path, objective=None))
    assert found == ((2, 1) if kind in UNSEEN and not bag else (0, 0))
    assert (encoder.distance(*both) < 1e-5) == (found == (2, 1) or kind == "nothing")
