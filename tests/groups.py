"""Kills the processes of `python -m treelstm train --processes N`; see `benchmarks/torture.py`."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import psutil
from children import MARK, marked

from treelstm import Config
from treelstm.run.lock import holder

SECONDS_HUNG, SECONDS_ORPHANED = 120.0, 30.0  # on a machine however busy; the report has the times
LAUNCHER, WORKER, ALL = "launcher", "worker", "all at once"
SECONDS_OF_A_LIFE, STEPS = 9.0, 40  # start-up and some epochs of so many steps
MOMENTS = ("any time", "any time", "commit", "validation")


class Command:
    """A command that trains, and all processes that come from it, also when it is gone."""

    def __init__(self, words: list[str], console: Path) -> None:
        self.mark = uuid.uuid4().hex
        environment = {**os.environ, MARK: f"{os.environ.get(MARK, '')} {self.mark}"}
        with console.open("ab") as out:
            self.process = subprocess.Popen(words, env=environment, stdout=out, stderr=out)

    def processes(self) -> list[psutil.Process]:
        return [*marked(self.mark)]

    def workers(self) -> list[psutil.Process]:
        return [each for each in self.processes() if each.ppid() == self.process.pid]

    def kill(self, what: str, draw: random.Random) -> str:
        """Kills; what it was, since there may be no worker yet."""
        workers = self.workers() if what == WORKER else []
        if what == WORKER and workers:
            draw.choice(workers).kill()
            return WORKER
        for process in [*self.processes(), *self.processes()] if what == ALL else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()
        return what if what == ALL else LAUNCHER

    def wait_for_all(self, seconds: float = SECONDS_ORPHANED) -> float:
        """The seconds until none of its processes is left."""
        began = time.monotonic()
        while left := self.processes():
            assert time.monotonic() - began < seconds, f"left behind: {left}"
            time.sleep(0.05)
        return time.monotonic() - began


def train_command(config: Config) -> list[str]:
    return [sys.executable, "-m", "treelstm", "train", *config.flags()]


def newest_commit(run: Path) -> tuple[int, int]:
    """The epoch and the step in it; a whole epoch counts as step 0 of the next."""
    names = (
        re.fullmatch(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.pt", path.name) for path in list_of(run)
    )
    found = (m.groups() for m in names if m)
    return max(((int(e), int(s)) if s else (int(e) + 1, 0) for e, s in found), default=(0, 0))


def list_of(run: Path) -> list[Path]:
    return [*run.iterdir()] if run.is_dir() else []


@dataclass
class Report:
    kills: Counter[str] = field(default_factory=Counter)
    runs: list[Path] = field(default_factory=list)
    processes: Counter[int] = field(default_factory=Counter)  # of the attempts
    back: list[float] = field(default_factory=list)  # seconds from a kill to the next commit or the end
    orphaned: list[float] = field(default_factory=list)  # seconds that workers outlived their launcher

    def __str__(self) -> str:
        orphaned, longest = max(self.orphaned, default=0), max(self.back)
        return (
            f"{self.kills.total()} kills {dict(self.kills)}; attempts by processes "
            f"{dict(self.processes)}, in {len(self.runs)} runs; back after {median(self.back):.1f} s "
            f"(median), {longest:.1f} s (longest); orphans gone after {orphaned:.1f} s"
        )


def killed_groups(config: Config, numbers: tuple[int, ...], kills: int, seed: int = 0) -> Report:
    """So many kills of a worker, the launcher or all at once; attempts have these numbers of processes
    by turns. Each run goes on to its end, and further kills meet the next one.
    """
    draw, report, work = random.Random(seed), Report(), Path(config.output_dir)
    work.mkdir()
    while report.kills.total() < kills:
        run = work / f"run{len(report.runs) + 1}"
        report.runs.append(run)
        _killed_to_the_end(replace(config, output_dir=str(run)), numbers, kills, draw, report)
    return report


def _killed_to_the_end(
    config: Config, numbers: tuple[int, ...], kills: int, draw: random.Random, report: Report
) -> None:
    run, console = config.output_path, config.output_path.with_suffix(".txt")
    killed, killed_at, at = 0.0, 0.0, (0, 0)
    orphans: Command | None = None
    while True:
        number = numbers[report.processes.total() % len(numbers)]
        report.processes[number] += 1
        command = Command(train_command(replace(config, processes=number)), console)
        what, moment = draw.choice((WORKER, WORKER, LAUNCHER, ALL)), draw.choice(MOMENTS)
        until = time.monotonic() + draw.uniform(0, SECONDS_OF_A_LIFE)
        while command.process.poll() is None:
            time.sleep(0.002)
            now, commit = time.monotonic(), newest_commit(run)
            if killed and commit > at:
                report.back.append(now - killed)
                killed = 0.0
            assert now - (killed or now) < SECONDS_HUNG, console.read_text()[-3000:]
            if orphans and not (left := orphans.processes()):
                report.orphaned.append(now - killed_at)
                orphans = None
            assert not orphans or now - killed_at < SECONDS_ORPHANED, f"left behind: {left}"
            if moment == "commit":
                due = not killed and any(path.name.startswith(".checkpoint") for path in list_of(run))
            elif moment == "validation":
                due = not killed and commit[1] >= STEPS - 1
            else:
                due = now >= until
            if due and report.kills.total() < kills:
                time.sleep(0 if moment == "any time" else draw.uniform(0, 0.02))
                at, what = newest_commit(run), command.kill(what, draw)
                killed = killed_at = time.monotonic()
                report.kills[f"{what}, {moment}"] += 1
                if what != WORKER:
                    break
                what, moment = draw.choice((WORKER, WORKER, LAUNCHER, ALL)), draw.choice(MOMENTS)
                until = now + draw.uniform(0, SECONDS_OF_A_LIFE)
        else:
            assert command.process.returncode == 0, console.read_text()[-3000:]
            command.wait_for_all()
            assert holder(run) is None
            return
        orphans = command
