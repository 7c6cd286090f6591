"""How fast a corpus is compiled, batched, trained on and encoded, each against its measure.

Training against per-node recursion, the loop against its own forward, backward and optimizer,
encoding against encoding without sharing: ratios of interleaved runs.

python benchmarks/speed.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import treelstm
from corpus import asts, directories, workplace
from treelstm.data.pairs import Corpus
from treelstm.model.encoder import TreeEncoder
from treelstm.randomness import dropout_mask, epoch_order
from treelstm.run.inputs import Inputs, inputs_of
from treelstm.run.state import Run, new_run
from treelstm.run.step import train_step
from treelstm.trees.builder import compile_forest
from treelstm.trees.forest import Forest

import numpy as np
import torch

ROUNDS, OUR_STEPS = 7, 60


def main() -> None:
    import reference

    with workplace() as name:
        training, validation = directories(Path(name))
        config = treelstm.Config(
            data_dir=str(training), validation_dir=str(validation), output_dir=f"{name}/run"
        )
        read = sum(path.stat().st_size for path in training.glob("*_pairs.jsonl*"))
        cold = seconds(lambda: treelstm.load_pairs(training, config.ignored_keys))
        warm = seconds(lambda: treelstm.load_pairs(training, config.ignored_keys))
        corpus = treelstm.load_corpus(config)
        forest = corpus.training.forest
        nodes, distinct = int(forest.tree_nodes.sum()), len(forest.height)
        print(f"compile {read / 1e6:.1f} MB, no cache: {cold:.2f} s; load from cache: {warm:.3f} s")
        print(
            f"{len(forest):,} trees, {nodes:,} nodes ({nodes / len(forest):.1f} a tree), "
            f"{distinct:,} distinct subtrees"
        )

        trees = asts(training, corpus.training)
        ours, recursive = new_run(config, corpus), new_run(config, corpus)
        ids = corpus.vocabulary.ids(forest.symbols)
        order = epoch_order(config.seed, 1, len(corpus.training))

        def our_steps() -> None:
            for _ in range(OUR_STEPS):
                train_step(ours, order, ids)
                ours.step %= ours.steps_per_epoch

        def recursive_step() -> None:
            """The same step with one Python call a node; the losses must agree."""
            indices = order[recursive.step * config.batch_size :][: config.batch_size]
            pairs = corpus.training
            numbers = np.concatenate((pairs.first[indices], pairs.second[indices])).tolist()
            encoder = recursive.encoder
            mask = dropout_mask(config.seed, recursive.step, (len(numbers), config.hidden_dim), 0.1)
            encoded = [
                reference.encode(encoder, trees[n], m) for n, m in zip(numbers, mask, strict=True)
            ]
            both = torch.stack(encoded).split(len(indices))
            loss = recursive.objective.loss(*both, recursive.objective.target(pairs, indices))
            recursive.optimizer.zero_grad()
            loss.mean().backward()
            recursive.optimizer.step()
            recursive.epoch_sums[0] += loss.detach().double().sum()
            recursive.step += 1

        our_steps()
        ratios, paces = [], []
        for _ in range(ROUNDS):
            slow = seconds(recursive_step)
            fast = seconds(our_steps) / OUR_STEPS
            ratios.append(slow / fast)
            paces.append(config.batch_size / fast)
        check_same_loss(config, corpus, order, ids, float(recursive.epoch_sums[0]))
        print(
            f"training, batch of {config.batch_size} pairs, {torch.get_num_threads()} threads: "
            f"{median(paces):,.0f} pairs/s, {median(ratios):.0f} times the recursive loop "
            f"(ratios {min(ratios):.0f} to {max(ratios):.0f})"
        )
        for size in (16, 256):
            batches(corpus, ids, order, size)
            outside(new_run(replace(config, batch_size=size), corpus), ids, order)
        encoding(ours.encoder, forest, [trees[number] for number in range(len(trees))])


def batches(corpus: Corpus, ids: np.ndarray, order: np.ndarray, size: int) -> None:
    """Milliseconds to build a batch, each of other pairs."""
    pairs, spent = corpus.training, []
    for start in range(0, len(pairs) - size, size):
        indices = order[start : start + size]
        trees = np.concatenate((pairs.first[indices], pairs.second[indices]))
        spent.append(seconds(partial(pairs.forest.batch, trees, ids)))
    print(f"building a batch of {size} pairs: {1e3 * median(spent):.2f} ms")


def outside(run: Run, ids: np.ndarray, order: np.ndarray) -> None:
    """The share of a step that is neither forward nor backward pass nor optimizer."""
    config = run.config
    count = 960 // config.batch_size
    prepared = [inputs_of(run, order, ids, step) for step in range(count)]
    core = partial(model_and_optimizer, run, prepared)

    def whole() -> None:
        run.step = 0
        for _ in range(count):
            train_step(run, order, ids)

    core(), whole()
    shares = [1 - seconds(core) / seconds(whole) for _ in range(2 * ROUNDS + 1)]
    print(
        f"outside forward, backward and optimizer, batch of {config.batch_size} pairs: "
        f"{median(shares):.1%} of a step"
    )


def model_and_optimizer(run: Run, prepared: list[Inputs]) -> None:
    """Nothing but forward, backward and optimizer of these steps."""
    for inputs in prepared:
        part = inputs.parts[0]
        both = run.encoder(part.batch, part.mask).split(inputs.pairs)
        run.optimizer.zero_grad()
        run.objective.loss(*both, part.target).mean().backward()
        run.optimizer.step()


def encoding(encoder: TreeEncoder, forest: Forest, trees: list[dict[str, Any]]) -> None:
    """All training trees, shared and not; the encodings must agree."""
    unshared = compile_forest(trees, encoder.settings.ignored_keys, share=False)
    everything = np.arange(len(trees))
    shared, alone = (encoder.encode_trees(f, everything) for f in (forest, unshared))
    assert float((shared - alone).abs().max()) < 1e-5
    pairs = [
        [seconds(partial(encoder.encode_trees, f, everything)) for f in (forest, unshared)]
        for _ in range(ROUNDS)
    ]
    ratio = median(slow / fast for fast, slow in pairs)
    spent = median(fast for fast, _ in pairs)
    print(f"encoding {len(trees):,} trees: {spent:.2f} s, {ratio:.1f} times as fast as without sharing")


def check_same_loss(config, corpus, order, ids, expected: float) -> None:
    """Both loops did the same work: the losses of the same steps agree."""
    run = new_run(config, corpus)
    for _ in range(ROUNDS):
        train_step(run, order, ids)
    found = float(run.epoch_sums[0])
    assert abs(found - expected) < 1e-3 * abs(expected), (found, expected)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
