"""What safety costs: commit, verify and load, and the time from a process's start to a new step.

python benchmarks/resume.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import treelstm
from corpus import directories, workplace
from speed import seconds
from treelstm.run.directory import write_commit

EPOCHS, ROUNDS = 4, 9

# Run in a process of its own; prints when its imports were done and when its first step was.
FIRST_STEP = """
import json, os, sys, time
from treelstm import Config, Listener, train
ready = time.time()
class First(Listener):
    def on_step(self, run):
        print("FIRST STEP", json.dumps([ready, time.time()]), flush=True)
        os._exit(0)
train(Config(**json.loads(sys.argv[1])), listeners=[First()])
"""


class Commits(treelstm.Listener):
    """Counts the commits of a run."""

    count = 0

    def on_commit(self, commit) -> None:
        self.count += 1


def main() -> None:
    with workplace() as name:
        data, validation = directories(Path(name))
        settings = {
            "data_dir": str(data),
            "validation_dir": str(validation),
            "output_dir": f"{name}/run",
            "epochs": EPOCHS,
        }
        config, commits = treelstm.Config(**settings), Commits()
        treelstm.load_corpus(config)  # compiles, so that everything below reads the cache
        wall = seconds(lambda: treelstm.train(config, listeners=[commits]))
        newest = treelstm.list_checkpoints(config.output_path)[-1].path
        content = treelstm.load_checkpoint(newest)
        loading = median(seconds(lambda: treelstm.load_checkpoint(newest)) for _ in range(ROUNDS))
        writing = median(
            seconds(lambda: write_commit(Path(name), content, "all")) for _ in range(ROUNDS)
        )
        print(
            f"commit of {newest.stat().st_size / 1e6:.1f} MB, durable: median {1000 * writing:.0f} ms; "
            f"{commits.count} commits in {wall:.1f} s of training: "
            f"{commits.count * writing / wall:.2%} of wall time"
        )
        print(f"verify and load: median {1000 * loading:.0f} ms")
        print_first_steps(settings | {"epochs": EPOCHS + 1})


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
        f"from process start to the first new step, cached corpus: median {median(total):.1f} s, "
        f"of which {median(ours):.2f} s after the imports"
    )


if __name__ == "__main__":
    main()
