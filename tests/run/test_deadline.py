"""max_hours: the run stops in time for a commit, and goes on bit-identical."""

from __future__ import annotations

import time

import pytest
from conftest import tiny_config
from runs import assert_same_run

from treelstm import Listener, list_checkpoints, run_status, train
from treelstm.run.deadline import Deadline


class Slow(Listener):
    def __init__(self, step: float, commit: float) -> None:
        self.step, self.commit = step, commit

    def on_step(self, run):
        time.sleep(self.step)

    def on_commit(self, commit):
        time.sleep(self.commit)


def test_a_run_stops_before_its_hours_are_over_and_goes_on_bit_identical(tiny, tmp_path):
    settings = {"epochs": 4, "checkpoint_every_seconds": 0.5}
    train(tiny_config(tiny, tmp_path / "whole", **settings))
    limit = 4.0  # seconds; all steps would take longer
    began = time.monotonic()
    config = tiny_config(tiny, tmp_path / "run", **settings, max_hours=limit / 3600)
    history = train(config, listeners=[Slow(step=0.3, commit=0.7)])
    assert limit - 2.5 < time.monotonic() - began < limit + 0.4
    assert history.outcome == "stopped by max_hours" and history.outcome.exit_status == 124
    assert "is stopped by max_hours" in str(run_status(tmp_path / "run"))
    assert not (tmp_path / "run" / "final_model.pt").exists()
    assert train(tiny_config(tiny, tmp_path / "run", **settings)).finished
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_every_night_gets_on_even_if_it_is_too_short(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", epochs=1, max_hours=1e-9)
    for step in range(1, 6):
        assert train(config).outcome == "stopped by max_hours"
        assert list_checkpoints(tmp_path / "run")[-1].position == (0, step)
    assert train(config).outcome == "finished"


@pytest.mark.parametrize(
    ("seconds_left", "validates", "near"),
    [(3.5, False, False), (2.5, False, True), (12.5, True, False), (11.5, True, True)],
)
def test_what_comes_next_and_its_commit_must_fit(seconds_left, validates, near):
    """A step takes 1 s, a commit 2 s, a validation 10 s, known or estimated from 10 steps' pairs."""
    for validation_seconds in (10.0, None):
        began = time.monotonic() + seconds_left - 3600
        deadline = Deadline(began, 1.0, 10.0, 1.0, 2.0, validation_seconds)
        assert deadline.is_near(validates=validates) == near
    assert not Deadline(began, None, 10.0).is_near(validates=validates)
