"""Which row of the embedding serves symbols that training did not know: the table "Symbols unseen in
training" of docs/learning.md.

    python benchmarks/unseen.py krestomatio|sample|code [SEED ...]
    python benchmarks/unseen.py large

1,500 training pairs, 800 unseen ones and 3 epochs, all else as by default. Four rows
are compared: that of `key=?` as drawn; zero; random signs made from the text, so that each symbol has
its own; that of `key=?`, trained, because each step replaces a share 1 / (1 + 4 n) of the symbols that
occur in n trees. `code` pairs functions of the installed packages: similar ones have one name.

`large` shows how long runs on such pairs of 220 to 400 nodes stay at the loss of one distance for all:
after each epoch, the training loss divided by that, and the average precision.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import random
import sys
import sysconfig
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from corpus import REAL, workplace
from treelstm import Config, load_corpus, write_sample
from treelstm.data.pairs import Corpus, Pairs
from treelstm.evaluation import encoder_scorer, retrieval
from treelstm.process import set_for_training
from treelstm.randomness import epoch_order, generator
from treelstm.run.state import Run, new_run
from treelstm.run.step import finish_epoch, train_step
from treelstm.trees.arrays import entries
from treelstm.trees.vocabulary import Vocabulary

import numpy as np
import torch

EPOCHS = 3
LARGE: dict[str, dict[str, Any]] = {
    "tree and bag (default)": {},
    "tree alone": {"bag_of_symbols": False},
    "tree alone, warmup_steps=100": {"bag_of_symbols": False, "warmup_steps": 100},
}
REPLACED = 4  # a stream of random numbers of its own


def tree(node: object) -> Any:
    """The JSON AST of a Python node, without positions and contexts."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "name"))
        kept = {name: tree(value) for name, value in fields if value not in (None, [])}
        return {"node": type(node).__name__, **kept}
    if isinstance(node, list):
        return [tree(each) for each in node]
    return ascii(node)[:80]


def functions(low: int, high: int, most: int = 8_000) -> dict[str, list[dict[str, Any]]]:
    """Functions of installed packages with so many nodes: name -> records of trees."""
    found, count = defaultdict(list), 0
    files = sorted(Path(sysconfig.get_path("purelib")).rglob("*.py"))
    random.Random(0).shuffle(files)
    for path in files:
        try:
            module = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef) and low <= sum(1 for _ in ast.walk(node)) <= high:
                found[node.name].append({"sentence": f"{path.name} {node.name}", "ast": tree(node)})
                count += 1
        if count >= most:
            break
    return found


def write_code(work: Path, low: int = 20, high: int = 90) -> None:
    """Pairs of functions; no name is in both parts."""
    found = {name: some for name, some in functions(low, high).items() if len(some) > 1}
    for part, share in (("training", 0), ("validation", 1)):
        names = sorted(name for name in found if (zlib.crc32(name.encode()) % 3 == 0) == share)
        rng, lines = random.Random(part), {"positive": list[str](), "negative": list[str]()}
        for number in range(3_200):
            label = int(number % 4 == 0)
            first = rng.choice(names)
            second = first if label else rng.choice(names)
            a, b = rng.sample(found[first], 2)
            b = b if label else rng.choice(found[second])
            if a["ast"] != b["ast"] and (label or first != second):
                kind = "positive" if label else "negative"
                lines[kind].append(json.dumps({"ast1": a, "ast2": b, "label": label}))
        (work / part).mkdir()
        for kind, some in lines.items():
            (work / part / f"{kind}_pairs.jsonl").write_text("\n".join(some))


def some(pairs: Pairs, count: int, seed: int) -> Pairs:
    return pairs[np.sort(np.random.default_rng(seed).permutation(len(pairs))[:count])]


