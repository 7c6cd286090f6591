"""Kills real training processes, and makes their disk fail: `python tests/kills.py SPEC.json`.

The imports are paid for once: this process forks one life after another, each a real process that
trains with resume="auto" until it finishes or something kills it. It never runs torch itself, since
a fork would inherit its locked threads. The report is printed as JSON.

A spec holds `config` (settings) and `lives`, a list of plans carried out in order:
  {"die": ["step", nth]}                         SIGKILLs itself right after that step
  {"die": [event, pattern, nth, moment]}         at the nth "open", "rename" or "remove" of a file whose
                                                 name matches; moment "before" or "after" the call
  {"phase": name, "nth": n, "delay": seconds}    is SIGKILLed that long after entering the phase
  {"inject": "fsync:signal=SIGKILL:when=3"}      runs under strace's fault injection; with "paths",
                                                 only calls on these files and directories count
  {"file_limit": bytes, "fatal": true or false}  may write that much to a file: a torn write that
                                                 kills, or one that ends in an error
  {}                                             runs to its end
Each plan may name its `run`, a directory inside output_dir. Or a spec holds `random`:
{"kills": K, "seed": S}, that many kills spread over all phases, and as many whole runs as it takes,
each in a directory of its own.
"""

from __future__ import annotations

import fnmatch
import json
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Imported once here, not in every life.
import sklearn.metrics  # noqa: F401
import tensorboard.compat.proto.event_pb2
import tensorboard.summary.writer.record_writer  # noqa: F401
import torch._dynamo  # noqa: F401

from treelstm import Config, Listener
from treelstm.commands import EXPECTED
from treelstm.listeners import train as train_until_the_end

# What begins each phase (a file opened, or a step), and about how long it lasts in seconds.
PHASES: dict[str, tuple[str, float]] = {
    "start-up": ("", 0.08),
    "step": ("step", 0.004),
    "commit": (".checkpoint_epoch_*", 0.006),
    "validation": ("last step", 0.015),
    "derived files": (".training_history.json*", 0.008),
    "final save": (".final_model.pt*", 0.006),
}
READS = ("openat", "getdents64", "read", "fstat", "newfstatat", "lstat", "stat", "statx")
SYSCALLS = ("openat", "write", "fsync", "rename", "unlink", "mkdir", "ftruncate", "flock")
ENTERED = mmap.mmap(-1, 4096)  # shared with the lives: entries into the phase that a plan names


class Steps(Listener):
    """Calls `heard` after each step, with its number and whether it ends an epoch."""

    def __init__(self, heard: Callable[[int, bool], None]) -> None:
        self.heard, self.done = heard, 0

    def on_step(self, run: Any) -> None:
        self.done += 1
        self.heard(self.done, run.step == run.steps_per_epoch)


def train(settings: dict[str, Any], plan: dict[str, Any]) -> int:
    """A life: exit status 0 finished, 1 with an error that a user could read, 2 with any other."""
    listeners = _die_at(*plan["die"]) if "die" in plan else []
    if "file_limit" in plan:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if plan["fatal"] else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan["file_limit"],) * 2)
    if plan.get("phase"):
        listeners += _count_entries(PHASES[plan["phase"]][0])
    try:
        outcome = train_until_the_end(Config.from_parameters(settings), listeners=listeners).outcome
    except EXPECTED as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    except BaseException as error:
        print(f"unexpected {type(error).__name__}: {error}")
        return 2
    return 0 if outcome.finished else 3


