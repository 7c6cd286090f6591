"""What to try before the night: learning rates (Smith 2017, arXiv:1506.01186) and sizes of a batch.

Both train copies that are thrown away: nothing is written, no global random state is read or written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch

from treelstm import themes
from treelstm.checks.trial import free_bytes, least_bytes
from treelstm.config import Config
from treelstm.data.load import load_corpus
from treelstm.data.pairs import Corpus
from treelstm.neutral import neutral_torch
from treelstm.plain import in_html
from treelstm.process import OutOfMemory, chosen_device, default_threads, set_for_training
from treelstm.randomness import epoch_order
from treelstm.run.state import Run, new_run
from treelstm.run.step import train_step
from treelstm.trees.arrays import Array

if TYPE_CHECKING:
    from treelstm.drawing import PageFigure

_LOW, _HIGH, _STEPS = 1e-5, 1.0, 100  # learning rates, one a step
_MEASURED_PAIRS = 128
_MOST_SECONDS = 30.0  # of either test; a step that has begun is finished
_SECONDS_PER_SIZE = 0.7
_SIZES = [2**k for k in range(3, 11)]


@dataclass(frozen=True)
class RateTest:
    """The loss of the same pairs while the learning rate rises from step to step, and a proposal."""

    rates: Array  # [R]
    losses: Array  # [R] after the step at that rate
    proposal: float | None
    why: str  # this proposal, or none

    def figure(self) -> PageFigure:
        from treelstm.drawing import new_figure

        figure, (ax,) = new_figure(1, width=7.0)
        ax.plot(self.rates, self.losses, color=themes.SIMILAR)
        ax.set(xscale="log", xlabel="learning rate, which rises with each step")
        ax.set(ylabel=f"loss of the same {_MEASURED_PAIRS} pairs")
        ax.xaxis.set_major_formatter(lambda rate, place: f"{rate:g}")
        if 0 < self.losses[0] < math.inf:
            ax.set_ylim(0, 1.5 * self.losses[0])
        if self.proposal is not None:
            ax.axvline(self.proposal, color=themes.MARK, ls=":", label=f"proposal {self.proposal:.1g}")
            ax.legend(frameon=False)
        figure.alt = f"Loss by learning rate. {self.why}"
        return figure

    def _repr_html_(self) -> str:
        return f"<p>{in_html(self.why)}</p>{self.figure().to_html()}"


@dataclass(frozen=True)
class SizeTest:
    """Pairs per second and seconds per epoch of the steps alone, by batch size."""

    pairs: int
    pace: dict[int, float]  # batch size -> pairs per second
    why: str  # there are no more

    def _repr_html_(self) -> str:
        from treelstm.tables import html_table

        head = ["pairs per step", "pairs per second", "seconds per epoch", "steps per epoch"]
        rows = [
            [f"{n:,}", f"{pace:,.0f}", f"{self.pairs / pace:.1f}", f"{-(-self.pairs // n):,}"]
            for n, pace in self.pace.items()
        ]
        table = f"<div style='display:inline-block'>{html_table(head, rows)}</div>" if rows else ""
        return f"{table}<p>{in_html(self.why)}</p>"


def try_learning_rates(config: Config) -> RateTest:
    """Trains a copy from the start, whose rate rises from 1e-5 to 1 in 100 steps, or until the loss is
    twice what it was. After each step the loss of the same pairs is measured, without dropout.

    The proposal is a third of the rate at which the loss is lowest: beyond it steps begin to undo each
    other. There is none where the loss does not fall by a tenth, nor where 30 s were not enough to see
    it rise. It is a rate to begin with, no more: the steps are few, and all of them at the beginning.

    Raises as `load_corpus` and `train` before the first step.
    """
    with _copy(replace(config, lr_schedule=None, warmup_steps=0)) as (run, ids):
        pairs, began = run.corpus.training, time.monotonic()
        some = epoch_order(config.seed, 0, len(pairs))[:_MEASURED_PAIRS]
        trees = np.concatenate((pairs.first[some], pairs.second[some]))
        batch = run.encoder.batch(pairs.forest, trees, ids).to(run.device)
        target = run.objective.target(pairs, some).to(run.device)
        losses, late = list[float](), False
        rates = np.geomspace(_LOW, _HIGH, _STEPS)
        steps = _steps(run, ids)
        for rate in rates.tolist():
            run.optimizer.param_groups[0]["lr"] = rate
            next(steps)
            with torch.no_grad():
                first, second = run.encoder(batch).split(len(some))
                loss = run.objective.loss(first, second, target)
            losses.append(float(loss.mean()))
            late = time.monotonic() - began > _MOST_SECONDS
            if late or not math.isfinite(losses[-1]) or losses[-1] > 2 * losses[0]:
                break
    proposal, why = _proposal(rates[: len(losses)], np.array(losses), late)
    return RateTest(rates[: len(losses)], np.array(losses), proposal, why)


def _proposal(rates: Array, losses: Array, late: bool) -> tuple[float | None, str]:
    seen = np.convolve(np.pad(losses, 2, "edge"), np.full(5, 0.2), "valid")  # single steps are noisy
    lowest = int(np.argmin(np.nan_to_num(seen, nan=math.inf)))
    fall = 1 - float(seen[lowest] / losses[0]) if 0 < losses[0] < math.inf else 0.0
    rate = float(rates[lowest])
    if late and lowest > len(rates) - 5:
        return None, f"No proposal: after {_MOST_SECONDS:g} s the rate was {rates[-1]:.1g}, too early."
    if fall < 0.1:
        how = "it rises from the start" if len(rates) < _STEPS // 2 else "it stays nearly the same"
        return None, f"No proposal: no rate lowers the loss of these pairs by a tenth; {how}."
    words = f"the loss is lowest, {fall:.0%} below its beginning, at a rate of {rate:.2g}"
    why = f"Try learning_rate={rate / 3:.1g}: {words}, of which this is a third."
    return float(f"{rate / 3:.1g}"), why


def try_batch_sizes(config: Config) -> SizeTest:
    """Times steps of 8, 16, 32 ... pairs, as far as memory, corpus and 30 s allow.

    A larger batch makes an epoch faster and its steps fewer: whether the run is better is not said.
    Raises as `try_learning_rates`.
    """
    corpus, began, pace = load_corpus(config), time.monotonic(), dict[int, float]()
    why = f"These are all sizes up to {_SIZES[-1]:,} pairs."
    for size in (each for each in _SIZES if each >= 2 * config.shards):  # a part has two pairs
        if size > len(corpus.training):
            why = f"There are {len(corpus.training):,} pairs for training."
            break
        try:
            tried = replace(config, batch_size=size)
            if least_bytes(tried, corpus) > free_bytes(chosen_device(config.device)):
                raise OutOfMemory
            with _copy(tried, corpus) as (run, ids):
                pace[size] = _pace(run, ids)
        except OutOfMemory:
            why = f"Batches of {size:,} pairs need more memory than is free."
            break
        if time.monotonic() - began > _MOST_SECONDS:
            why = f"Larger batches were not tried: {_MOST_SECONDS:g} s are over."
            break
    return SizeTest(len(corpus.training), pace, why)


def _pace(run: Run, ids: Array) -> float:
    """Pairs per second, of the faster steps: other programs slow some. At least 3 are timed."""
    steps, spent, until = _steps(run, ids), list[float](), time.monotonic() + _SECONDS_PER_SIZE
    while len(spent) < 5 or time.monotonic() < until:
        began = time.monotonic()
        next(steps)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        spent.append(time.monotonic() - began)
    return run.config.batch_size / float(np.percentile(spent[2:], 25))


@contextmanager
def _copy(config: Config, corpus: Corpus | None = None) -> Iterator[tuple[Run, Array]]:
    """A run before its first step, and the ids of its symbols, in the surroundings of a training."""
    threads = config.num_threads or default_threads(config.shards)
    with neutral_torch(), set_for_training(threads):
        run = new_run(config, corpus or load_corpus(config))
        yield run, run.corpus.vocabulary.ids(run.corpus.training.forest.symbols)


def _steps(run: Run, ids: Array) -> Iterator[None]:
    """Trains without end, one step for each `next`; what is left of an epoch's pairs is left out."""
    pairs, size = len(run.corpus.training), run.config.batch_size
    for run.epochs_done in count():
        order = epoch_order(run.config.seed, run.epochs_done + 1, pairs)
        for run.step in range(max(1, pairs // size)):
            train_step(run, order, ids)
            yield
