"""Real processes, really killed; `make torture` does the same at length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from runs import assert_same_run, through_kills

from treelstm import Config, find_latest_checkpoint, train, write_sample


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 training pairs: 40 steps an epoch."""
    directory = tmp_path_factory.mktemp("data")
    write_sample(directory / "training", positives=40, negatives=600)
    write_sample(directory / "validation", 40, 160, seed=1, unlike=directory / "training")
    return directory


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    train(run_config(data, output_dir))
    return output_dir


def run_config(data: Path, output_dir: Path, **settings: Any) -> Config:
    """4 epochs of 40 steps."""
    often = {"epochs": 4, "checkpoint_every_seconds": 0.02, "num_threads": 1}
    return tiny_config(data, output_dir, **(often | settings))


def test_15_kills_spread_over_all_phases_end_bit_identical(data, undisturbed, tmp_path):
    config = run_config(data, tmp_path / "kills")
    report = through_kills(config, tmp_path, random={"kills": 15, "seed": 3})
    assert not report["failures"]
    assert sum(report["kills"].values()) == 15 and len(report["kills"]) >= 5
    for run in report["runs"]:
        assert_same_run(undisturbed, Path(run["directory"]))


OBJECTIVES: dict[str, dict[str, Any]] = {
    "graded": {"objective": "graded", "dropout": 0.3},
    "ranking": {"objective": "ranking", "keep": 1},
    "order of children": {"child_order": True, "dropout": 0.3},
    "bag alone": {"hidden_dim": 0, "best_by": "validation_loss"},
    "as before there was a bag": {"bag_of_symbols": False, "positive_margin": 0.0, "patience": 2},
    "a bag added to a tree": {"start_from": "a run without a bag"},
}


LONG = {"a bag added to a tree", "as before there was a bag"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in OBJECTIVES]
)
def test_kills_with_every_objective_end_bit_identical(data, tmp_path, name):
    settings = OBJECTIVES[name] | {"epochs": 3}
    if "start_from" in settings:
        source = run_config(data, tmp_path / "tree", epochs=1, bag_of_symbols=False)
        train(source)
        settings |= {"start_from": str(source.output_path / "best_model.pt")}
    train(run_config(data, tmp_path / "undisturbed", **settings))
    config = run_config(data, tmp_path / "kills", **settings)
    report = through_kills(config, tmp_path, random={"kills": 5, "seed": 11})
    assert not report["failures"] and sum(report["kills"].values()) == 5, report
    for run in report["runs"]:
        assert_same_run(tmp_path / "undisturbed", Path(run["directory"]))


PLACES: dict[str, list[Any]] = {
    "on an epoch's last step": ["step", 80],
    "before an epoch's commit": ["open", ".checkpoint_epoch_2.pt*", 1, "before"],
    "before a commit gets its name": ["rename", "checkpoint_epoch_2.pt", 1, "before"],
    "right after a commit got its name": ["rename", "checkpoint_epoch_2.pt", 1, "after"],
    "before an old commit is removed": ["remove", "checkpoint_epoch_1.pt", 1, "before"],
    "between the commit and the derived files": ["open", ".training_history.json*", 2, "before"],
    "after the history, before best_model.pt": ["open", ".best_model.pt*", 2, "before"],
    "after best_model.pt": ["rename", "best_model.pt", 2, "after"],
    "before the final model": ["open", ".final_model.pt*", 1, "before"],
    "after the final model": ["rename", "final_model.pt", 1, "after"],
}


@pytest.fixture(scope="module")
def placed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Any]]]:
    """Every place in turn: a life that dies there, and one that goes on."""
    work = tmp_path_factory.mktemp("placed")
    lives = [
        plan | {"run": f"place {k}"}
        for k, place in enumerate(PLACES.values())
        for plan in ({"die": place}, {})
    ]
    config = run_config(data, work / "kills", checkpoint_every_seconds=1e9, keep=1)
    report = through_kills(config, work, lives=lives)
    return work / "kills", {place: report[2 * k : 2 * k + 2] for k, place in enumerate(PLACES)}


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_exactly_there_loses_nothing(undisturbed, placed, place):
    directory, reports = placed
    killed, finished = reports[place]
    assert killed["killed"], killed
    assert finished["code"] == 0, finished["output"]
    assert_same_run(undisturbed, directory / killed["plan"]["run"])


@pytest.mark.parametrize("fatal", [True, False], ids=["torn write", "full disk"])
def test_a_write_that_ends_halfway_leaves_the_previous_commit(data, undisturbed, tmp_path, fatal):
    config = run_config(data, tmp_path / "kills", checkpoint_every_seconds=1e9)
    limited = {"file_limit": 30_000, "fatal": fatal}
    lives = [{"die": ["step", 60]}, limited, {}]
    first, second, finished = through_kills(config, tmp_path, lives=lives)
    assert first["killed"] and finished["code"] == 0
    if fatal:
        assert second["killed"]
    else:
        assert second["code"] == 1
        assert (
            "File too large: " in second["output"] and "checkpoint_epoch_2.pt needs" in second["output"]
        )
        assert "What was there before is intact" in second["output"]
    run = tmp_path / "kills" / "run"
    assert not list(run.glob(".*.tmp"))
    assert find_latest_checkpoint(run) == run / "checkpoint_epoch_4.pt"
    assert_same_run(undisturbed, run)
