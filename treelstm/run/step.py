"""One optimizer step, and the validation at the end of an epoch."""

from typing import TypeVar, cast

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
from treelstm.randomness import dropout_mask
from treelstm.run.state import Run
from treelstm.trees.forest import TreeBatch, entries

_Data = TypeVar("_Data", torch.Tensor, TreeBatch)


def train_step(run: Run, order: np.ndarray, vocabulary_ids: np.ndarray) -> None:
    """One optimizer step on the next `batch_size` pairs of `order`."""
    config = run.config
    indices = np.asarray(order[run.step * config.batch_size : (run.step + 1) * config.batch_size])
    mask = None
    if config.dropout:
        shape = (2 * len(indices), config.hidden_dim)
        mask = _moved(dropout_mask(config.seed, run.steps_done, shape, config.dropout), run.device)
    run.optimizer.zero_grad(set_to_none=True)
    if config.shards == 1:
        loss, sums = _loss(run, indices, vocabulary_ids, mask)
        mean = loss.mean()
        mean.backward()
    else:
        sums = _gradients_of_shards(run, indices, vocabulary_ids, mask)
        mean = (sums[0] / len(indices)).float()
    run.optimizer.step()
    if run.warmup is not None and run.warmup.last_epoch < config.warmup_steps:
        run.warmup.step()
    if run.first_loss is None:
        run.first_loss = mean.detach()
    run.epoch_sums += sums
    run.step += 1


def _loss(
    run: Run,
    indices: np.ndarray,
    vocabulary_ids: np.ndarray,
    mask: torch.Tensor | None,
    place: torch.Tensor | None = None,
    embedding: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each pair, and float64 sums: of the losses, of pairs on the right side of the threshold.

    `place`: the row of `embedding` that a symbol of the vocabulary has, if it is not the encoder's own.
    """
    pairs = run.corpus.training
    trees = np.concatenate((pairs.first[indices], pairs.second[indices]))
    batch = run.encoder.batch(pairs.forest, trees, vocabulary_ids)
    if place is not None:
        batch.symbol, batch.used = place[batch.symbol], place[batch.used]
    batch = _moved(batch, run.device)
    target = _moved(run.objective.target(pairs, indices), run.device)
    first, second = run.encoder(batch, mask, embedding).split(len(indices))
    loss = run.objective.loss(first, second, target)
    label = _moved(torch.from_numpy(pairs.label[indices]), run.device)
    correct = (distances(first.detach(), second.detach()) < run.threshold) == (label > 0)
    return loss, torch.stack((loss.detach().double().sum(), correct.double().sum()))


def _gradients_of_shards(
    run: Run, indices: np.ndarray, vocabulary_ids: np.ndarray, mask: torch.Tensor | None
) -> torch.Tensor:
    """Gives every parameter its gradient by the mean loss, added up over the batch's parts; the sums.

    Of the embedding, only the rows that the batch uses are added up, and travel.
    """
    encoder, pairs, count = run.encoder, run.corpus.training, len(indices)
    trees = np.concatenate((pairs.first[indices], pairs.second[indices]))
    is_used = np.zeros(len(run.corpus.vocabulary), bool)
    is_used[vocabulary_ids[pairs.forest.bag[entries(pairs.forest.bag_ptr, trees)[0]]]] = True
    place = torch.from_numpy(np.cumsum(is_used) - 1)
    used = _moved(torch.from_numpy(np.flatnonzero(is_used)), run.device)
    rows = encoder.embeddings_of(used)
    embedding = rows.detach().requires_grad_()
    of_rows = "embedding", "vector_weight"
    weights = [weight for name, weight in encoder.named_parameters() if name not in of_rows]
    inputs = [*weights, embedding]
    sizes = [weight.numel() for weight in inputs]
    parts = np.array_split(np.arange(count), run.config.shards)

    def part(number: int) -> tuple[torch.Tensor, ...]:
        at = parts[number]
        if not len(at):  # of an epoch's last batch
            return embedding.new_zeros(sum(sizes)), torch.zeros_like(run.epoch_sums)
        masked = None if mask is None else torch.cat((mask[at], mask[count + at]))
        loss, sums = _loss(run, indices[at], vocabulary_ids, masked, place, embedding)
        gradients = torch.autograd.grad(loss.sum() / count, inputs)
        return torch.cat([gradient.flatten() for gradient in gradients]), sums

    flat, sums = run.group.add(len(parts), part)
    *gradients, of_embedding = flat.split(sizes)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.view_as(weight)
    rows.backward(of_embedding.view_as(rows))
    return sums


def _moved(data: _Data, device: torch.device) -> _Data:
    """The data on the device; copied to a GPU from pinned memory, without waiting."""
    return data if device.type == "cpu" else data.pin_memory().to(device, non_blocking=True)


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
