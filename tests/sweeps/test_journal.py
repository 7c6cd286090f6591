"""Optuna's part, without kernels: proposals and judgements that repeat, a journal that lasts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from sweeping import assert_journal_tells

from treelstm import Config, train
from treelstm.history import Outcome
from treelstm.sweeps import journal
from treelstm.sweeps.plan import given_in, make_plan
from treelstm.sweeps.trials import TRIAL_DIR, DamagedSweep, Trial, read_trials, write_trial

SEARCH = {"learning_rate": "1e-4:1e-1:log", "hidden_dim": "4:16", "dropout": [0.1, 0.3]}
SPACE = make_plan({}, search=SEARCH, trials=9).search
METRIC = "validation_average_precision"


def trained(
    tiny: Path,
    sweep_dir: Path,
    name: str,
    *,
    prune: str | None = None,
    number: int | None = None,
    **settings: Any,
) -> Trial:
    """A trial that this process trains, as its kernel would."""
    known = read_trials(sweep_dir)
    config = tiny_config(tiny, sweep_dir / name, **settings)
    trial = Trial(len(known) if number is None else number, given_in(config), prune=prune, name=name)
    trial.peers = [other for other in known if other != name] if prune else []
    (sweep_dir / name).mkdir(parents=True, exist_ok=True)
    write_trial(sweep_dir, trial)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRIAL_DIR, str(sweep_dir / name))
        trial.outcome = train(config).outcome
    trial.why = json.loads((sweep_dir / name / "run.json").read_bytes())["why"]
    write_trial(sweep_dir, trial)
    return trial


@pytest.fixture(scope="module")
def swept(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five finished trials; read only."""
    sweep_dir = tmp_path_factory.mktemp("swept")
    for number, rate in enumerate((0.02, 0.03, 0.04, 0.05, 0.06)):
        trained(tiny, sweep_dir, f"good{number}", learning_rate=rate)
    return sweep_dir


def copied(swept: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(swept, target))


def test_a_proposal_is_a_function_of_the_trials_before_it(swept):
    trials = [*read_trials(swept).values()]
    first, again = (journal.proposal(swept, trials, SPACE, METRIC, 42) for _ in range(2))
    assert first == again and first != journal.proposal(swept, trials, SPACE, METRIC, 43)
    assert first != journal.proposal(swept, trials[:4], SPACE, METRIC, 42)
    assert 1e-4 <= first["learning_rate"] <= 1e-1 and type(first["hidden_dim"]) is int
    Config.from_parameters(first)


def test_the_journal_is_read_by_optuna_and_written_once(swept, tmp_path):
    sweep_dir = copied(swept, tmp_path / "sweep")
    trials = [*read_trials(sweep_dir).values()]
    trials[-1].outcome = None
    write_trial(sweep_dir, trials[-1])
    journal.record(sweep_dir, trials, {}, METRIC)
    trials[-1].outcome = "finished"
    write_trial(sweep_dir, trials[-1])
    journal.record(sweep_dir, trials, {}, METRIC)
    assert_journal_tells(sweep_dir)
    before = (sweep_dir / "journal.log").read_bytes()
    journal.record(sweep_dir, trials, {}, METRIC)
    assert (sweep_dir / "journal.log").read_bytes() == before


def test_a_torn_journal_goes_on_and_a_damaged_one_is_set_aside(swept, tmp_path, caplog):
    sweep_dir = copied(swept, tmp_path / "sweep")
    trials, path = [*read_trials(sweep_dir).values()], sweep_dir / "journal.log"
    journal.record(sweep_dir, trials, {}, METRIC)
    whole = path.read_bytes()
    for cut in (1, 40, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        (sweep_dir / "journal.log.lock").symlink_to(path)  # as a killed process leaves it
        journal.record(sweep_dir, trials, {}, METRIC)
        assert_journal_tells(sweep_dir)
    assert not [*sweep_dir.glob("journal.damaged*")]
    path.write_bytes(whole[:200] + b"\0\0garbage\n" + whole[200:])
    journal.record(sweep_dir, trials, {}, METRIC)
    assert_journal_tells(sweep_dir)
    assert "set aside as journal.damaged-0.log" in caplog.text


def test_a_journal_that_cannot_be_written_is_said_and_ends_nothing(swept, tmp_path, caplog):
    sweep_dir = copied(swept, tmp_path / "sweep")
    (sweep_dir / "journal.log").mkdir()
    journal.record(sweep_dir, [*read_trials(sweep_dir).values()], {}, METRIC)
    assert "is behind" in caplog.text


@pytest.mark.parametrize("pruner, number", [("median", 5), ("hyperband", 7)])
def test_a_hopeless_trial_is_pruned_says_why_and_decides_the_same_again(
    tiny, swept, tmp_path, pruner, number
):
    sweep_dir = copied(swept, tmp_path / "sweep")
    words = {"prune": pruner, "number": number, "learning_rate": 1e-9, "seed": 3}
    bad = trained(tiny, sweep_dir, "bad", **words)
    assert bad.outcome == Outcome.PRUNED and "average precision" in bad.why
    history = json.loads((sweep_dir / "bad" / "training_history.json").read_bytes())
    text = (sweep_dir / "bad" / "training.log").read_text()
    assert len(history) < 3 and f"pruned at epoch {len(history)}" in text and bad.why in text
    again = trained(tiny, sweep_dir, "bad", **words)
    assert (again.outcome, again.why) == (bad.outcome, bad.why)


def test_trials_that_ended_later_change_no_judgement(tiny, swept, tmp_path):
    sweep_dir = copied(swept, tmp_path / "sweep")
    good = trained(tiny, sweep_dir, "good9", prune="median", learning_rate=0.06)
    assert good.outcome == Outcome.FINISHED


def test_a_damaged_file_of_a_trial_is_named(swept, tmp_path):
    sweep_dir = copied(swept, tmp_path / "sweep")
    (sweep_dir / "good1" / "trial.json").write_text('{"number": "one"}')
    with pytest.raises(DamagedSweep, match=r"good1/trial.json is damaged: .*Restore it"):
        read_trials(sweep_dir)