def replaced_ids(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each symbol of the training trees: its id, its key's unknown symbol, the share to replace."""
    pairs, vocabulary = run.corpus.training, run.corpus.vocabulary
    forest = pairs.forest
    trees = np.unique(pairs.trees)
    bags = forest.bag[entries(forest.bag_ptr, trees)[0]]
    frequency = np.bincount(bags, minlength=len(forest.symbols))
    unknown = Vocabulary(vocabulary.symbols).ids([f"{s.partition('=')[0]}=\0" for s in forest.symbols])
    return vocabulary.ids(forest.symbols), unknown, 1 / (1 + 4 * np.maximum(frequency, 1))


def trained(config: Config, corpus: Corpus, replace: bool) -> Run:
    run = new_run(config, corpus)
    ids, unknown, share = replaced_ids(run)
    for epoch in range(EPOCHS):
        order = epoch_order(config.seed, epoch + 1, len(corpus.training))
        while run.step < run.steps_per_epoch:
            draw = torch.rand(
                len(ids), generator=generator(config.seed, REPLACED, run.steps_done)
            ).numpy()
            train_step(run, order, np.where(draw < share, unknown, ids) if replace else ids)
        run.step, run.epochs_done = 0, epoch + 1
    return run


def scored(run: Run, rows: str) -> list[float]:
    """Average precision and precision at 1 with these rows for unknown symbols."""
    encoder, pairs = run.encoder, run.corpus.validation
    symbols, known = pairs.forest.symbols, run.corpus.vocabulary.ids(pairs.forest.symbols)
    unknown = np.flatnonzero(run.corpus.vocabulary.is_unknown(known))
    signs = [
        np.random.default_rng(zlib.crc32(symbols[u].encode())).choice([-1, 1], 128) for u in unknown
    ]
    embedding = encoder.embedding.detach()
    own = embedding[torch.from_numpy(known[unknown])]
    if rows != "key=?":
        own = torch.from_numpy(0.15 * np.array(signs)).float() * (rows == "signs")
    ids = known.copy()
    ids[unknown] = len(embedding) + np.arange(len(unknown))
    encoder.reading = lambda forest: (ids, torch.cat((embedding, own)))  # type: ignore[method-assign]
    scorer = encoder_scorer(encoder, pairs, calibrate=True)
    first = retrieval(scorer, pairs, at=(1,)).precision[1]
    return [scorer.metrics(pairs.label).average_precision, first]


def large(work: Path) -> None:
    """What runs on large trees make of the loss of one distance for all."""
    write_code(work, 220, 400)
    rows = defaultdict[str, list[list[float]]](list)
    for name, settings in LARGE.items():
        data = {"data_dir": work / "training", "validation_dir": work / "validation"}
        config = Config(**data, output_dir="none", seed=0, **settings)
        corpus = load_corpus(config)
        training, validation = some(corpus.training, 800, 0), some(corpus.validation, 200, 0)
        run = new_run(config, dataclasses.replace(corpus, training=training, validation=validation))
        bound, ids = run.objective.constant_loss(training, 16), replaced_ids(run)[0]
        for epoch in range(4):
            order = epoch_order(0, epoch + 1, len(training))
            while run.step < run.steps_per_epoch:
                train_step(run, order, ids)
            record = finish_epoch(run)
            found = [record["train_loss"] / bound, record["validation_average_precision"]]
            rows[name].append(found)
            print(name, epoch + 1, found, file=sys.stderr, flush=True)
    from learning import table  # not above: treelstm comes before what loads torch

    table(["training loss / that of one distance", "average precision"], rows)


def main(name: str, *rest: str) -> None:
    rows = defaultdict[str, list[list[float]]](list)
    with workplace() as place, set_for_training(1):
        work = REAL if name == "krestomatio" else Path(place)
        if name == "large":
            return large(work)
        if name == "code":
            write_code(work)
        for seed in map(int, rest or (0, 1, 2)):
            if name == "sample":
                work = Path(place) / str(seed)
                write_sample(work / "training", seed=seed)
                write_sample(work / "validation", seed=1000 + seed, unlike=work / "training")
            for bag in (False, True):
                data = {"data_dir": work / "training", "validation_dir": work / "validation"}
                config = Config(**data, output_dir="none", seed=seed, bag_of_symbols=bag)
                corpus = load_corpus(config)
                training = some(corpus.training, 1_500, seed)
                corpus = dataclasses.replace(
                    corpus,
                    training=training,
                    validation=some(corpus.validation, 800, seed),
                    vocabulary=Vocabulary.of(training.forest, training.trees),
                )
                model = "tree and bag" if bag else "tree alone"
                for replace in (False, True):
                    run = trained(config, corpus, replace)
                    for which in ["key=?"] if replace else ["key=?", "zero", "signs"]:
                        label = f"{model}, {which}{' trained' * replace}"
                        rows[label].append(scored(run, which))
                        print(label, seed, rows[label][-1], file=sys.stderr, flush=True)
    from learning import table  # not above: treelstm comes before what loads torch

    table(["average precision", "precision at 1"], rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
