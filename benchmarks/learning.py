"""What each model and objective learns: the tables of docs/learning.md.

    python benchmarks/learning.py krestomatio [SEED ...]
    python benchmarks/learning.py sample [SEED ...]
    python benchmarks/learning.py ranking [SEED ...]
    python benchmarks/learning.py sick DIRECTORY [SEED ...] [VECTORS]
    python benchmarks/learning.py cost
    python benchmarks/learning.py result

Default settings, and the epoch that each run itself takes for its best; nothing else is chosen. Each row
is a model; numbers are those of each seed, then the median. DIRECTORY holds the SICK corpus in the text
format of the published Tree-LSTM code, {train,dev,test}/{a,b}.{toks,parents,rels} and sim.txt. VECTORS
is a file for the setting `vectors`. `cost` compares the processor time of steps with the bag and
without; `result` draws docs/result.png.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from corpus import REAL, REPOSITORY, workplace
from treelstm import Config, Listener, load_corpus, load_encoder, load_pairs, write_sample
from treelstm.data.pairs import Pairs
from treelstm.evaluation import encoder_scorer, graded_quality, retrieval, tfidf_scorer
from treelstm.figures import distance_figure, history_figure
from treelstm.history import best
from treelstm.process import set_for_training
from treelstm.randomness import epoch_order
from treelstm.run.directory import HISTORY, find_best_model
from treelstm.run.state import Run, new_run
from treelstm.run.step import train_step
from treelstm.run.training import train_heard_by

import numpy as np
from matplotlib.image import imread, imsave

EPOCHS = 16
SEEDS = [0, 1, 2]
NUMBERS = ["average precision", "ROC-AUC", "precision at 1", "AP by validation loss", "best epoch"]
ROUNDS, STEPS = 20, 60
MODELS: dict[str, dict[str, Any]] = {
    "tree and bag (default)": {},
    "bag alone": {"hidden_dim": 0},
    "tree alone": {"bag_of_symbols": False},
    "tree alone, positive_margin=0": {"bag_of_symbols": False, "positive_margin": 0.0},
}


def sick_tree(tokens: str, parents: str, relations: str) -> dict[str, Any]:
    """The AST of one sentence: a node for each token, under its head, by its relation.

    `parents` counts tokens from 1; 0 is the root's. Raises ValueError if they do not fit each other.
    """
    words, heads = tokens.split(), [int(head) for head in parents.split()]
    nodes: list[dict[str, Any]] = [{"word": word.lower()} for word in words]
    roots = []
    for node, head, relation in zip(nodes, heads, relations.split(), strict=True):
        if head:
            nodes[head - 1].setdefault(relation, []).append(node)
        else:
            roots.append(node)
    if len(roots) != 1 or len(nodes) != len(heads):
        raise ValueError(f"{len(roots)} roots in {tokens!r}, expected 1")
    return roots[0]


def sick_pairs(directory: Path) -> Iterator[dict[str, Any]]:
    """The pairs of one part of the corpus, as pairs.jsonl holds them."""
    sides = [
        zip(*((directory / f"{side}.{kind}").read_text().splitlines() for kind in KINDS), strict=True)
        for side in "ab"
    ]
    scores = (directory / "sim.txt").read_text().split()
    for score, *both in zip(scores, *sides, strict=True):
        asts = [{"sentence": parts[0], "ast": sick_tree(*parts)} for parts in both]
        yield {"ast1": asts[0], "ast2": asts[1], "similarity": float(score)}


KINDS = ("toks", "parents", "rels")


def best_run(work: Path, settings: dict[str, Any]) -> Path:
    """The best model of a new run with these settings, by its own choice."""
    output_dir = work / f"run{len(list(work.glob('run*')))}"
    train_heard_by([Listener()], Config(output_dir=str(output_dir), epochs=EPOCHS, **settings))
    return find_best_model(output_dir)


def quality(model: Path, pairs: Pairs) -> list[float]:
    scorer = encoder_scorer(load_encoder(model), pairs)
    metrics = scorer.metrics(pairs.label)
    history = json.loads((model.parent / HISTORY).read_text())
    by_loss = min(history, key=lambda record: record["validation_loss"])
    first = retrieval(scorer, pairs, at=(1,)).precision[1]
    return [
        metrics.average_precision,
        metrics.roc_auc,
        first,
        by_loss["validation_average_precision"],
        best(history)["epoch"],
    ]


def table(names: list[str], rows: dict[str, list[list[float]]]) -> None:
    """A row a model, a column a number: the values of all seeds, then their median."""
    print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for name, runs in rows.items():
        cells = [
            f"{', '.join(f'{value:.3f}' for value in values)} (**{median(values):.3f}**)"
            for values in zip(*runs, strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def classified(work: Path, corpora: dict[int, tuple[Path, Path]]) -> None:
    """The models on corpora [seed -> training and validation directory] of labelled pairs."""
    rows: dict[str, list[list[float]]] = {name: [] for name in (*MODELS, "TF-IDF, not trained")}
    for seed, (training, validation) in corpora.items():
        pairs = load_pairs(validation)
        scorer = tfidf_scorer(pairs)
        metrics, first = scorer.metrics(pairs.label), retrieval(scorer, pairs, at=(1,)).precision[1]
        found = [metrics.average_precision, metrics.roc_auc, first, math.nan, math.nan]
        rows["TF-IDF, not trained"].append(found)
        data = {"data_dir": str(training), "validation_dir": str(validation), "seed": seed}
        for name, settings in MODELS.items():
            rows[name].append(quality(best_run(work, {**data, **settings}), pairs))
    table(NUMBERS, rows)


def sick(work: Path, directory: Path, seeds: list[int], vectors: str | None) -> None:
    for part in ("train", "dev", "test"):
        (work / part).mkdir()
        lines = map(json.dumps, sick_pairs(directory / part))
        (work / part / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    test = load_pairs(work / "test", objective="graded")
    scale = {"objective": "graded", "similarity_low": 1.0, "similarity_high": 5.0}
    data = {"data_dir": str(work / "train"), "validation_dir": str(work / "dev"), **scale}
    rows: dict[str, list[list[float]]] = {}
    models = {name: MODELS[name] for name in ("tree and bag (default)", "bag alone", "tree alone")}
    if vectors:
        models = {"tree and bag, with vectors": {"vectors": vectors, "vectors_keys": "word"}}
    for name, settings in models.items():
        for seed in seeds:
            model = best_run(work, {**data, **settings, "seed": seed})
            distance = encoder_scorer(load_encoder(model), test).distance
            found = graded_quality(distance, distance, test.similarity)
            rows.setdefault(name, []).append(
                [found[f"validation_{of}"] for of in ("pearson", "spearman")]
            )
    table(["test Pearson", "test Spearman"], rows)


def step_ratios(runs: list[Run], rounds: int, steps: int) -> list[float]:
    """Processor time of the same steps of the first run, divided by that of the second: 5%, median, 95%
    of rounds in turns on one thread.
    """
    order = epoch_order(0, 1, len(runs[0].corpus.training))
    ids = [run.corpus.vocabulary.ids(run.corpus.training.forest.symbols) for run in runs]
    ratios = []
    with set_for_training(1):
        for _ in range(rounds + 1):
            spent = []
            for run, mine in zip(runs, ids, strict=True):
                began, run.step = time.process_time(), 0
                for _ in range(steps):
                    train_step(run, order, mine)
                spent.append(time.process_time() - began)
            ratios.append(spent[0] / spent[1])
    return [float(each) for each in np.percentile(ratios[1:], (5, 50, 95))]


def cost() -> None:
    """Processor time of the same steps with the bag and without, in turns on one thread."""
    settings = {"data_dir": str(REAL / "training"), "validation_dir": str(REAL / "validation")}
    configs = [Config(**settings, bag_of_symbols=bag, output_dir="none") for bag in (True, False)]
    corpus = load_corpus(configs[0])
    runs = [new_run(config, corpus) for config in configs]
    low, middle, high = step_ratios(runs, ROUNDS, STEPS)
    print(f"a step with the bag takes {middle:.3f} times that without ({low:.3f} to {high:.3f})")


def result(work: Path) -> None:
    write_sample(work / "training")
    write_sample(work / "validation", seed=1, unlike=work / "training")
    data = {"data_dir": str(work / "training"), "validation_dir": str(work / "validation")}
    model = best_run(work, data)
    pairs, history = load_pairs(work / "validation"), json.loads((model.parent / HISTORY).read_text())
    scorer = encoder_scorer(load_encoder(model), pairs)
    parts = (history_figure(history), distance_figure(scorer.distance, pairs, scorer.threshold))
    images = []
    for number, part in enumerate(parts):
        part.savefig(work / f"{number}.png", dpi=110)
        images.append(imread(work / f"{number}.png"))
    width = max(image.shape[1] for image in images)
    wide = [np.pad(i, ((0, 0), (0, width - i.shape[1]), (0, 0)), constant_values=1.0) for i in images]
    imsave(REPOSITORY / "docs" / "result.png", np.concatenate(wide))


def main(corpus: str, *rest: str) -> None:
    with workplace() as name:
        work = Path(name)
        seeds = [int(word) for word in rest if word.isdecimal()] or SEEDS
        if corpus == "result":
            return result(work)
        if corpus == "sick":
            vectors = rest[-1] if len(rest) > 1 and not rest[-1].isdecimal() else None
            return sick(work, Path(rest[0]), seeds, vectors)
        if corpus == "sample":
            for seed in seeds:
                write_sample(work / f"training{seed}", seed=seed)
                other = work / f"validation{seed}"
                write_sample(other, seed=1000 + seed, unlike=work / f"training{seed}")
            parts = {s: (work / f"training{s}", work / f"validation{s}") for s in seeds}
            return classified(work, parts)
        if not REAL.is_dir():
            sys.exit("the real corpus is not beside this clone")
        if corpus == "cost":
            return cost()
        if corpus == "krestomatio":
            return classified(work, {seed: (REAL / "training", REAL / "validation") for seed in seeds})
        (work / "positive").mkdir()
        for path in (REAL / "training").glob("positive_pairs*"):
            (work / "positive" / path.name).write_bytes(path.read_bytes())
        pairs = load_pairs(REAL / "validation")
        data = {"data_dir": str(work / "positive"), "validation_dir": str(REAL / "validation")}
        rows = {
            "ranking, similar pairs alone": [
                quality(best_run(work, {**data, "objective": "ranking", "seed": seed}), pairs)
                for seed in seeds
            ]
        }
        table(NUMBERS, rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