def _heed(heard: Callable[[str, str], None]) -> None:
    """Has Python report file-system calls to `heard`, with the file's name, before each is made."""
    names = {"open": "open", "os.rename": "rename", "os.remove": "remove"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in names and isinstance(arguments[0], str | bytes | os.PathLike):
            path = arguments[1] if event == "os.rename" else arguments[0]
            heard(names[event], os.path.basename(os.fsdecode(path)))  # noqa: PTH119 (may be bytes)

    sys.addaudithook(hook)


def _die_at(event: str, *where: Any) -> list[Listener]:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if event == "step":
        (nth,) = where
        return [Steps(lambda done, last: die() if done == nth else None)]
    pattern, nth, moment = where
    calls = 0

    def heard(now: str, name: str) -> None:
        nonlocal calls
        if moment == "after" and calls == nth:  # the next call comes after that one
            die()
        calls += now == event and fnmatch.fnmatch(name, pattern)
        if moment == "before" and calls == nth:
            die()

    _heed(heard)
    return []


def _count_entries(begins: str) -> list[Listener]:
    def enter() -> None:
        ENTERED[0] = min(255, ENTERED[0] + 1)

    if begins in ("step", "last step"):
        return [Steps(lambda done, last: enter() if last or begins == "step" else None)]
    if begins:
        opened = lambda event, name: event == "open" and fnmatch.fnmatch(name, begins)  # noqa: E731
        _heed(lambda event, name: enter() if opened(event, name) else None)
    return []


def life(settings: dict[str, Any], plan: dict[str, Any]) -> tuple[int, str]:
    """Runs one life; its wait status as os.waitpid gives it, and what it printed."""
    ENTERED[0] = 0 if plan.get("phase") != "start-up" else plan["nth"]
    output = Path(settings["output_dir"]).parent / "life.txt"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if "inject" in plan:
            os.kill(os.getpid(), signal.SIGSTOP)
        status = train(settings, plan)
        sys.stdout.flush()
        os._exit(status)
    tracer = _trace(child, plan["inject"], plan.get("paths", ())) if "inject" in plan else None
    if "phase" in plan:
        while (
            ENTERED[0] < plan["nth"]
            and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.0002)
        time.sleep(plan["delay"])
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if tracer is not None:
        tracer.wait()
    return status, output.read_text()


def _trace(child: int, fault: str, paths: Iterable[str]) -> subprocess.Popen[bytes]:
    """Attaches strace to a stopped life, then lets it go on."""
    os.waitpid(child, os.WUNTRACED)
    words = ["strace", "-f", "-qq", "-p", str(child)]
    for path in paths:
        words += ["-P", path]
    if fault.startswith("record:"):
        words += ["-o", fault.partition(":")[2], "-e", f"trace={','.join(READS if paths else SYSCALLS)}"]
    else:
        words += ["-o", "/dev/null", "-e", f"inject={fault}"]
    tracer = subprocess.Popen(words)
    status = Path(f"/proc/{child}/status")
    while "TracerPid:\t0\n" in status.read_text():
        time.sleep(0.002)
    time.sleep(0.02)  # strace sees the stopped state before it is told to go on
    os.kill(child, signal.SIGCONT)
    return tracer


def carry_out(settings: dict[str, Any], plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One life after another; what became of each."""
    report = []
    base = Path(settings["output_dir"])
    for plan in plans:
        directory = base / plan.get("run", "run")
        status, output = life(settings | {"output_dir": str(directory)}, plan)
        killed, code = os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status)
        report.append({"plan": plan, "killed": killed, "code": code, "output": output[-2000:]})
    return report


def random_kills(settings: dict[str, Any], kills: int, seed: int) -> dict[str, Any]:
    """Kills spread over all phases; every run is restarted with auto until it finishes."""
    draw = random.Random(seed)
    landed: Counter[str] = Counter()
    runs, failures = [], []
    while sum(landed.values()) < kills or not runs or not runs[-1]["finished"]:
        if not runs or runs[-1]["finished"]:
            directory = Path(settings["output_dir"]) / f"run{len(runs) + 1}"
            runs.append({"directory": str(directory), "kills": 0, "finished": False})
        run = runs[-1]
        phase = draw.choice(list(PHASES))
        plan: dict[str, Any] = {}
        if sum(landed.values()) < kills:
            delay = draw.uniform(0, PHASES[phase][1])
            plan = {"phase": phase, "nth": draw.choice((1, 1, 2, 5)), "delay": delay}
            if phase == "final save":
                plan["nth"] = 1
        status, output = life(settings | {"output_dir": run["directory"]}, plan)
        if os.WIFSIGNALED(status):
            landed[phase] += 1
            run["kills"] += 1
        elif os.WEXITSTATUS(status) == 0:
            run["finished"] = True
        else:
            failures.append(output[-2000:])
            break
    return {"runs": runs, "kills": dict(landed), "failures": failures}


if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text())
    Path(spec["config"]["output_dir"]).mkdir(parents=True, exist_ok=True)
    if "random" in spec:
        print(json.dumps(random_kills(spec["config"], **spec["random"])))
    else:
        print(json.dumps(carry_out(spec["config"], spec["lives"])))
