"""Does cost grow in proportion? Corpora of 1, 4 and 16 times the sample, chains 1,000 and 10,000 deep.

Times are of interleaved runs in one process, on one thread; memory is the peak of a process of its own,
the median of three.

python benchmarks/growth.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median

import treelstm
from corpus import linked, workplace
from speed import seconds
from treelstm.config import EncoderSettings
from treelstm.model.encoder import TreeEncoder
from treelstm.randomness import epoch_order
from treelstm.run.state import Run, new_run
from treelstm.run.step import train_step
from treelstm.trees.builder import compile_forest
from treelstm.trees.vocabulary import Vocabulary

import numpy as np
import torch

TIMES, DEPTHS = (1, 4, 16), (1_000, 10_000)
POSITIVES, NEGATIVES = 495, 5_000
ROUNDS, STEPS = 7, 40


def main() -> None:
    torch.set_num_threads(1)
    with workplace() as name:
        directories = {}
        for k in TIMES:
            directories[k] = Path(name) / str(k)
            treelstm.write_sample(directories[k], positives=k * POSITIVES, negatives=k * NEGATIVES)
        fresh = {k: [linked(d, Path(f"{d}-{n}")) for n in range(3)] for k, d in directories.items()}
        memory = {k: peak_bytes(*uncompiled) for k, uncompiled in fresh.items()}
        chains = {depth: peak_bytes(depth, depth, depth) for depth in (100, *DEPTHS)}
        corpora = {k: epoch(directories[k]) for k in TIMES}
        grown(
            "corpus",
            {k: corpus.per_epoch for k, corpus in corpora.items()},
            memory,
            interleaved([corpus.some_steps for corpus in corpora.values()]),
        )
    works = [chain(depth) for depth in DEPTHS]
    grown("chain", dict.fromkeys(DEPTHS, 1.0), chains, interleaved(works))


def grown(what: str, factor: dict[int, float], memory: dict[int, int], times: list[list[float]]) -> None:
    """Prints time and memory of each size, and both by size relative to the smallest."""
    per = [[t * f for t, f in zip(row, factor.values(), strict=True)] for row in times]
    sizes = list(factor)
    for place, size in enumerate(sizes):
        relative = median(row[place] / row[0] for row in per) / (size / sizes[0])
        spent = median(row[place] for row in per)
        print(
            f"{what} {size:>6,}: {spent:8.2f} s, {relative:.2f} times proportional; "
            f"peak memory {memory[size] / 1e6:,.0f} MB"
        )
    low, middle, high = list(memory)
    slopes = [(memory[b] - memory[a]) / (b - a) for a, b in ((low, middle), (middle, high))]
    straight = memory[low] + (memory[high] - memory[low]) / (high - low) * (middle - low)
    print(
        f"{what}: memory is {memory[middle] / straight - 1:+.1%} off a straight line through the ends; "
        f"by size, large against small: {slopes[1] / slopes[0]:.2f} times proportional"
    )


def interleaved(works) -> list[list[float]]:
    for work in works:
        work()
    return [[seconds(work) for work in works] for _ in range(ROUNDS)]


class Epoch:
    """Steps spread evenly over an epoch, to be timed; `per_epoch` is how many of them make one."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.order = epoch_order(0, 1, len(run.corpus.training))
        self.ids = run.corpus.vocabulary.ids(run.corpus.training.forest.symbols)
        self.per_epoch = run.steps_per_epoch / STEPS

    def some_steps(self) -> None:
        stride = self.run.steps_per_epoch // STEPS
        for k in range(STEPS):
            self.run.step = k * stride
            train_step(self.run, self.order, self.ids)


def epoch(directory: Path | str) -> Epoch:
    config = treelstm.Config(data_dir=str(directory))
    return Epoch(new_run(config, treelstm.load_corpus(config)))


def chain(depth: int):
    """Forward and backward pass of one chain, ready to be timed."""
    node: dict = {"kind": "leaf"}
    for level in range(depth - 1):
        node = {"kind": str(level % 3), "next": node}
    forest = compile_forest([node])
    vocabulary = Vocabulary.of(forest, np.arange(1))
    encoder = TreeEncoder(vocabulary, EncoderSettings())
    batch = encoder.batch(forest, np.arange(1), vocabulary.ids(forest.symbols))
    return lambda: encoder(batch).sum().backward()


def peak_bytes(*works: Path | int) -> int:
    """Median peak memory of processes that compile a directory and train, or run a chain that deep."""
    return median(int(subprocess.check_output([sys.executable, __file__, str(work)])) for work in works)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        work = chain(int(sys.argv[1])) if sys.argv[1].isdigit() else epoch(sys.argv[1]).some_steps
        work(), work()
        # Linux only; getrusage would start at the peak of the process that started this one.
        status = Path("/proc/self/status").read_text()
        print(1024 * int(status.partition("VmHWM:")[2].split()[0]))
