"""bfloat16 beside float32: quality on unseen pairs after the same epochs, and speed side by side.

python benchmarks/precision.py [epochs]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import treelstm
from corpus import directories, workplace
from speed import seconds
from treelstm.data.load import load_corpus
from treelstm.data.pairs import Corpus
from treelstm.evaluation import pair_distances
from treelstm.randomness import epoch_order
from treelstm.run.state import new_run
from treelstm.run.step import train_step

ROUNDS = 7


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with workplace() as name:
        training, validation = directories(Path(name))
        config = treelstm.Config(
            data_dir=str(training), validation_dir=str(validation), epochs=epochs, seed=0
        )
        corpus = load_corpus(config)
        quality(config, name)
        for size in (16, 256):
            speed(replace(config, batch_size=size), corpus)


def quality(config: treelstm.Config, work: str) -> None:
    print("| | epoch | validation loss | ROC-AUC | average precision | accuracy |")
    print("|---|---|---|---|---|---|")
    for seed in (0, 1):
        for precision in ("float32", "bfloat16"):
            run = replace(
                config, precision=precision, seed=seed, output_dir=f"{work}/{precision}-{seed}"
            )
            best = treelstm.train(run).best
            assert best is not None
            numbers = [best[f"validation_{k}"] for k in ("loss", "roc_auc", "average_precision", "acc")]
            cells = " | ".join(f"{number:.4f}" for number in numbers)
            print(f"| {precision}, seed {seed} | {best['epoch']} | {cells} |", flush=True)


def speed(config: treelstm.Config, corpus: Corpus) -> None:
    runs = [new_run(replace(config, precision=p), corpus) for p in ("float32", "bfloat16")]
    order = epoch_order(config.seed, 1, len(corpus.training))
    ids = corpus.vocabulary.ids(corpus.training.forest.symbols)
    steps = 640 // config.batch_size

    def some_steps(run) -> None:
        run.step = 0
        for _ in range(steps):
            train_step(run, order, ids)

    def encoding(run) -> None:
        pair_distances(run.encoder, corpus.training)

    for what, work in (("training", some_steps), ("encoding", encoding)):
        for run in runs:
            work(run)
        ratios = []
        for _ in range(ROUNDS):
            full, half = (seconds(partial(work, run)) for run in runs)
            ratios.append(full / half)
        print(
            f"{what}, batch of {config.batch_size}: bfloat16 is {median(ratios):.2f} times as fast "
            f"as float32 ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
