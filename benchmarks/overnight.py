"""What unattended runs cost: the time from a kernel's death to the first new step, and processor time.

    python benchmarks/overnight.py [REVISION]

With a revision, the throughput is also compared with that revision's: both train at the same time, each
on a core of its own, and change places from round to round.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import treelstm
from corpus import REPOSITORY, directories, workplace

import nbformat
from nbformat.v4 import new_code_cell

DEATHS, ROUNDS = 5, 6

# A listener for the training cell: notes each kernel's first step, and kills each kernel but the last,
# after 15 s, since the engine waits before it restarts one that died sooner.
MORTAL = """
import os, signal, time
class Mortal(treelstm.Listener):
    done, began = 0, time.time()
    def on_step(self, run):
        self.done += 1
        if self.done == 1:
            with open({path!r}, "a") as file:
                print("step", time.time(), file=file)
        kernels = open({path!r}).read().count("step")
        if time.time() - self.began > 15 and kernels <= {deaths}:
            with open({path!r}, "a") as file:
                print("death", time.time(), file=file)
            os.kill(os.getpid(), signal.SIGKILL)
"""

# Prints the processor time of epochs 2 to 4 on one core; runs on every revision.
TIMED = """
import json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[2])})
import treelstm
settings = json.loads(sys.argv[1])
treelstm.train(treelstm.Config(**settings, epochs=1))
began = time.process_time()
treelstm.train(treelstm.Config(**settings, epochs=4))
print("TIMED", time.process_time() - began)
"""

ONLY_FOR_NIGHTS = ("check_sound", "write_events", "note_timing", "prune")


def main(revision: str | None) -> None:
    with workplace() as name:
        work = Path(name)
        os.environ["JUPYTER_RUNTIME_DIR"] = f"{work}/jupyter"
        data, validation = directories(work)
        settings = {"data_dir": str(data), "validation_dir": str(validation), "num_threads": 1}
        deaths_to_steps(work, settings)
        print_share_of_nights(treelstm.Config(**settings, output_dir=f"{work}/profiled", keep=1))
        if revision is not None:
            against(work, settings, revision)


def deaths_to_steps(work: Path, settings: dict[str, object]) -> None:
    """The training page; each of its kernels is killed after 15 s."""
    events = work / "events.txt"
    nb = nbformat.read(REPOSITORY / "notebooks" / "02_train.ipynb", as_version=4)
    training = next(k for k, cell in enumerate(nb.cells) if "treelstm.train(" in cell.source)
    source = nb.cells[training].source
    nb.cells[training].source = source.replace("train(", "train(listeners=[Mortal()], config=")
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


def print_share_of_nights(config: treelstm.Config) -> None:
    """Profiles three epochs; the first one of a run also pays for imports."""
    treelstm.train(replace(config, epochs=1))
    profile = cProfile.Profile(time.process_time)
    profile.runcall(treelstm.train, replace(config, epochs=4))
    spent = dict.fromkeys(("train", *ONLY_FOR_NIGHTS), 0.0)
    for (_, _, name), (_, _, _, seconds, _) in pstats.Stats(profile).stats.items():
        if name in spent:
            spent[name] = max(spent[name], seconds)
    share = sum(spent[name] for name in ONLY_FOR_NIGHTS) / spent["train"]
    print(f"soundness, curves, timings, clearing: {share:.2%} of a run's processor time")


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
        shares.append(spent[REPOSITORY] / spent[base] - 1)
    print(
        f"processor time of three epochs against {revision}, {ROUNDS} rounds: median "
        f"{median(shares):+.2%} ({', '.join(f'{share:+.1%}' for share in sorted(shares))})"
    )


def timed(work: Path, settings: dict[str, object], *trees: Path, cores: list[int]) -> list[float]:
    """Processor seconds of three epochs by the package in each tree, all at once."""
    processes = []
    for tree, core in zip(trees, cores, strict=True):
        output_dir = work / f"on core {core}"
        shutil.rmtree(output_dir, ignore_errors=True)
        run = {**settings, "output_dir": str(output_dir), "keep": 1}
        words = [sys.executable, "-c", TIMED, json.dumps(run), str(core)]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        processes.append(
            subprocess.Popen(words, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[0] for process in processes]
    return [float(output.rpartition("TIMED ")[2]) for output in outputs]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
