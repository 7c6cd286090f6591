"""What safety costs: commit, verify and load, and the time from a process's start to a new step.

python benchmarks/resume.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import treelstm
from corpus import directories, workplace
from treelstm import training
from treelstm.checkpoint import list_checkpoints, load_checkpoint

EPOCHS = 4

# Run in a process of its own; prints when it began its own work and when its first step was done.
FIRST_STEP = """
import json, os, sys, time
import treelstm
from treelstm import training
ready = time.time()
step = training.train_step
def first(*args):
    step(*args)
    print("FIRST STEP", json.dumps([ready, time.time()]), flush=True)
    os._exit(0)
training.train_step = first
treelstm.train(treelstm.Config(**json.loads(sys.argv[1])))
"""


def main() -> None:
    with workplace() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        data, validation = directories(Path(name))
        settings = {
            "data_dir": str(data),
            "validation_dir": str(validation),
            "output_dir": f"{name}/run",
            "epochs": EPOCHS,
        }
        treelstm.load_corpus(treelstm.Config(**settings))  # compiles, so that training does not
        spent = timed_commits()
        began = time.perf_counter()
        treelstm.train(treelstm.Config(**settings))
        wall = time.perf_counter() - began
        newest = list_checkpoints(f"{name}/run")[-1].path
        loads = []
        for _ in range(9):
            began = time.perf_counter()
            load_checkpoint(newest)
            loads.append(time.perf_counter() - began)
        size = newest.stat().st_size / 1e6
        print(
            f"commit of {size:.1f} MB, durable: median {1000 * median(spent):.0f} ms; "
            f"{len(spent)} commits in {wall:.1f} s of training: {sum(spent) / wall:.2%} of wall time"
        )
        print(f"verify and load: median {1000 * median(loads):.0f} ms")
        print_first_steps(settings | {"epochs": EPOCHS + 1})


def timed_commits() -> list[float]:
    """Seconds of each commit from now on."""
    spent: list[float] = []
    commit = training.commit

    def timed(*args):
        began = time.perf_counter()
        content = commit(*args)
        spent.append(time.perf_counter() - began)
        return content

    training.commit = timed
    return spent


def print_first_steps(settings: dict[str, object]) -> None:
    total, ours = [], []
    for _ in range(5):
        began = time.time()
        words = [sys.executable, "-c", FIRST_STEP, json.dumps(settings)]
        output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        ready, done = json.loads(output.rpartition("FIRST STEP ")[2])
        total.append(done - began)
        ours.append(done - ready)
    print(
        f"from process start to the first new step: median {median(total):.1f} s, of which "
        f"{median(ours):.2f} s after the imports"
    )


if __name__ == "__main__":
    main()
