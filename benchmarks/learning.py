"""What each model and objective learns: the tables of docs/learning.md.

    python benchmarks/learning.py krestomatio [SEED ...]
    python benchmarks/learning.py sample [SEED ...]
    python benchmarks/learning.py ranking [SEED ...]
    python benchmarks/learning.py sick DIRECTORY [SEED ...]

Default settings, and the epoch that each run itself takes for its best; nothing else is chosen. Each row
is a model; numbers are those of each seed, then the median. DIRECTORY holds the SICK corpus in the text
format of the published Tree-LSTM code: {train,dev,test}/{a,b}.{toks,parents,rels} and sim.txt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from corpus import REAL, workplace
from treelstm import Config, Listener, load_encoder, load_pairs, write_sample
from treelstm.data.pairs import Pairs
from treelstm.evaluation import encoder_scorer, graded_correlation, retrieval, tfidf_scorer
from treelstm.run.directory import find_best_model
from treelstm.run.training import train_heard_by

EPOCHS = 16
SEEDS = [0, 1, 2]
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
    return [metrics.average_precision, metrics.roc_auc, retrieval(scorer, pairs, at=(1,)).precision[1]]


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
        rows["TF-IDF, not trained"].append([metrics.average_precision, metrics.roc_auc, first])
        data = {"data_dir": str(training), "validation_dir": str(validation), "seed": seed}
        for name, settings in MODELS.items():
            rows[name].append(quality(best_run(work, {**data, **settings}), pairs))
    table(["average precision", "ROC-AUC", "precision at 1"], rows)


def sick(work: Path, directory: Path, seeds: list[int]) -> None:
    for part in ("train", "dev", "test"):
        (work / part).mkdir()
        lines = map(json.dumps, sick_pairs(directory / part))
        (work / part / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    test = load_pairs(work / "test", objective="graded")
    scale = {"objective": "graded", "similarity_low": 1.0, "similarity_high": 5.0}
    data = {"data_dir": str(work / "train"), "validation_dir": str(work / "dev"), **scale}
    rows: dict[str, list[list[float]]] = {}
    for name in ("tree and bag (default)", "bag alone", "tree alone"):
        for seed in seeds:
            model = best_run(work, {**data, **MODELS[name], "seed": seed})
            found = graded_correlation(
                encoder_scorer(load_encoder(model), test).distance, test.similarity
            )
            assert found is not None
            rows.setdefault(name, []).append([-found["pearson"], -found["spearman"]])
    table(["test Pearson", "test Spearman"], rows)


def main(corpus: str, *rest: str) -> None:
    with workplace() as name:
        work = Path(name)
        if corpus == "sick":
            return sick(work, Path(rest[0]), [*map(int, rest[1:])] or SEEDS)
        seeds = [*map(int, rest)] or SEEDS
        if corpus == "sample":
            for seed in seeds:
                write_sample(work / f"training{seed}", seed=seed)
                other = work / f"validation{seed}"
                write_sample(other, seed=1000 + seed, unlike=work / f"training{seed}")
            parts = {s: (work / f"training{s}", work / f"validation{s}") for s in seeds}
            return classified(work, parts)
        if not REAL.is_dir():
            sys.exit("the real corpus is not beside this clone")
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
        table(["average precision", "ROC-AUC", "precision at 1"], rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
