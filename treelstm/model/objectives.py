"""Training objectives: each owns its loss, its margins, its first threshold and its bound of soundness.

A new objective is a class here and its settings in `config.py`. Shapes: P pairs.
"""

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
    settings = ("margin",)  # to lower if the first step's loss is not finite

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
        """The mean loss beyond which a run has diverged; `first` is that of its first step.

        10,000 times `first` or the loss of mapping all trees to one point, whichever is larger:
        distances 100 times as large.
        """
        return 10_000 * max(self.margin**2 / 2, first)


Objective = Contrastive  # or another, once there is one


def objective_of(config: Config) -> Objective:
    """The objective that the settings ask for."""
    return Contrastive(config.margin)
