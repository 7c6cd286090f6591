"""Kills training 200 times and more, breaks its disk at every call, and compares every end.

    python benchmarks/torture.py [KILLS]

1. SIGKILLs at random times, spread over all phases of a 6-epoch run of 40 steps; every 20th life is a
   whole `python -m treelstm train`, killed at any time from the interpreter's start.
2. With strace: SIGKILL, ENOSPC and EIO at every file-system call of a run, one by one.
3. Torn writes: every commit cut short at several sizes, by a kill and by an error.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from treelstm import Config, train, write_sample

from conftest import tiny_config
from kills import SYSCALLS
from runs import assert_same_run, through_kills


def main(kills: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_sample(work / "training", positives=40, negatives=600)
        write_sample(work / "validation", 40, 160, seed=1, unlike=work / "training")
        random_kills(work, kills)
        kills_from_the_interpreters_start(work, max(10, kills // 20))
        if shutil.which("strace"):
            every_call(work)
        else:
            print("strace is not installed: faults at every file-system call are NOT tested here")
        torn_writes(work)


def six_epochs(work: Path, run: str, **settings: Any) -> Config:
    often = {"epochs": 6, "checkpoint_every_seconds": 0.02, "num_threads": 1}
    return tiny_config(work, work / run, **(often | settings))


def random_kills(work: Path, kills: int) -> None:
    began = time.monotonic()
    train(six_epochs(work, "undisturbed"))
    report = through_kills(six_epochs(work, "killed"), work, random={"kills": kills, "seed": 7})
    assert not report["failures"], report["failures"]
    for run in report["runs"]:
        assert_same_run(work / "undisturbed", Path(run["directory"]))
    say(f"{kills} random SIGKILLs in {len(report['runs'])} runs {report['kills']}", began)


def kills_from_the_interpreters_start(work: Path, kills: int) -> None:
    """Lives that pay for their imports, killed at any time, restarted until each run finishes."""
    began, draw, killed, runs = time.monotonic(), random.Random(11), 0, 0
    while killed < kills:
        runs += 1
        run = f"commanded{runs}"
        words = [sys.executable, "-m", "treelstm", "train", *six_epochs(work, run).flags()]
        status = None
        while status is None:
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
            try:
                status = process.wait(draw.uniform(0.1, 6.0) if killed < kills else 120)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        assert status == 0
        assert_same_run(work / "undisturbed", work / run)
    say(f"{killed} SIGKILLs of whole processes in {runs} runs", began)


def every_call(work: Path) -> None:
    """A run that commits after every step, so that clearing of old commits occurs too."""
    began = time.monotonic()
    base = work / "calls"
    settings = {"epochs": 2, "checkpoint_every_seconds": 0, "batch_size": 320}
    train(six_epochs(work, "calls_undisturbed", **settings))
    config = six_epochs(work, "calls", **settings)
    record = work / "calls.txt"
    through_kills(config, work, lives=[{"inject": f"record:{record}", "run": "record"}])
    # Calls outside the output directory (the cache, libraries) are no part of a commit; keeping them
    # in the count keeps `when=N` simple.
    counts = Counter(re.findall(r"^\d+ +(\w+)\(", record.read_text(), re.MULTILINE))
    faults = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")
    plans = []
    for call in SYSCALLS:
        for nth in range(1, counts[call] + 1):
            for fault in faults:
                run = f"{call}-{nth}-{fault}"
                plans += [{"inject": f"{call}:{fault}:when={nth}", "run": run}, {"run": run}]
    report = through_kills(config, work, lives=plans)
    ends: Counter[str] = Counter()
    for hit, end in zip(report[::2], report[1::2], strict=True):
        assert hit["killed"] or hit["code"] in (0, 1), hit
        assert end["code"] == 0, (hit, end)
        assert_same_run(work / "calls_undisturbed", base / hit["plan"]["run"])
        leftovers = list((base / hit["plan"]["run"]).glob(".*.tmp"))
        assert not leftovers, leftovers
        fault = hit["plan"]["inject"].split(":")[1]
        ends[f"{fault}: {'killed' if hit['killed'] else ('went on', 'clear error')[hit['code']]}"] += 1
    say(f"{len(report) // 2} faults at every one of {dict(counts)}; {dict(ends)}", began)


def torn_writes(work: Path) -> None:
    began = time.monotonic()
    base = work / "torn"
    config = six_epochs(work, "torn", checkpoint_every_seconds=1e9)
    size = (work / "undisturbed" / "checkpoint_epoch_6.pt").stat().st_size
    plans: list[dict[str, Any]] = []
    for part in range(10):
        for fatal in (True, False):
            limit = {"file_limit": 4000 + part * (size - 5000) // 9, "fatal": fatal}
            lives = ({"die": ["step", 60]}, limit, {})
            plans += [life | {"run": f"{part}-{fatal}"} for life in lives]
    report = through_kills(config, work, lives=plans)
    for begun, torn, end in zip(report[::3], report[1::3], report[2::3], strict=True):
        assert begun["killed"] and (torn["killed"] or torn["code"] == 1) and end["code"] == 0
        assert_same_run(work / "undisturbed", base / end["plan"]["run"])
    say(f"{len(report) // 3} torn writes of a commit", began)


def say(what: str, began: float) -> None:
    print(f"{what}: all ended bit-identical ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
