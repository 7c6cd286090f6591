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
from treelstm.trees.forest import TreeBatch

_Data = TypeVar("_Data", torch.Tensor, TreeBatch)


def train_step(run: Run, order: np.ndarray, vocabulary_ids: np.ndarray) -> None:
    """One optimizer step on the next `batch_size` pairs of `order`."""
    config, pairs = run.config, run.corpus.training
    indices = order[run.step * config.batch_size : (run.step + 1) * config.batch_size]
    trees = np.concatenate((pairs.first[indices], pairs.second[indices]))
    batch = _moved(run.encoder.batch(pairs.forest, trees, vocabulary_ids), run.device)
    target = _moved(run.objective.target(pairs, indices), run.device)
    mask = None
    if config.dropout:
        shape = (len(trees), config.hidden_dim)
        mask = _moved(dropout_mask(config.seed, run.steps_done, shape, config.dropout), run.device)

    encoding = run.encoder(batch, mask)
    first, second = encoding.split(len(indices))
    loss = run.objective.loss(first, second, target)
    run.optimizer.zero_grad(set_to_none=True)
    mean = loss.mean()
    mean.backward()
    run.optimizer.step()
    if run.warmup is not None and run.warmup.last_epoch < config.warmup_steps:
        run.warmup.step()
    if run.first_loss is None:
        run.first_loss = mean.detach()

    label = _moved(torch.from_numpy(pairs.label[indices]), run.device)
    correct = (distances(first.detach(), second.detach()) < run.threshold) == (label > 0)
    run.epoch_sums += torch.stack((loss.detach().double().sum(), correct.double().sum()))
    run.step += 1


def _moved(data: _Data, device: torch.device) -> _Data:
    """The data on the device; copied to a GPU from pinned memory, without waiting."""
    return data if device.type == "cpu" else data.pin_memory().to(device, non_blocking=True)


def finish_epoch(run: Run) -> EpochRecord:
    """Validates and ends the epoch whose steps are all done; returns its history record."""
    pairs, training = run.corpus.validation, run.corpus.training
    loss_sum, correct = run.epoch_sums.tolist()
    trees, first, second = distinct_trees(pairs)
    vectors = run.encoder.encode_trees(pairs.forest, trees)
    both = vectors[first], vectors[second]
    run.epochs_done += 1
    numbers = {"epoch": run.epochs_done, "train_loss": loss_sum / len(training)}
    if training.has_classes:
        numbers["train_acc"] = correct / len(training)
    numbers["validation_loss"] = run.objective.validation_loss(*both, pairs, run.config.batch_size)
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
