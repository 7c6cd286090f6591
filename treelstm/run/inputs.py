"""What a step takes from the corpus; for a GPU, made one step ahead on a side thread.

Forest and pairs are read only, and what is made depends on (seed, step) alone: who makes it, and when,
changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from treelstm.randomness import dropout_mask
from treelstm.run.state import Run
from treelstm.trees.arrays import Array, entries
from treelstm.trees.forest import TreeBatch, moved

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Part:
    """P pairs, which are evaluated at once, on the run's device."""

    batch: TreeBatch  # of 2 P trees: the first ones of the pairs, then the second ones
    target: torch.Tensor  # of the objective
    label: torch.Tensor  # [P]
    mask: torch.Tensor | None  # [2 P, H] of the dropout


@dataclass(frozen=True)
class Inputs:
    """Of one step: the whole batch, or the parts of it that this process evaluates."""

    pairs: int  # in the whole batch
    parts: dict[int, Part]
    used: Array  # [U] ids of the whole batch's symbols; left empty if it is one part


def inputs_of(run: Run, order: Array, vocabulary_ids: Array, step: int) -> Inputs:
    """What step `step` of the epoch that `run` is in takes from the corpus; waits for no GPU."""
    config, pairs = run.config, run.corpus.training
    indices = np.asarray(order[step * config.batch_size : (step + 1) * config.batch_size])
    count, mask = len(indices), None
    if config.dropout:
        shape = (2 * count, config.hidden_dim)
        number = run.epochs_done * run.steps_per_epoch + step
        mask = dropout_mask(config.seed, number, shape, config.dropout)
    used, place = np.zeros(0, np.int64), None
    if config.shards > 1:
        bag = pairs.forest.bag[entries(pairs.forest.bag_ptr, _trees(run, indices))[0]]
        is_used = np.zeros(len(run.corpus.vocabulary), bool)
        is_used[vocabulary_ids[bag]] = True
        used, place = np.flatnonzero(is_used), torch.from_numpy(np.cumsum(is_used) - 1)

    def part(at: Array) -> Part:
        own = indices[at]
        batch = run.encoder.batch(pairs.forest, _trees(run, own), vocabulary_ids)
        if place is not None:  # the rows of `used`
            batch.symbol, batch.used = place[batch.symbol], place[batch.used]
        masked = mask
        if mask is not None and len(at) < count:
            masked = mask[torch.from_numpy(np.concatenate((at, count + at)))]
        return Part(
            batch.to(run.device),
            moved(run.objective.target(pairs, own), run.device),
            moved(torch.from_numpy(pairs.label[own]), run.device),
            None if masked is None else moved(masked, run.device),
        )

    parts = enumerate(np.array_split(np.arange(count), config.shards))
    mine = {number: at for number, at in parts if len(at) and run.group.makes(number, config.shards)}
    return Inputs(count, {number: part(at) for number, at in mine.items()}, used)


def _trees(run: Run, indices: Array) -> Array:
    pairs = run.corpus.training
    return np.concatenate((pairs.first[indices], pairs.second[indices]))


def side_thread(device: torch.device) -> ThreadPoolExecutor:
    """A thread beside the calling one that puts its copies to a GPU into the same stream, in order."""
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def begin() -> None:
        if stream is not None:
            torch.cuda.set_stream(stream)  # and its GPU: both are a thread's own

    return ThreadPoolExecutor(1, "treelstm-ahead", begin)


def ahead(side: Executor, make: Callable[[int], _Made], numbers: Iterable[int]) -> Iterator[_Made]:
    """make(n) for each of the numbers, in order; the next one is made on `side` while one is used.

    An error of `make` is raised where its result would have been. Where the CPU computes the step, this
    does not pay: the thread takes a core from the products, and a step of 16 pairs takes half as long
    again on two cores.
    """
    waiting: Future[_Made] | None = None
    for number in numbers:
        following = side.submit(make, number)
        if waiting is not None:
            yield waiting.result()
        waiting = following
    if waiting is not None:
        yield waiting.result()
