"""How fast training is on all cores while other processes are busy, with OpenMP's waiting and ours.

    python benchmarks/neighbours.py

Each pace is that of a process of its own, since OpenMP reads once how its threads are to wait; the two
ways take turns. With no neighbour at all, ours costs a few percent: that is its price.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import treelstm
from corpus import directories, workplace

ROUNDS = 7
OPENMPS = {"GOMP_SPINCOUNT": "300000"}  # what it takes where nothing is said
BUSY = "while True: pass"
TRAIN = """
import json, sys, time, treelstm
from treelstm.randomness import epoch_order
from treelstm.run.state import new_run
from treelstm.run.step import train_step
config = treelstm.Config(**json.loads(sys.argv[1]))
corpus = treelstm.load_corpus(config)
run = new_run(config, corpus)
ids = corpus.vocabulary.ids(corpus.training.forest.symbols)
order = epoch_order(config.seed, 1, len(corpus.training))
train_step(run, order, ids)
began, steps = time.perf_counter(), 0
while time.perf_counter() - began < 3:
    run.step = steps % 20
    train_step(run, order, ids)
    steps += 1
print(steps * config.batch_size / (time.perf_counter() - began))
"""


def main() -> None:
    with workplace() as name:
        data, _ = directories(Path(name))
        settings = {"data_dir": str(data), "output_dir": f"{name}/run"}
        treelstm.load_corpus(treelstm.Config.from_parameters(settings))  # from now on there is a cache
        for neighbours in (0, (os.cpu_count() or 2) // 2, os.cpu_count() or 2):
            busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(neighbours)]
            try:
                paces = [(pace(settings), pace(settings, OPENMPS)) for _ in range(ROUNDS)]
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
            ours, theirs = zip(*paces, strict=True)
            ratios = [our / their for our, their in paces]
            print(
                f"beside {neighbours} busy processes: {median(ours):,.0f} pairs/s ({min(ours):,.0f} to "
                f"{max(ours):,.0f}), with OpenMP's own waiting {median(theirs):,.0f} "
                f"({min(theirs):,.0f} to {max(theirs):,.0f}); {median(ratios):.2f} times as fast",
                flush=True,
            )


def pace(settings: dict[str, str], environment: dict[str, str] | None = None) -> float:
    """Pairs a second."""
    words = [sys.executable, "-c", TRAIN, json.dumps(settings)]
    surroundings = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | (environment or {})
    done = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
