"""What a night costs: from a kernel's death to the first new step; throughput against another revision.

    python benchmarks/overnight.py [REVISION]

Without a revision only the first. The comparison trains both in turn, each in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import nbformat
from corpus import REPOSITORY, directories, workplace
from nbformat.v4 import new_code_cell

DEATHS, ROUNDS = 5, 6

# Put before the training cell: notes each life's first step, and kills each life but the last.
MORTAL = """
import os, signal, time
from treelstm import training
step, done = training.train_step, 0
def mortal(*arguments):
    global done
    step(*arguments)
    done += 1
    if done == 1:
        with open({path!r}, "a") as file:
            print("step", time.time(), file=file)
    lives = open({path!r}).read().count("step")
    if done == 60 and lives <= {deaths}:
        with open({path!r}, "a") as file:
            print("death", time.time(), file=file)
        os.kill(os.getpid(), signal.SIGKILL)
training.train_step = mortal
"""

# Seconds of wall and of CPU from the end of the first epoch to the end of the last.
TIMED = """
import json, resource, sys, time
from treelstm import training
from treelstm.config import Config
ends, finish = [], training._say_epoch
def noted(*arguments):
    finish(*arguments)
    ends.append((time.perf_counter(), time.process_time()))
training._say_epoch = noted
training.train(Config(**json.loads(sys.argv[1])))
print("TIMED", json.dumps([last - first for first, last in zip(ends[0], ends[-1])]))
"""


def main(revision: str | None) -> None:
    with workplace() as name:
        work = Path(name)
        os.environ["XDG_CACHE_HOME"] = f"{work}/cache"
        os.environ["JUPYTER_RUNTIME_DIR"] = f"{work}/jupyter"
        data, validation = directories(work)
        settings = {"data_dir": str(data), "validation_dir": str(validation), "num_threads": 1}
        deaths_to_steps(work, settings)
        if revision is not None:
            against(work, settings, revision)


def deaths_to_steps(work: Path, settings: dict[str, object]) -> None:
    """The training page, each life of which is killed after 60 steps."""
    events = work / "events.txt"
    nb = nbformat.read(REPOSITORY / "notebooks" / "02_train.ipynb", as_version=4)
    training = next(k for k, cell in enumerate(nb.cells) if "treelstm.train(" in cell.source)
    nb.cells.insert(training, new_code_cell(MORTAL.format(path=str(events), deaths=DEATHS)))
    page = work / "page.ipynb"
    nbformat.write(nb, page)
    words = [sys.executable, "-m", "papermill", "--engine", "treelstm", "--no-progress-bar"]
    words += [str(page), str(work / "out.ipynb")]
    run = {**settings, "output_dir": f"{work}/mortal", "checkpoint_every_seconds": 0.5}
    for setting, value in run.items():
        words += ["-p", setting, str(value)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not events.exists() or events.read_text().count("step") <= DEATHS:
        assert process.poll() is None, "the page ended"
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    lines = [line.split() for line in events.read_text().splitlines()]
    times = [
        float(after[1]) - float(before[1]) for before, after in pairwise(lines) if before[0] == "death"
    ]
    print(
        f"from a kernel's death to the first new step, {len(times)} deaths: median "
        f"{median(times):.1f} s, longest {max(times):.1f} s"
    )


def against(work: Path, settings: dict[str, object], revision: str) -> None:
    base = work / "base"
    base.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(REPOSITORY), "archive", revision], capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(base)], input=archive, check=True)
    walls, processors = [], []
    for number in range(ROUNDS):
        spent = {}
        for tree in (base, REPOSITORY)[:: 1 if number % 2 else -1]:
            run = {**settings, "output_dir": f"{work}/{tree.name}{number}", "epochs": 4, "keep": 1}
            words = [sys.executable, "-c", TIMED, json.dumps(run)]
            environment = os.environ | {"PYTHONPATH": str(tree)}
            done = subprocess.run(
                words, cwd=tree, env=environment, capture_output=True, text=True, check=True
            )
            spent[tree] = json.loads(done.stdout.rpartition("TIMED ")[2])
        walls.append(spent[REPOSITORY][0] / spent[base][0] - 1)
        processors.append(spent[REPOSITORY][1] / spent[base][1] - 1)
    print(f"three epochs against {revision}, {ROUNDS} rounds in turn:")
    for what, shares in (("wall", walls), ("processor", processors)):
        print(f"  {what} time {median(shares):+.2%} ({min(shares):+.1%} to {max(shares):+.1%})")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
