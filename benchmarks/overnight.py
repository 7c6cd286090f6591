"""What a night costs: from a kernel's death to the first new step, and what training pays.

    python benchmarks/overnight.py [REVISION]

With a revision, the throughput is also compared with that revision's: both train at the same time, each
on a core of its own, and change places from round to round.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from corpus import REPOSITORY, directories, workplace

import nbformat
from nbformat.v4 import new_code_cell

DEATHS, ROUNDS = 5, 6

# Put before the training cell: notes each life's first step, and kills each life but the last, after
# more than the 15 s under which the engine would wait before it starts the next.
MORTAL = """
import os, signal, time
from treelstm import training
step, done, began = training.train_step, 0, time.time()
def mortal(*arguments):
    global done
    step(*arguments)
    done += 1
    if done == 1:
        with open({path!r}, "a") as file:
            print("step", time.time(), file=file)
    lives = open({path!r}).read().count("step")
    if time.time() - began > 15 and lives <= {deaths}:
        with open({path!r}, "a") as file:
            print("death", time.time(), file=file)
        os.kill(os.getpid(), signal.SIGKILL)
training.train_step = mortal
"""

# Prints the processor time of the whole loop, and of what only the nights need.
TIMED = """
import json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
from treelstm import checkpoint, training
from treelstm.config import Config
ends, spent = [], [0.0]
def count(owner, name):
    function = getattr(owner, name, None)
    def counted(*arguments):
        began = time.process_time()
        try:
            return function(*arguments)
        finally:
            spent[0] += time.process_time() - began
    if function is not None:
        setattr(owner, name, counted)
for name in ("_check_sound", "note_timing", "write_events"):
    count(training, name)
count(checkpoint, "prune")
say = training._say_epoch
def noted(*arguments, **named):
    say(*arguments, **named)
    ends.append(time.process_time())
training._say_epoch = noted
training.train(Config(**json.loads(sys.argv[1])))
print("TIMED", json.dumps([ends[-1] - ends[0], spent[0]]))
"""


def main(revision: str | None) -> None:
    with workplace() as name:
        work = Path(name)
        os.environ["XDG_CACHE_HOME"] = f"{work}/cache"
        os.environ["JUPYTER_RUNTIME_DIR"] = f"{work}/jupyter"
        data, validation = directories(work)
        settings = {"data_dir": str(data), "validation_dir": str(validation), "num_threads": 1}
        deaths_to_steps(work, settings)
        loop, nightly = timed(work, settings, REPOSITORY, cores=[0])[0]
        print(f"soundness, curves, timings, clearing: {nightly / loop:.2%} of a run's processor time")
        if revision is not None:
            against(work, settings, revision)


def deaths_to_steps(work: Path, settings: dict[str, object]) -> None:
    """The training page, each life of which is killed after 15 s."""
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
    shares = []
    for number in range(ROUNDS):
        trees = (base, REPOSITORY)[:: 1 if number % 2 else -1]
        spent = dict(zip(trees, timed(work, settings, *trees, cores=[0, 1]), strict=True))
        shares.append(spent[REPOSITORY][0] / spent[base][0] - 1)
    print(
        f"processor time of three epochs against {revision}, {ROUNDS} rounds: median "
        f"{median(shares):+.2%} ({', '.join(f'{share:+.1%}' for share in sorted(shares))})"
    )


def timed(
    work: Path, settings: dict[str, object], *trees: Path, cores: list[int]
) -> list[tuple[float, float]]:
    """Four epochs by the package in each tree, all at once: loop from the first epoch's end; nightly."""
    processes = []
    for tree, core in zip(trees, cores, strict=True):
        output_dir = work / f"on core {core}"
        shutil.rmtree(output_dir, ignore_errors=True)
        run = {**settings, "output_dir": str(output_dir), "epochs": 4, "keep": 1}
        words = [sys.executable, "-c", TIMED, json.dumps(run), str(core)]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        processes.append(
            subprocess.Popen(words, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[0] for process in processes]
    return [tuple(json.loads(output.rpartition("TIMED ")[2])) for output in outputs]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
