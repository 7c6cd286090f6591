"""Two corpora of one's own, end to end: the tables of docs/bring-your-own.md.

    python benchmarks/own_trees.py functions [SEED ...]
    python benchmarks/own_trees.py treebank [SEED ...]
    python benchmarks/own_trees.py pace

`functions`: those of the packages that pip brings along in a version of its own, as in the page.
`treebank`: the one that tests/treebank.py writes. Default settings but EPOCHS; each run takes its own
best epoch. Brackets hold 95% intervals of the first seed, from a thousand resamples of the trees; then
the values of the other seeds. `pace` reads and writes 10,000 functions of the standard library.
"""

from __future__ import annotations

import sys
import sysconfig
import time
from itertools import islice
from pathlib import Path

from corpus import workplace
from treelstm import Config, Listener, load_encoder, load_pairs, make_pairs
from treelstm.comparison import compared
from treelstm.data.readers.formats import iterate_trees, write_trees
from treelstm.history import METRICS
from treelstm.rivals import with_rivals
from treelstm.run.directory import find_best_model
from treelstm.run.training import train_heard_by

from treebank import write_treebank

EPOCHS = 16
PACKAGES = "distlib idna packaging platformdirs pygments requests urllib3".split()
SHOWN = ("roc_auc", "average_precision")


def measure(name: str, trees: list[Path], work: Path, seeds: list[int]) -> None:
    made = make_pairs(trees, work / "pairs", by="label", neighbours=True, validation=0.3)
    training, validation = made
    for directory, about in made.items():
        print(directory.name, about, flush=True)
    rows: dict[str, list[list[str]]] = {}
    for seed in seeds:
        config = Config(
            data_dir=str(training), validation_dir=str(validation), output_dir=str(work / f"run{seed}"),
            epochs=EPOCHS, seed=seed,
        )  # fmt: skip
        began = time.monotonic()
        train_heard_by([Listener()], config)
        print(f"seed {seed}: trained in {time.monotonic() - began:.0f} s", flush=True)
        model = find_best_model(config.output_path)
        pairs, encoder = load_pairs(validation), load_encoder(model)
        scores, differences = compared(with_rivals(encoder, pairs, config), pairs)
        rows_of = {**scores, **{f"difference to {who}": each for who, each in differences.items()}}
        for who, found in rows_of.items():
            form = "{:.3f} [{:.3f}, {:.3f}]" if not rows.get(who) else "{:.3f}"
            rows.setdefault(who, []).append([form.format(*found[metric]) for metric in SHOWN])
    labels = {metric.name: metric.label for metric in METRICS}
    print(f"| {name} | {' | '.join(labels[metric] for metric in SHOWN)} |\n|---|{'---|' * len(SHOWN)}")
    for who, found in rows.items():
        print(f"| {who} | {' | '.join(', '.join(values) for values in zip(*found, strict=True))} |")


def pace(work: Path) -> None:
    began, spent = time.monotonic(), time.process_time()
    trees = islice(iterate_trees([Path(sysconfig.get_paths()["stdlib"])], "python"), 10_000)
    count = write_trees(work / "trees.jsonl.gz", trees)
    taken = f"{time.monotonic() - began:.1f} s, {time.process_time() - spent:.1f} s of them computing"
    print(f"{count:,} functions read and written in {taken}")


def main(what: str, *seeds: str) -> None:
    with workplace() as name:
        work, numbers = Path(name), [int(seed) for seed in seeds] or [0, 1, 2]
        if what == "pace":
            return pace(work)
        if what == "functions":
            site = Path(sysconfig.get_paths()["purelib"])
            trees = [home / each for home in (site, site / "pip" / "_vendor") for each in PACKAGES]
        else:
            write_treebank(trees := work / "treebank")
            trees = [trees]
        measure(what, trees, work, numbers)


if __name__ == "__main__":
    main(*sys.argv[1:])
