"""One optimizer step, and the validation at the end of an epoch."""

from typing import cast

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from treelstm.evaluation import (
    calibrated_threshold,
    distinct_trees,
    graded_quality,
    pair_metrics,
    retrieval,
    vector_scorer,
)
from treelstm.history import IN_EVALUATION, EpochRecord, is_better
from treelstm.model.encoder import distances
from treelstm.model.objectives import Graded, Ranking
from treelstm.run.inputs import Inputs, Part, inputs_of
from treelstm.run.state import Run


def train_step(
    run: Run, order: np.ndarray, vocabulary_ids: np.ndarray, inputs: Inputs | None = None
) -> None:
    """One optimizer step on the next `batch_size` pairs of `order`; on a GPU, it waits for nothing.

    `inputs` are what `inputs_of` gives for this step, if that has been made ahead.
    """
    inputs = inputs or inputs_of(run, order, vocabulary_ids, run.step)
    run.optimizer.zero_grad(set_to_none=True)
    if run.config.shards == 1:
        loss, sums = _loss(run, inputs.parts[0])
        mean = loss.mean()
        mean.backward()
    else:
        sums = _gradients_of_shards(run, inputs)
        mean = (sums[0] / inputs.pairs).float()
    run.optimizer.step()
    if run.warmup is not None and run.warmup.last_epoch < run.config.warmup_steps:
        run.warmup.step()
    if run.first_loss is None:
        run.first_loss = mean.detach()
    run.epoch_sums += sums
    run.step += 1


def _loss(
    run: Run, part: Part, embedding: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each pair, and float64 sums: of the losses, of pairs on the right side of the threshold.

    `embedding`, if it is not the encoder's own, has the rows that the part's batch points to.
    """
    first, second = run.encoder(part.batch, part.mask, embedding).split(len(part.label))
    loss = run.objective.loss(first, second, part.target)
    correct = (distances(first.detach(), second.detach()) < run.threshold) == (part.label > 0)
    return loss, torch.stack((loss.detach().double().sum(), correct.double().sum()))


def _gradients_of_shards(run: Run, inputs: Inputs) -> torch.Tensor:
    """Gives every parameter its gradient by the mean loss, added up over the batch's parts; the sums.

    Of the embedding, only the rows that the batch uses are added up, and travel.
    """
    encoder = run.encoder
    rows = encoder.embeddings_of(inputs.used)
    embedding = rows.detach().requires_grad_()
    of_rows = "embedding", "vector_weight"
    weights = [weight for name, weight in encoder.named_parameters() if name not in of_rows]
    wanted = [*weights, embedding]
    sizes = [weight.numel() for weight in wanted]

    def part(number: int) -> tuple[torch.Tensor, ...]:
        if number not in inputs.parts:  # an epoch's last batch may have fewer
            return embedding.new_zeros(sum(sizes)), torch.zeros_like(run.epoch_sums)
        loss, sums = _loss(run, inputs.parts[number], embedding)
        gradients = torch.autograd.grad(loss.sum() / inputs.pairs, wanted)
        return torch.cat([gradient.flatten() for gradient in gradients]), sums

    flat, sums = run.group.add(run.config.shards, part)
    *gradients, of_embedding = flat.split(sizes)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.view_as(weight)
    rows.backward(of_embedding.view_as(rows))
    return sums


def finish_epoch(run: Run) -> EpochRecord:
    """Validates and ends the epoch whose steps are all done; returns its history record."""
    pairs, training = run.corpus.validation, run.corpus.training
    loss_sum, correct = run.epoch_sums.tolist()
    trees, first, second = distinct_trees(pairs)
    vectors = run.encoder.encode_trees(pairs.forest, trees, run.config.shards, run.group.fill)
    both = vectors[first], vectors[second]
    run.epochs_done += 1
    numbers = {"epoch": run.epochs_done, "train_loss": loss_sum / len(training)}
    if training.has_classes:
        numbers["train_acc"] = correct / len(training)
    compared = run.config.batch_size // run.config.shards  # pairs that a loss may look at together
    numbers["validation_loss"] = run.objective.validation_loss(*both, pairs, compared)
    distance = distances(*both).cpu().numpy()
    if pairs.has_classes:
        run.threshold = calibrated_threshold(distance, pairs.label)
        metrics = pair_metrics(distance, pairs.label, run.threshold)
        numbers |= {each.key: getattr(metrics, each.field) for each in IN_EVALUATION if each.key}
    if isinstance(run.objective, Graded):
        numbers |= graded_quality(distance, run.objective.similarity(distance), pairs.similarity)
    if isinstance(run.objective, Ranking):
        found = retrieval(vector_scorer(vectors.cpu(), pairs, run.threshold), pairs, at=(1,))
        numbers["validation_precision_at_1"] = found.precision[1]
        numbers["validation_reciprocal_rank"] = found.mean_reciprocal_rank
    record = cast("EpochRecord", numbers | {"learning_rate": run.learning_rate})
    best = run.history[run.best["epoch"] - 1] if run.best else None
    record["best"] = is_better(record, best, run.best_by)
    run.history.append(record)
    if record["best"]:
        run.best = {"epoch": record["epoch"], "validation_loss": record["validation_loss"]}
    if isinstance(run.scheduler, ReduceLROnPlateau):
        run.scheduler.step(record["validation_loss"])
    elif run.scheduler is not None:
        run.scheduler.step()
    run.step = 0
    run.epoch_sums.zero_()
    return record
