"""Training and encoding on a GPU beside the processor of the same machine, and what a step launches.

python benchmarks/gpu.py [--device cuda] [--pairs 16 256 2048] [--trees 1000000]
With --device cpu it is tried on a machine without a GPU. The kernel alone: contestants.py --device cuda.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import treelstm
from corpus import directories, workplace
from speed import model_and_optimizer, seconds
from treelstm.data.pairs import Corpus
from treelstm.process import set_for_training
from treelstm.randomness import epoch_order
from treelstm.run.inputs import ahead, inputs_of, side_thread
from treelstm.run.state import Run, new_run
from treelstm.run.step import train_step
from treelstm.trees.builder import compile_forest

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pairs", type=int, nargs="+", default=[16, 256, 2048], help="pairs a batch")
    parser.add_argument("--trees", type=int, default=1_000_000, help="sample trees to encode")
    options = parser.parse_args()
    with workplace() as name, set_for_training(2):
        training, validation = directories(Path(name))
        config = treelstm.Config(data_dir=str(training), validation_dir=str(validation))
        corpus = treelstm.load_corpus(config)
        for device in dict.fromkeys(("cpu", options.device)):
            where = torch.cuda.get_device_name() if device != "cpu" else "CPU, 2 threads"
            print(f"\n{where}, torch {torch.__version__}\n")
            print("| pairs a batch | pairs/s | outside the model and the optimizer | launches a step |")
            print("|---:|---:|---:|---:|")
            for size in options.pairs:
                run = new_run(replace(config, device=device, batch_size=size), corpus)
                loop(run, corpus)
            encoding(run, options.trees)


def loop(run: Run, corpus: Corpus) -> None:
    """The whole loop without commits, against its own model and optimizer on inputs that are there."""
    ids = corpus.vocabulary.ids(corpus.training.forest.symbols)
    order = epoch_order(run.config.seed, 1, len(corpus.training))
    count = max(4, min(run.steps_per_epoch - 1, 1920 // run.config.batch_size))
    make = partial(inputs_of, run, order, ids)
    prepared = [make(step) for step in range(count)]

    def core() -> None:
        model_and_optimizer(run, prepared)
        finish(run)

    def whole() -> None:
        run.step = 0
        with side_thread(run.device) as side:
            for inputs in ahead(side, make, range(count)):
                train_step(run, order, ids, inputs)
            finish(run)

    core(), whole()
    both = [(seconds(core), seconds(whole)) for _ in range(ROUNDS)]
    pace = count * run.config.batch_size / median(spent for _, spent in both)
    share = median(1 - alone / spent for alone, spent in both)
    kind = ProfilerActivity.CPU if run.device.type == "cpu" else ProfilerActivity.CUDA
    with profile(activities=[kind]) as seen:
        core()
    of_torch = [event for event in seen.events() if kind != ProfilerActivity.CPU or is_outermost(event)]
    print(
        f"| {run.config.batch_size:,} | {pace:,.0f} | {share:.1%} | {len(of_torch) / count:,.0f} |",
        flush=True,
    )


def is_outermost(event) -> bool:
    """An operation of torch that no other one calls: about what a GPU would be told."""
    above = event.cpu_parent
    return event.name.startswith("aten::") and not (above and above.name.startswith("aten::"))


def encoding(run: Run, count: int) -> None:
    pairs = run.corpus.training
    every = np.concatenate((pairs.first, pairs.second))
    spent = [seconds(partial(encode, run, pairs.forest, every)) for _ in range(3)]
    print(f"\nencoding the {len(every):,} trees of all pairs: {min(spent):.3f} s")
    if count:
        large = compile_forest(sample_trees(count))
        spent = [seconds(partial(encode, run, large, np.arange(count))) for _ in range(2)]
        print(f"encoding {large}: {min(spent):.1f} s")


def encode(run: Run, forest, trees: np.ndarray) -> None:
    run.encoder.encode_trees(forest, trees).cpu()


def sample_trees(count: int) -> Iterator[dict]:
    """Sentences of 8 to 10 nodes, of 500 words."""
    draw = random.Random(0)

    def group(role: str) -> dict:
        rest = [
            {"kind": "adjective", "word": draw.randrange(100, 300)} for _ in range(draw.randrange(2))
        ]
        return {"kind": "group", "head": {"word": draw.randrange(100), "case": role}, "rest": rest}

    for _ in range(count):
        verb = {"word": draw.randrange(300, 500), "tense": draw.randrange(3)}
        yield {"kind": "sentence", "verb": verb, "subject": group("n"), "object": group("a")}


def finish(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
