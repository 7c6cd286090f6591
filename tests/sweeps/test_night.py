"""A night of many runs: killed, stopped, refused; `benchmarks/sweeps.py` kills it by the dozen."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from runs import copy, files
from services import webhook
from sweeping import assert_as_alone, assert_journal_tells, nothing_left, parts, start, until

from treelstm import Config, sweep, train
from treelstm.checks.report import PreflightRefused
from treelstm.commands import main
from treelstm.config import ConfigError
from treelstm.files import WriteFailed
from treelstm.run.lock import RunInUse, only_writer
from treelstm.sweeps.journal import NeedsOptuna
from treelstm.sweeps.plan import given_in, make_plan
from treelstm.sweeps.trials import Trial, read_trials, write_trial

pytestmark = pytest.mark.filterwarnings("default")  # Jupyter's packages warn

GRID = {"learning_rate": [0.01, 0.03]}


def config_of(tiny: Path, **settings: Any) -> Config:
    small = tiny_config(tiny, tiny, **({"num_threads": 1} | settings))
    return dataclasses.replace(small, output_dir=Config.output_dir)


@pytest.fixture(scope="module")
def swept(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two trials; read only."""
    sweep_dir, base = tmp_path_factory.mktemp("swept"), config_of(tiny)
    settings = {k: v for k, v in given_in(base).items() if k not in GRID}
    for number, (name, config) in enumerate(make_plan(settings, grid=GRID).fixed.items()):
        ended = train(dataclasses.replace(config, output_dir=str(sweep_dir / name))).outcome
        write_trial(sweep_dir, Trial(number, given_in(config), ended, name=name))
    return sweep_dir


def test_killed_and_failed_in_part_it_ends_as_undisturbed_runs_do(tiny, tmp_path):
    """SIGKILL of an engine, SIGKILL of the sweep; one of the trials diverges."""
    config = config_of(tiny, epochs=4, checkpoint_every_seconds=0)
    sweep_dir = tmp_path / "night"
    words = {"runs": {"one": {}, "wild": {"learning_rate": 1e30}}, "sweep_dir": str(sweep_dir)}
    with webhook() as hook, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TREELSTM_NOTIFY_URLS", hook.address)
        night = start(tmp_path, config, **words)
        until(night, (sweep_dir / "one" / "checkpoint_epoch_1.pt").exists)
        (engine,) = parts(night)["engine"]
        engine.kill()
        until(night, (sweep_dir / "one" / "checkpoint_epoch_2.pt").exists)
        night.kill()
        night.wait()
        night = start(tmp_path, config, **words)  # waits for the kernel that has lost its sweep
        assert night.wait(200) == 1, (tmp_path / "console.txt").read_text()
    nothing_left()
    assert "killed by SIGKILL, it is started again" in (sweep_dir / "sweep.log").read_text()
    wild = read_trials(sweep_dir)["wild"]
    assert wild.outcome == "failed" and "TrainingDiverged" in wild.why
    assert [message["title"].split(": ")[1] for message in hook.messages] == ["finished, 1 failed"]
    assert "the same command with --retry-failed" in hook.messages[-1]["message"]
    page = json.loads((sweep_dir / "one" / "page.ipynb").read_bytes())
    assert page["metadata"]["treelstm"]["outcome"] == "finished"
    (sweep_dir / "wild" / "trial.json").unlink()
    assert assert_as_alone(sweep_dir, tmp_path) == {"finished": 1}


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_has_all_trials_commit_and_stop_and_the_same_command_goes_on(tiny, tmp_path, number):
    config, sweep_dir = config_of(tiny, epochs=6, checkpoint_every_seconds=0), tmp_path / "night"
    words = {"seeds": 2, "parallel": 2, "sweep_dir": str(sweep_dir)}
    night = start(tmp_path, config, **words)
    until(night, lambda: [*sweep_dir.glob("*/checkpoint_epoch_1.pt")][1:])
    night.send_signal(number)
    assert night.wait(60) == 128 + number
    nothing_left()
    assert [trial.outcome for trial in read_trials(sweep_dir).values()] == [None, None]
    assert start(tmp_path, config, **words).wait(200) == 0
    assert assert_as_alone(sweep_dir, tmp_path) == {"finished": 2}


