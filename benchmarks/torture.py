"""Kills training 200 times and more, breaks its disk at every call, and compares every end.

    python benchmarks/torture.py [KILLS] [--processes N]

With --processes, only kills of workers, launchers and whole groups, in attempts of 1 to N processes;
every run ends like one of one process.

1. SIGKILLs at random times, spread over all phases of runs with the settings of `VARIANTS`, and SIGKILLs
   of a whole `python -m treelstm train` at any time from the interpreter's start.
2. Nights through the engine: 8 at once; engine and kernel killed while they start.
3. With strace: SIGKILL, ENOSPC and EIO at every file-system call of a run, one by one.
4. With strace: a resumed run meets an error or a short read at calls that list, look at or read
   files. It must resume the newest commit or end with an error that moved nothing.
5. With strace: a disk that has no locks.
6. Torn writes: every commit cut short at several sizes, by a kill and by an error.
"""

from __future__ import annotations

import argparse
import random
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
from treelstm.data.sample import LEXICON

from conftest import tiny_config
from groups import killed_groups
from kills import SYSCALLS
from runs import assert_same_run, recorded_calls, through_kills
from together import killed_while_it_starts, nights_at_once


def main(kills: int, processes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_sample(work / "training", positives=40, negatives=600)
        random_vectors(work / "vectors.txt")
        write_sample(work / "validation", 40, 160, seed=1, unlike=work / "training")
        if processes > 1:
            return groups(work, kills, processes)
        random_kills(work, kills)
        kills_from_the_interpreters_start(work, max(10, kills // 20))
        nights(work, max(5, kills // 20))
        if shutil.which("strace"):
            every_call(work)
            every_look(work)
            no_locks(work)
        else:
            print("strace is not installed: faults at every file-system call are NOT tested here")
        torn_writes(work)


def six_epochs(work: Path, run: str, **settings: Any) -> Config:
    often = {"epochs": 6, "checkpoint_every_seconds": 0.02, "num_threads": 1}
    return tiny_config(work, work / run, **(often | settings))


VARIANTS: dict[str, dict[str, Any]] = {
    "undisturbed": {},
    "bfloat16": {"precision": "bfloat16", "dropout": 0.3},
    "cosine": {"lr_schedule": "cosine", "warmup_steps": 50, "keep": 1},
    "plateau": {"lr_schedule": "plateau", "learning_rate": 0.02, "batch_size": 40, "keep": 2},
    "patience": {"patience": 1, "learning_rate": 0.03, "margin": 2.0, "keep": 3},
    "start_from": {"start_from": "undisturbed", "batch_size": 9, "dropout": 0.0},
    "graded": {"objective": "graded", "dropout": 0.3},
    "ranking": {"objective": "ranking", "best_by": "validation_roc_auc", "patience": 3},
    "order of children": {"child_order": True, "dropout": 0.3, "precision": "bfloat16"},
    "bag alone": {"hidden_dim": 0, "best_by": "validation_loss"},
    "no bag": {"bag_of_symbols": False, "positive_margin": 0.0, "patience": 2},
    "bag added": {"start_from": "no bag", "learning_rate": 0.01},
    "vectors": {"vectors": "vectors.txt", "vectors_keys": "radiko", "precision": "bfloat16"},
    "split": {"validation_dir": None, "validation_fraction": 0.3, "seed": 5, "batch_size": 64},
}


def random_vectors(path: Path) -> None:
    """Vectors of 5 numbers for half of the sample's roots."""
    draw, roots = (
        random.Random(0),
        [entry for kind in LEXICON.values() for word in kind for entry in word],
    )
    lines = [f"{root} {' '.join(f'{draw.gauss(0, 1):.4f}' for _ in range(5))}" for root in roots[::2]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def random_kills(work: Path, kills: int) -> None:
    """As many kills in each variant; every run ends like its undisturbed twin."""
    for number, (name, settings) in enumerate(VARIANTS.items()):
        began = time.monotonic()
        if "start_from" in settings:
            source = str(work / settings["start_from"] / "best_model.pt")
            settings = settings | {"start_from": source}
        if "vectors" in settings:
            settings = settings | {"vectors": str(work / settings["vectors"])}
        train(six_epochs(work, name, **settings))
        plan = {"kills": -(-kills // len(VARIANTS)), "seed": 7 + number}
        report = through_kills(six_epochs(work, f"{name}_killed", **settings), work, random=plan)
        assert not report["failures"], report["failures"]
        for run in report["runs"]:
            assert_same_run(work / name, Path(run["directory"]))
        landed = f"{sum(report['kills'].values())} random SIGKILLs in {len(report['runs'])} runs"
        say(f"{name}: {landed} {report['kills']}", began)


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


def groups(work: Path, kills: int, processes: int) -> None:
    began, settings = time.monotonic(), {"epochs": 30, "shards": max(4, processes), "dropout": 0.3}
    train(six_epochs(work, "alone", **settings))
    numbers = (processes, processes, *range(1, processes))  # by turns
    report = killed_groups(six_epochs(work, "groups", **settings), numbers, kills)
    for run in report.runs:
        assert_same_run(work / "alone", run)
    say(str(report), began)


def nights(work: Path, kills: int) -> None:
    began = time.monotonic()
    (work / "nights").mkdir()
    nights_at_once(work, work / "nights", 8)
    say("8 nights at once, each kernel killed once", began)
    began = time.monotonic()
    killed_while_it_starts(six_epochs(work, "night"), work, kills)
    assert_same_run(work / "undisturbed", work / "night")
    say(f"{kills} engines or kernels killed while they start", began)


def every_call(work: Path) -> None:
    """A run that commits after every step, so that clearing of old commits occurs too."""
    began = time.monotonic()
    base = work / "calls"
    settings = {"epochs": 2, "checkpoint_every_seconds": 0, "batch_size": 320}
    train(six_epochs(work, "calls_undisturbed", **settings))
    config = six_epochs(work, "calls", **settings)
    # Calls outside the output directory (the cache, libraries) are no part of a commit; keeping them
    # in the count keeps `when=N` simple.
    counts = recorded_calls(config, work, run="record")
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


def every_look(work: Path) -> None:
    """Errors and short reads at each look at a killed run's files while it starts again."""
    began = time.monotonic()
    base = work / "looks"
    settings = {"epochs": 3, "checkpoint_every_seconds": 0, "batch_size": 160}
    train(six_epochs(work, "looks_undisturbed", **settings))
    config = six_epochs(work, "looks", **settings)
    through_kills(config, work, lives=[{"die": ["step", 6], "run": "killed"}])

    def again(run: str) -> list[str]:
        """A copy of the killed run; what to watch in it."""
        shutil.copytree(base / "killed", base / run)
        return [str(base / run), *map(str, (base / run).iterdir())]

    counts = recorded_calls(config, work, run="record", paths=again("record"))
    plans: list[dict[str, Any]] = []
    for call, count in counts.items():
        faults = ["error=EIO", "error=EMFILE", "error=ESTALE"] + ["retval=1"] * (call == "read")
        for nth in range(1, count + 1):
            for fault in faults:
                run = f"{call}-{nth}-{fault}"
                inject = f"{call}:{fault}:when={nth}"
                plans += [{"inject": inject, "run": run, "paths": again(run)}, {"run": run}]
    report = through_kills(config, work, lives=plans)
    ends: Counter[str] = Counter()
    for hit, end in zip(report[::2], report[1::2], strict=True):
        run = base / hit["plan"]["run"]
        assert hit["code"] in (0, 1) and end["code"] == 0, (hit, end)
        assert "from scratch" not in hit["output"], hit
        assert not (run / "superseded").exists(), hit
        if "retval" not in hit["plan"]["inject"]:  # a short read looks like a file that is cut short
            assert not (run / "damaged").exists(), hit
        assert_same_run(work / "looks_undisturbed", run)
        ends["went on" if hit["code"] == 0 else "clear error"] += 1
    say(f"{len(report) // 2} errors and short reads at {dict(counts)}; {dict(ends)}", began)


def no_locks(work: Path) -> None:
    """Refused with the advice; with accept_weak_disk, kills at random steps and the same end."""
    began = time.monotonic()
    for error in ("ENOLCK", "EINVAL", "ENOSYS"):
        fault = {"inject": f"flock:error={error}", "run": error}
        (refused,) = through_kills(six_epochs(work, "refused"), work, lives=[fault])
        assert refused["code"] == 1 and "accept_weak_disk" in refused["output"], refused
        assert not list((work / "refused" / error).glob("*.pt")), refused
        config = six_epochs(work, "unlocked", accept_weak_disk=True)
        killed = [fault | {"die": ["step", step]} for step in (3, 50, 90)]
        lives = through_kills(config, work, lives=[*killed, fault])
        assert [life["killed"] for life in lives] == [True, True, True, False], lives
        assert lives[-1]["code"] == 0, lives[-1]
        assert_same_run(work / "undisturbed", work / "unlocked" / error)
    say("no locks (ENOLCK, EINVAL, ENOSYS), 9 kills", began)


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
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", nargs="?", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    main(**vars(parser.parse_args()))
