"""run.json: true of a run that goes on, ends, fails, is stopped, pruned or killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from runs import OnStep, StopAfter, assert_same_run, copy

from treelstm import Listener, load_checkpoint, train
from treelstm.history import EpochRecord, Outcome
from treelstm.run.listener import Prune
from treelstm.run.state import Run


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_bytes())
    return content


class PruneAfter(Listener):
    """Prunes a run at the end of this epoch, or when it starts beyond it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_start(self, run: Run) -> None:
        self.run = run
        self.judge(run.epochs_done, run.outcome)

    def on_epoch(self, record: EpochRecord) -> None:
        self.judge(record["epoch"], self.run.outcome)

    def judge(self, epoch: int, outcome: Outcome | None) -> None:
        if epoch >= self.epoch and outcome is None:
            raise Prune(f"no hope after epoch {epoch}")


def test_it_tells_settings_outcome_and_time(tiny, whole):
    found = summary(whole)
    content = load_checkpoint(whole / "checkpoint_epoch_2.pt")
    assert found["outcome"] == "finished" and found["why"] == "" and found["changes"] == []
    assert {**found["settings"], "output_dir": str(whole)} == content["config"]
    assert (found["epochs_done"], found["step"]) == (2, 0)
    assert found["seconds"] == pytest.approx(sum(t["seconds"] for t in content["timings"]), abs=1e-3)


def test_a_finished_run_that_is_started_again_keeps_it(tiny, whole, tmp_path):
    run = copy(whole, tmp_path / "run")
    config = tiny_config(tiny, run, epochs=2)
    (run / "run.json").unlink()  # as in a run of an earlier version
    train(config)
    assert summary(run)["outcome"] == "finished"
    before = (run / "run.json").stat().st_mtime_ns
    train(config)
    assert (run / "run.json").stat().st_mtime_ns == before


def test_it_tells_where_a_run_was_stopped(tiny, tmp_path):
    train(tiny_config(tiny, tmp_path / "run"), listeners=[StopAfter(1)])
    found = summary(tmp_path / "run")
    assert (found["outcome"], found["epochs_done"], found["step"]) == ("stopped by SIGINT", 0, 1)
    assert found["seconds"] > 0


def test_it_tells_the_error_of_a_run_that_failed(tiny, tmp_path):
    def fall(run: Run) -> None:
        if run.step == 2:
            raise OSError("the roof came down")

    with pytest.raises(OSError, match="roof"):
        train(tiny_config(tiny, tmp_path / "run"), listeners=[OnStep(fall)])
    found = summary(tmp_path / "run")
    assert found["outcome"] == "failed" and found["why"] == "OSError: the roof came down"
    train(tiny_config(tiny, tmp_path / "run"))
    assert summary(tmp_path / "run")["outcome"] == "finished"


def test_without_an_outcome_the_run_goes_on_or_was_killed(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run")
    seen: list[dict[str, Any]] = []
    train(config, listeners=[OnStep(lambda run: seen.append(summary(tmp_path / "run")))])
    assert {each["outcome"] for each in seen} == {None}
    assert [each["epochs_done"] for each in seen] == sorted(each["epochs_done"] for each in seen)
    assert seen[-1]["epochs_done"] == 2


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_pruned_run_is_whole_says_why_and_ends_as_one_that_was_not(tiny, tmp_path, epoch):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(tiny_config(tiny, whole))
    config = tiny_config(tiny, run)
    history = train(config, listeners=[PruneAfter(epoch)])
    assert history.outcome is Outcome.PRUNED and not history.finished
    assert history.outcome.exit_status == 0 and len(history.epochs) == epoch
    found = summary(run)
    assert (found["outcome"], found["why"]) == ("pruned", f"no hope after epoch {epoch}")
    assert f"pruned at epoch {epoch}" in (run / "training.log").read_text()
    again = train(config, listeners=[PruneAfter(epoch)])  # a kernel killed before it could tell
    assert again.outcome is Outcome.PRUNED and len(again.epochs) == epoch
    assert train(config).outcome is Outcome.FINISHED
    assert_same_run(whole, run)


def test_a_run_at_its_end_is_not_pruned(tiny, tmp_path):
    assert train(tiny_config(tiny, tmp_path / "run"), listeners=[PruneAfter(3)]).finished
    assert summary(tmp_path / "run")["outcome"] == "finished"
