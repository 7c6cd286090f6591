"""Training objectives: each owns its loss, its margins, its first threshold and its bound of soundness.

A new objective is a class here and its settings in `config.py`. Shapes: P pairs, B = 2 P trees, O
output.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from treelstm.config import Config
from treelstm.data.pairs import Pairs
from treelstm.model.encoder import distances
from treelstm.trees.arrays import Array


class _OfDistance:
    """An objective whose loss of a pair depends on its distance and a number of its own alone."""

    def of_distance(self, distance: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def loss(self, first: Tensor, second: Tensor, target: Tensor) -> Tensor:
        """Loss of each pair [P], from encodings [P, O] and what `target` gives for these pairs."""
        return self.of_distance(distances(first, second), target)

    def target(self, pairs: Pairs, indices: Array) -> Tensor:
        raise NotImplementedError

    def validation_loss(self, first: Tensor, second: Tensor, pairs: Pairs, batch_size: int) -> float:
        """Mean loss of all pairs, from their encodings [P, O]; in float64."""
        target = self.target(pairs, np.arange(len(pairs))).to(first.device)
        return float(self.of_distance(distances(first, second).double(), target.double()).mean())


@dataclass(frozen=True)
class Contrastive(_OfDistance):
    """Similar pairs (label 1) pay beyond `positive_margin`, dissimilar ones (label 0) below `margin`.

    Hadsell, Chopra & LeCun 2006, eq. 4 (their Y is 1 - label here), whose only margin is the second; two
    margins: Lin et al. 2015, arXiv:1501.04711.
    """

    margin: float
    positive_margin: float
    best_by: ClassVar = "validation_average_precision"
    measures: ClassVar = frozenset[str]()  # keys of an epoch's numbers that only this objective has

    def target(self, pairs: Pairs, indices: Array) -> Tensor:
        return torch.from_numpy(pairs.label[indices])

    def of_distance(self, distance: Tensor, target: Tensor) -> Tensor:
        pull = (distance - self.positive_margin).clamp(min=0).square()
        push = (self.margin - distance).clamp(min=0).square()
        return 0.5 * torch.where(target > 0, pull, push)

    @property
    def first_threshold(self) -> float:
        """Distance under which a pair counts as similar, before the first validation."""
        return (self.positive_margin + self.margin) / 2

    def constant_loss(self, pairs: Pairs, batch_size: int) -> float:
        """The smallest mean loss of these pairs that one distance for all of them can have."""
        share = float((pairs.label == 1).mean())
        # Between the margins, both pay: a sum of two parabolas, least where their slopes cancel.
        return 0.5 * (self.margin - self.positive_margin) ** 2 * share * (1 - share)

    def largest_sound_loss(self, first: float) -> float:
        """The mean loss beyond which a run has diverged; `first` is that of its first step.

        10,000 times `first` or the loss of mapping all trees to one point, whichever is larger:
        distances 100 times as large.
        """
        return 10_000 * max(self.margin**2 / 2, first)


@dataclass(frozen=True)
class Graded(_OfDistance):
    """The distance should be 2 margin (1 - s), s being the pair's similarity, scaled to 0 to 1."""

    margin: float
    low: float
    high: float
    best_by: ClassVar = "validation_loss"
    measures: ClassVar = frozenset(f"validation_{name}" for name in ("pearson", "spearman", "mse"))

    def similarity(self, distance: Array) -> Array:
        """The similarity that a distance stands for, on the scale of the pairs."""
        return self.low + (self.high - self.low) * (1 - distance / (2 * self.margin))

    def target(self, pairs: Pairs, indices: Array) -> Tensor:
        return torch.from_numpy((pairs.similarity[indices] - self.low) / (self.high - self.low)).float()

    def of_distance(self, distance: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (distance - 2 * self.margin * (1 - target)).square()

    @property
    def first_threshold(self) -> float:
        return self.margin

    def constant_loss(self, pairs: Pairs, batch_size: int) -> float:
        scaled = pairs.similarity / (self.high - self.low)
        return 2 * self.margin**2 * float(scaled.var())

    def largest_sound_loss(self, first: float) -> float:
        return 10_000 * max(2 * self.margin**2, first)


@dataclass(frozen=True)
class Ranking:
    """Each tree's partner should be nearer to it than the batch's other trees (multiple negatives).

    Cross-entropy of a softmax over the negative distances divided by `temperature`, for both trees of a
    pair: Henderson et al. 2017, arXiv:1705.00652, section 4.4. No negatives are trees equal to the
    tree, and trees labelled similar to it.
    """

    temperature: float
    best_by: ClassVar = "validation_reciprocal_rank"
    measures: ClassVar = frozenset(("validation_precision_at_1", "validation_reciprocal_rank"))

    def target(self, pairs: Pairs, indices: Array) -> Tensor:
        """[B, B] True where a tree is no negative of another: itself, equal or similar to it."""
        roots = pairs.forest.root[np.concatenate((pairs.first[indices], pairs.second[indices]))]
        related = pairs.similar_roots[roots][:, roots].toarray()
        return torch.from_numpy(related | related.T | (roots[:, None] == roots))

    def loss(self, first: Tensor, second: Tensor, target: Tensor) -> Tensor:
        """Loss of each pair [P]: the mean of its two trees'."""
        both = torch.cat((first, second))
        count = len(first)
        square = both.square().sum(1)
        distance = (square[:, None] + square - 2 * both @ both.t()).clamp(min=1e-12).sqrt()
        partner = torch.arange(2 * count, device=both.device).roll(count)
        logits = -distance / self.temperature
        own = logits.gather(1, partner[:, None])
        others = logits.masked_fill(target, -math.inf)
        loss = torch.logsumexp(torch.cat((own, others), 1), 1) - own[:, 0]
        return loss.view(2, count).mean(0)

    def validation_loss(self, first: Tensor, second: Tensor, pairs: Pairs, batch_size: int) -> float:
        """Mean loss of the similar pairs, taken in batches in the order of the files."""
        similar = np.flatnonzero(pairs.label == 1)
        batches = np.split(similar, range(batch_size, len(similar), batch_size))
        losses = [
            self.loss(first[some], second[some], self.target(pairs, some).to(first.device))
            for some in batches
        ]
        return float(torch.cat(losses).double().mean())

    first_threshold: ClassVar = math.nan  # none: only pairs of two classes can give one

    def constant_loss(self, pairs: Pairs, batch_size: int) -> float:
        """Every other tree of the batch counts as a negative, which is the most there can be."""
        whole, rest = divmod(len(pairs), batch_size)
        sizes = np.array([batch_size] * whole + [rest] * (rest > 0))
        return float(np.average(np.log(2 * sizes - 1), weights=sizes))

    def largest_sound_loss(self, first: float) -> float:
        return 10_000 * max(1.0, first)


Objective = Contrastive | Graded | Ranking


def objective_of(config: Config) -> Objective:
    """The objective that the settings ask for."""
    if config.objective == "graded":
        return Graded(config.margin, config.similarity_low, config.similarity_high)
    if config.objective == "ranking":
        return Ranking(config.temperature)
    return Contrastive(config.margin, config.positive_margin)
