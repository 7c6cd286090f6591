"""What an encoder is trained for. An objective owns its loss and whatever follows from it.

A new objective is a class here and its settings in `config.py`.

Shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from treelstm.config import Config


@dataclass(frozen=True)
class Contrastive:
    """Similar pairs (label 1) pay for distance, dissimilar ones (label 0) below `margin`.

    Hadsell, Chopra & LeCun 2006, eq. 4; their Y is 1 - label here.
    """

    margin: float
    settings = ("margin",)  # that a user may change where the loss is out of bounds

    def loss(self, distance: Tensor, label: Tensor) -> Tensor:
        """Loss of each pair [P], from distances [P] and labels [P]."""
        pull = distance.square()
        push = (self.margin - distance).clamp(min=0).square()
        return 0.5 * torch.where(label > 0, pull, push)

    @property
    def first_threshold(self) -> float:
        """Distance under which a pair counts as similar, before the first validation."""
        return self.margin / 2

    def largest_sound_loss(self, first: float) -> float:
        """The mean loss beyond which a run has diverged; `first` is the mean loss of its first step.

        10,000 times the first loss, or that of an encoder that maps all trees to one point: distances
        100 times as large.
        """
        return 10_000 * max(self.margin**2 / 2, first)


def objective_of(config: Config) -> Contrastive:
    """The objective that the settings ask for."""
    return Contrastive(config.margin)
