from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import tiny_config

from treelstm import Config, load_pairs, train
from treelstm.config import ConfigError
from treelstm.model.objectives import Contrastive, Graded, Ranking, objective_of


def test_contrastive_loss_follows_hadsell_equation_4():
    distance = torch.tensor([0.0, 0.3, 2.0, 0.0, 0.3, 2.0])
    label = torch.tensor([1, 1, 1, 0, 0, 0])
    expected = torch.tensor([0.0, 0.045, 2.0, 0.5, 0.245, 0.0])
    torch.testing.assert_close(Contrastive(1.0, 0.0).of_distance(distance, label), expected)


def test_similar_pairs_pay_nothing_up_to_the_positive_margin():
    distance = torch.tensor([0.0, 0.75, 1.75, 0.9])
    label = torch.tensor([1, 1, 1, 0])
    expected = torch.tensor([0.0, 0.0, 0.5, 0.005])
    torch.testing.assert_close(Contrastive(1.0, 0.75).of_distance(distance, label), expected)


def test_equal_encodings_have_a_finite_gradient():
    encoding = torch.ones(1, 4, requires_grad=True)
    Contrastive(1.0, 0.0).loss(encoding, encoding, torch.tensor([0])).sum().backward()
    assert torch.isfinite(encoding.grad).all()


def test_threshold_and_bound_follow_the_margin():
    objective = objective_of(Config(margin=4.0))
    assert objective.first_threshold == (0.75 + 4.0) / 2
    assert objective.largest_sound_loss(1.0) == pytest.approx(10_000 * 8.0)
    assert objective.largest_sound_loss(50.0) == pytest.approx(10_000 * 50.0)
    assert math.isnan(objective.largest_sound_loss(math.nan)) or objective.largest_sound_loss(0.0) > 0


def test_the_graded_objective_wants_a_distance_that_falls_with_similarity(tiny, tmp_path):
    objective = objective_of(Config(objective="graded", margin=2.0, similarity_low=1, similarity_high=5))
    pairs = load_pairs(tiny / "training")
    pairs = dataclasses.replace(pairs, similarity=np.linspace(1, 5, len(pairs)))
    target = objective.target(pairs, np.array([0, len(pairs) - 1]))
    torch.testing.assert_close(target, torch.tensor([0.0, 1.0]))
    distance = torch.tensor([4.0, 0.0])  # 2 margin (1 - similarity)
    assert not objective.of_distance(distance, target).any()
    torch.testing.assert_close(objective.of_distance(distance + 1, target), torch.tensor([0.5, 0.5]))
    assert objective.similarity(np.array([4.0, 2.0, 0.0])).tolist() == [1.0, 3.0, 5.0]


def test_ranking_is_the_cross_entropy_of_the_partner_among_the_trees_that_are_not_similar(tiny):
    pairs = load_pairs(tiny / "training")
    pairs = pairs[np.flatnonzero(pairs.label == 1)]
    # The first tree of pair 0 is also similar to the second one of pair 1, and pair 3 repeats pair 2.
    first, second = pairs.first.copy(), pairs.second.copy()
    first[4], second[4] = first[0], second[1]
    first[3], second[3] = first[2], second[2]
    pairs = dataclasses.replace(pairs, first=first, second=second)
    objective, some = Ranking(0.5), np.arange(4)
    z = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z[3], z[7] = z[2], z[6]
    found = objective.loss(z[:4], z[4:], objective.target(pairs, some))
    excluded = {(0, 5), (5, 0)} | {(a, b) for a in (2, 3) for b in (2, 3)}
    excluded |= {(a + 4 * s, b + 4 * t) for a in (2, 3) for b in (2, 3) for s in (0, 1) for t in (0, 1)}
    losses = []
    for tree in range(8):
        partner = (tree + 4) % 8
        logits = {
            other: -float(torch.dist(z[tree], z[other])) / 0.5
            for other in range(8)
            if other == partner or (other != tree and (tree, other) not in excluded)
        }
        losses.append(math.log(sum(math.exp(x) for x in logits.values())) - logits[partner])
    expected = torch.tensor([(losses[k] + losses[k + 4]) / 2 for k in range(4)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_what_decides_the_best_epoch_must_be_a_number_of_the_run(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"best_by is 'validation_los': no such number\. Did you mean"):
        train(tiny_config(tiny, tmp_path / "run", best_by="validation_los"))
    with pytest.raises(ConfigError, match="best_by is 'validation_pearson', which these pairs do not"):
        train(tiny_config(tiny, tmp_path / "run", best_by="validation_pearson"))
    history = train(tiny_config(tiny, tmp_path / "run", best_by="validation_roc_auc"))
    best = max(history.epochs, key=lambda record: record["validation_roc_auc"])
    assert history.best == best and [r["best"] for r in history.epochs].count(True) >= 1


@pytest.mark.parametrize("margins", [(1.0, 0.75), (1.0, 0.0), (4.0, 1.0), (1.0, 1.0)])
def test_no_single_distance_has_a_smaller_contrastive_loss_than_the_bound(tiny, margins):
    pairs, objective = load_pairs(tiny / "training"), Contrastive(*margins)
    distance = torch.linspace(0, 5, 5001, dtype=torch.float64)[:, None]
    target = objective.target(pairs, np.arange(len(pairs)))
    least = objective.of_distance(distance, target).mean(1).min()
    assert objective.constant_loss(pairs, 16) == pytest.approx(float(least), abs=1e-6)


@pytest.mark.parametrize(("margin", "low", "high"), [(1.0, 0.0, 1.0), (2.0, 1.0, 5.0), (0.5, -1.0, 1.0)])
def test_no_single_distance_has_a_smaller_graded_loss_than_the_bound(tiny, margin, low, high):
    pairs, objective = load_pairs(tiny / "training"), Graded(margin, low, high)
    pairs = dataclasses.replace(pairs, similarity=np.geomspace(low + 2, high + 2, len(pairs)) - 2)
    distance = torch.linspace(0, 5, 5001, dtype=torch.float64)[:, None]
    target = objective.target(pairs, np.arange(len(pairs))).double()
    least = objective.of_distance(distance, target).mean(1).min()
    assert objective.constant_loss(pairs, 16) == pytest.approx(float(least), abs=1e-6)


@pytest.mark.parametrize("size", [4, 5, 24])
def test_the_ranking_loss_of_one_distance_is_the_bound_where_no_trees_are_related(tiny, size):
    pairs = load_pairs(tiny / "training")
    pairs = pairs[np.flatnonzero(pairs.label == 1)]
    objective, losses = Ranking(0.1), []
    for start in range(0, len(pairs), size):
        count = len(range(len(pairs))[start : start + size])
        first, second = torch.eye(2 * count, dtype=torch.float64).split(count)  # all equally far
        own = torch.eye(2 * count, dtype=torch.bool)
        losses.append(objective.loss(first, second, own | own.roll(count, 0)))
    bound = objective.constant_loss(pairs, size)
    assert bound == pytest.approx(float(torch.cat(losses).mean()))
