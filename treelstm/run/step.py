"""One optimizer step, and the validation at the end of an epoch."""

from typing import TypeVar, cast

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from treelstm.evaluation import calibrated_threshold, pair_distances, pair_metrics
from treelstm.history import IN_EVALUATION, EpochRecord
from treelstm.model.encoder import distances
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
    correct = (distances(first.detach(), second.detach()) < run.threshold) == label.bool()
    run.epoch_sums += torch.stack((loss.detach().double().sum(), correct.double().sum()))
    run.step += 1


def _moved(data: _Data, device: torch.device) -> _Data:
    """The data on the device; copied to a GPU from pinned memory, without waiting."""
    return data if device.type == "cpu" else data.pin_memory().to(device, non_blocking=True)


def finish_epoch(run: Run) -> EpochRecord:
    """Validates and ends the epoch whose steps are all done; returns its history record."""
    pairs, count = run.corpus.validation, len(run.corpus.training)
    loss_sum, correct = run.epoch_sums.tolist()
    distance = pair_distances(run.encoder, pairs)
    first, second = run.encoder.encode_trees(pairs.forest, pairs.trees).split(len(pairs))
    target = run.objective.target(pairs, np.arange(len(pairs)))
    loss = 0.0 if run.config.objective == "ranking" else run.objective.validation_loss(first, second, target, 0)
    run.threshold = calibrated_threshold(distance, pairs.label)
    metrics = pair_metrics(distance, pairs.label, run.threshold)
    run.epochs_done += 1
    numbers = {
        "epoch": run.epochs_done,
        "train_loss": loss_sum / count,
        "train_acc": correct / count,
        "validation_loss": loss,
        **{each.key: getattr(metrics, each.field) for each in IN_EVALUATION if each.key},
        "learning_rate": run.learning_rate,
    }
    record = cast("EpochRecord", numbers)
    run.history.append(record)
    if run.best is None or record["validation_loss"] < run.best["validation_loss"]:
        run.best = {"epoch": record["epoch"], "validation_loss": record["validation_loss"]}
    if isinstance(run.scheduler, ReduceLROnPlateau):
        run.scheduler.step(record["validation_loss"])
    elif run.scheduler is not None:
        run.scheduler.step()
    run.step = 0
    run.epoch_sums.zero_()
    return record