def test_a_finished_sweep_that_is_started_again_trains_nothing(tiny, swept, tmp_path, capsys):
    run = copy(swept, tmp_path / "night")
    before = {path.name: files(path) for path in run.glob("*/")}
    found = sweep(config_of(tiny), grid=GRID, sweep_dir=run)
    assert found.exit_status == 0 and [trial.outcome for trial in found.trials] == ["finished"] * 2
    assert before == {path.name: files(path) for path in run.glob("*/")}
    table = str(found).splitlines()
    rows = [next(line for line in table if line.startswith(trial.name)) for trial in found.trials]
    best = min(rows, key=table.index)
    assert max(rows, key=lambda row: float(re.search(r"0\.\d{4}", row)[0])) == best
    assert_journal_tells(run)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"dropout": 0.3}, "was begun with dropout=0.1, now it is 0.3"),
        ({"epochs": 2}, "was begun with epochs=3, now it is 2"),
        ({"num_threads": 2}, "was begun with num_threads=1, now it is 2"),
        ({"validation_dir": None}, "was begun with validation_dir="),
    ],
)
def test_settings_that_would_change_a_trial_are_refused_by_both_values(tiny, swept, settings, says):
    with pytest.raises(ConfigError, match=says):
        sweep(config_of(tiny, **settings), grid=GRID, sweep_dir=swept)


def test_a_sweep_that_runs_is_left_alone(tiny, swept, tmp_path):
    run = copy(swept, tmp_path / "night")
    with only_writer(run), pytest.raises(RunInUse, match=f"in use by process {os.getpid()}"):
        sweep(config_of(tiny), grid=GRID, sweep_dir=run)


def test_preflight_refuses_before_any_trial_begins(tiny, tmp_path, capsys):
    flags = ["sweep", "--sweep-dir", str(tmp_path / "night"), "--seeds", "2"]
    assert main([*flags, "--data-dir", str(tmp_path / "nowhere")]) == 3
    assert "nowhere" in capsys.readouterr().err
    assert not [*(tmp_path / "night").glob("*/")]
    with pytest.raises(PreflightRefused, match="disk is too small for all trials"):
        large = config_of(tiny, epochs=500_000)  # one trial alone would fit
        sweep(large, grid={"dropout": [n / 1000 for n in range(900)]}, sweep_dir=tmp_path / "night")
    assert not [*(tmp_path / "night").glob("*/")]


def test_without_optuna_grids_work_and_a_search_says_what_to_install(tiny, swept, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    run = copy(swept, tmp_path / "night")
    assert sweep(config_of(tiny), grid=GRID, sweep_dir=run).exit_status == 0
    assert not (run / "journal.log").exists()
    for words in ({"search": {"dropout": "0:0.5"}, "trials": 2}, {"seeds": 2, "prune": "median"}):
        with pytest.raises(NeedsOptuna, match=r'pip install "treelstm\[sweep\]"'):
            sweep(config_of(tiny), sweep_dir=tmp_path / "other", **words)
    assert not (tmp_path / "other").exists()


def test_a_directory_that_cannot_be_one_is_named(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteFailed, match="cannot be made a directory"):
        sweep(config_of(tiny), grid=GRID, sweep_dir=tmp_path / "file")


@pytest.mark.long
def test_more_epochs_go_on_and_failed_trials_are_tried_again(tiny, swept, tmp_path):
    run = copy(swept, tmp_path / "night")
    trial = read_trials(run)["learning_rate=0.03"]
    trial.outcome, trial.why = "failed", "the roof came down"
    write_trial(run, trial)
    words = {"grid": GRID, "sweep_dir": str(run)}
    assert start(tmp_path, config_of(tiny, epochs=5), **words).wait(120) == 1
    assert [t.outcome for t in read_trials(run).values()] == ["finished", "failed"]
    assert start(tmp_path, config_of(tiny, epochs=5), retry_failed=True, **words).wait(120) == 0
    assert_as_alone(run, tmp_path)


@pytest.mark.long
def test_two_at_once_share_the_threads_and_max_hours_is_for_the_night(tiny, tmp_path):
    config = dataclasses.replace(config_of(tiny, epochs=5000), num_threads=None, max_hours=60 / 3600)
    words = {"seeds": 4, "parallel": 2, "sweep_dir": str(tmp_path / "night")}
    assert start(tmp_path, config, **words).wait(120) == 124
    trials = read_trials(tmp_path / "night")
    assert [*trials] == ["seed=42", "seed=43"] and not any(t.outcome for t in trials.values())
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {t.settings["num_threads"] for t in trials.values()} == {threads}
    told = [json.loads((tmp_path / "night" / name / "run.json").read_bytes()) for name in trials]
    assert {each["outcome"] for each in told} == {"stopped by SIGTERM"}
