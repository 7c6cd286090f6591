"""A sweep as a process of its own, with small pages, killed in all its parts."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from treelstm import Config, sweep, train
from treelstm.history import Outcome
from treelstm.run.lock import holder
from treelstm.sweeps.trials import read_trials

MARK = f"TREELSTM_SWEEP={uuid.uuid4()}"


def start(work: Path, config: Config, **words: Any) -> subprocess.Popen[bytes]:
    """`treelstm.sweep(config, **words)` as a process; console.txt in `work` has what it says."""
    from pages import write_page

    page = work / "page.ipynb"
    if not page.exists():
        write_page(page)
    spec = work / "spec.json"
    settings = {k: v for k, v in config.to_dict().items() if k != "output_dir"}
    spec.write_text(json.dumps({"config": settings, "page": str(page), **words}))
    name, _, value = MARK.partition("=")
    with (work / "console.txt").open("ab") as console:
        return subprocess.Popen(
            [sys.executable, __file__, str(spec)],
            stdout=console,
            stderr=console,
            env={**os.environ, name: value},
        )


def until(night: subprocess.Popen[bytes], condition: Callable[[], Any], seconds: float = 120) -> None:
    """Until that is so, while the sweep goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert night.poll() is None and time.monotonic() < deadline, night.poll()
        time.sleep(0.02)


def parts(night: subprocess.Popen[bytes]) -> dict[str, list[psutil.Process]]:
    """The processes of a sweep: its own, its trials' engines and kernels."""
    found: dict[str, list[psutil.Process]] = {"sweep": [], "engine": [], "kernel": []}
    with contextlib.suppress(psutil.NoSuchProcess):
        sweep_process = psutil.Process(night.pid)
        found["sweep"] = [sweep_process]
        for engine in sweep_process.children():
            if "sweeps.trials" in " ".join(engine.cmdline()):
                found["engine"].append(engine)
                found["kernel"] += engine.children()
    return found


def killed_until_it_ends(
    work: Path, config: Config, kills: int, spread: int, **words: Any
) -> Counter[str]:
    """The same command again and again, killed so often in random parts, until it ends by itself.

    They are spread over so many trials; half of them come while one trains, the others at any time.
    """
    draw, done, sweep_dir = random.Random(7), Counter[str](), Path(words["sweep_dir"])

    def ended() -> int:
        return sum(bool(trial.outcome) for trial in read_trials(sweep_dir).values())

    def trains() -> bool:
        return any(map(holder, sweep_dir.glob("*/")))

    night = start(work, config, **words)
    while True:
        if night.poll() is not None:
            if night.returncode >= 0:
                break
            night = start(work, config, **words)
        if sum(done.values()) >= min(
            kills, math.ceil(kills / spread * (ended() + words.get("parallel", 1)))
        ):
            time.sleep(0.1)  # until another trial has ended
            continue
        while_training = draw.random() < 0.5
        while while_training and night.poll() is None and not trains():
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            night.wait(draw.uniform(0, 1 if while_training else 8))
        target, there = draw.choice(["kernel", "kernel", "engine", "sweep", "all"]), parts(night)
        names = ["sweep", "engine", "kernel"] if target == "all" else [target]
        victims = [process for name in names for process in there[name]]
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        done[target] += bool(victims)
        if victims and "sweep" in names:
            night.wait()
    assert night.returncode == 0, (night.returncode, (work / "console.txt").read_text()[-3000:])
    return done


def strays() -> list[str]:
    """Processes of a sweep that are still there."""
    name, _, value = MARK.partition("=")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(name) == value:
                found.append(" ".join(process.cmdline()))
    return found


def assert_as_alone(sweep_dir: Path, work: Path) -> Counter[str]:
    """Each trial is, to the last bit, the run that its settings give alone; how they ended."""
    from runs import assert_same_run

    ends = Counter[str]()
    for trial in read_trials(sweep_dir).values():
        name, run = trial.name, sweep_dir / trial.name
        alone = Config(**{**trial.settings, "output_dir": str(work / "alone" / name)})
        assert train(alone).finished
        if trial.outcome == Outcome.PRUNED:  # whole and resumable: it goes on to the same end
            run = Path(shutil.copytree(run, work / "resumed" / name))
            assert train(Config(**{**trial.settings, "output_dir": str(run)})).finished
        assert_same_run(work / "alone" / name, run)
        assert not (run / "superseded").exists() and not (run / "damaged").exists()
        ends[str(trial.outcome)] += 1
    return ends


def assert_journal_tells(sweep_dir: Path) -> None:
    """Optuna reads the journal: each trial once, ended as its file says."""
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(sweep_dir / "journal.log"))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))
    trials = read_trials(sweep_dir)
    lasting = [each for each in study.trials if each.state.name != "FAIL"]  # a failure tried again stays
    told = {each.user_attrs["name"]: each for each in lasting}
    assert len(told) == len(lasting) == len(trials)
    for name, trial in trials.items():
        state = "PRUNED" if trial.outcome == "pruned" else "COMPLETE"
        assert told[name].state.name == state, name
        history = json.loads((sweep_dir / name / "training_history.json").read_bytes())
        assert sorted(told[name].intermediate_values) == [record["epoch"] for record in history]


def nothing_left() -> None:
    until = time.monotonic() + 3
    while (left := strays()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left, left


if __name__ == "__main__":
    said = json.loads(Path(sys.argv[1]).read_bytes())
    swept = sweep(Config.from_parameters(said.pop("config")), **said)
    print(swept)
    sys.exit(swept.exit_status)
