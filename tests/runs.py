"""What tests ask of a run: is it the same as another, to the last bit?"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import tiny_config

from treelstm import Config, Listener, train
from treelstm.run.directory import FINAL, HISTORY, SUMMARY, find_latest_checkpoint, load_checkpoint
from treelstm.run.state import Run
from treelstm.run.tensorboard import encoded
from treelstm.sealed import read_sealed, write_sealed


def identical(first: Any, second: Any) -> bool:
    """Whether two nested contents are equal, tensors to the last bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(identical(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(identical, first, second))
    return bool(first == second)


def assert_same_run(undisturbed: Path, other: Path) -> None:
    """Weights, optimizer, history and derived files of two finished runs are byte for byte equal.

    TensorBoard's files differ in their timings; each agrees with its own commits.
    """
    for run in (undisturbed, other):
        content = load_checkpoint(find_latest_checkpoint(run))
        (events,) = (path for path in (run / "tensorboard").iterdir() if path.stat().st_size)
        assert events.read_bytes() == encoded(content), f"{events} disagrees with the commits"
        epochs = [timing["epoch"] for timing in content["timings"]]
        assert epochs == [record["epoch"] for record in content["history"]]
    assert (undisturbed / HISTORY).read_bytes() == (other / HISTORY).read_bytes()
    told = [json.loads((run / SUMMARY).read_bytes()) for run in (undisturbed, other)]
    for name in ("outcome", "why", "epochs_done", "step"):
        assert told[0][name] == told[1][name], f"{name} of {SUMMARY} differs"
    names = "model_state_dict optimizer_state_dict scheduler_state_dict warmup_state_dict".split()
    names += "history epoch_sums best first_loss".split()
    states = [load_checkpoint(find_latest_checkpoint(path)) for path in (undisturbed, other)]
    for name in (*names, "epoch", "step", "threshold", "train_loss"):
        assert identical(states[0][name], states[1][name]), f"{name} differs"
    for name in (FINAL, "best_model.pt"):
        models = [read_sealed(path / name) for path in (undisturbed, other)]
        for part in ("model_state_dict", "epoch", "threshold", "vocabulary"):
            assert identical(models[0][part], models[1][part]), f"{part} of {name} differs"


def copy(run: Path, target: Path) -> Path:
    return Path(shutil.copytree(run, target))


def through_kills(config: Config, work: Path, **plan: Any) -> Any:
    """The report of tests/kills.py on `config`, in a process of its own; see there for plans."""
    spec = work / "spec.json"
    spec.write_text(json.dumps({"config": config.to_dict(), **plan}))
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run([sys.executable, script, spec], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def recorded_calls(config: Config, work: Path, **plan: Any) -> Counter[str]:
    """How often a life of this plan, which must succeed, makes each file-system call."""
    record = work / "calls.txt"
    (seen,) = through_kills(config, work, lives=[{"inject": f"record:{record}", **plan}])
    assert seen["code"] == 0, seen
    return Counter(re.findall(r"^\d+ +(\w+)\(", record.read_text(), re.MULTILINE))


def files(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file that a run is judged by."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
        if path.is_file() and path.suffix in (".pt", ".json") and not path.name.startswith(".")
    }


def night_of_runs(data: Path, directory: Path) -> Path:
    """Six small runs, of two learning rates and three seeds, and a damaged one."""
    for rate in (0.01, 0.001):
        for seed in (1, 2, 3):
            run = directory / f"learning_rate={rate},seed={seed}"
            train(tiny_config(data, run, epochs=2, learning_rate=rate, seed=seed))
    (directory / "broken").mkdir()
    (directory / "broken" / "run.json").write_text("{")
    return directory


class OnStep(Listener):
    """Calls a function with the run after every step; it may do to the state whatever a fault could."""

    def __init__(self, then: Callable[[Run], None]) -> None:
        self.on_step = then  # type: ignore[method-assign]


class StopAfter(Listener):
    """Sends this process a signal after that many steps."""

    def __init__(self, steps: int, by: signal.Signals = signal.SIGINT) -> None:
        self.steps, self.by, self.done = steps, by, 0

    def on_step(self, run: Run) -> None:
        self.done += 1
        if self.done == self.steps:
            os.kill(os.getpid(), self.by)


def rewrite(path: Path, change: Callable[[Any], None]) -> bytes:
    """Changes what a sealed file holds and seals it again; the bytes that it had before."""
    before = path.read_bytes()
    content = read_sealed(path)
    change(content)
    write_sealed(path, content)
    return before
