"""The warning that a run has not yet learned more than one distance for all pairs."""

from __future__ import annotations

import re

import pytest
from conftest import tiny_config

from treelstm import load_corpus, train
from treelstm.listeners import OneDistance
from treelstm.run.state import new_run

WORDS = "still at the loss of one distance for all"


def test_a_stuck_run_says_so_and_the_same_again_when_it_is_resumed(tiny, tmp_path):
    settings = {"learning_rate": 1e-7, "batch_size": 4, "epochs": 14}  # 18 steps an epoch
    run = tmp_path / "run"
    train(tiny_config(tiny, run, **settings))
    history = (run / "training_history.json").read_bytes()
    train(tiny_config(tiny, run, **settings, resume=str(run / "checkpoint_epoch_13.pt")))
    assert (run / "training_history.json").read_bytes() == history
    first, again = re.findall(f"epoch 14/14 .*\n.*  {WORDS}(.*)", (run / "training.log").read_text())
    assert "margin=3" in first and "bag_of_symbols" not in first
    assert first == again and first.startswith(": 0.22") and "in training, 0.006944 if" in first


def warned(losses, tiny, tmp_path, caplog, **settings) -> list[int]:
    """The epochs after which a run with these training losses warns."""
    config = tiny_config(tiny, tmp_path / "run", **settings)
    run, listener, epochs = new_run(config, load_corpus(config)), OneDistance(), []
    listener.on_start(run)
    for loss in losses:
        run.history.append({"epoch": len(run.history) + 1, "train_loss": loss})
        caplog.clear()
        listener.on_epoch(run.history[-1])
        epochs += [len(run.history)] * (WORDS in caplog.text)
    return epochs


@pytest.mark.parametrize(
    ("losses", "settings", "expected"),
    [
        ([0.007] * 16, {}, [5, 10, 15]),
        ([0.3, 0.1, 0.05, 0.02, 0.009, 0.0072, 0.0071, 0.007, 0.0069], {}, [7]),
        ([0.007] * 4 + [0.001] * 3 + [0.007] * 3, {}, [8]),
        ([1.0] * 20, {"objective": "ranking", "batch_size": 2}, []),
        ([1.099] * 20, {"objective": "ranking", "batch_size": 2}, [19]),
        # The loss falls, from far above.
        ([0.16, 0.074, 0.026, 0.028, 0.019, 0.0144, 0.0128, 0.009, 0.006], {}, []),
        # The first 200 steps: 5 epochs of 5 steps, 40 before any counts.
        ([0.0244, 0.0244, 0.0244, 0.0244, 0.0244], {"batch_size": 16}, []),
        ([0.007] * 20, {"positive_margin": 1.0}, []),  # one distance for all would cost nothing
    ],
)
def test_it_is_said_once_in_five_epochs_while_the_loss_stays(
    losses, settings, expected, tiny, tmp_path, caplog
):
    settings = {"batch_size": 1, **settings}
    assert warned(losses, tiny, tmp_path, caplog, **settings) == expected
