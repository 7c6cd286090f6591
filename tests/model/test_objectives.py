from __future__ import annotations

import math

import pytest
import torch

from treelstm import Config
from treelstm.model.encoder import distances
from treelstm.model.objectives import Contrastive, objective_of


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
