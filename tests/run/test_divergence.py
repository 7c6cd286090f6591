from __future__ import annotations

import re

import pytest
from conftest import tiny_config
from runs import OnStep, StopAfter, rewrite

from treelstm import list_checkpoints, load_checkpoint, load_corpus, train
from treelstm.randomness import epoch_order
from treelstm.run.divergence import TrainingDiverged


def raise_the_rate(run, learning_rate):
    """In the newest commit, as only a fault could; its bytes before."""

    def change(content):
        content["optimizer_state_dict"]["param_groups"][0]["lr"] = learning_rate

    path = list_checkpoints(run)[-1].path
    return path, rewrite(path, change)


def test_a_loss_that_is_nan_stops_the_run_with_the_last_good_commit(tiny, run):
    def nan(state):
        if state.step == 2:
            state.epoch_sums[0] = float("nan")

    with pytest.raises(TrainingDiverged, match=r"the loss is nan in epoch 4, .*lower learning_rate"):
        train(tiny_config(tiny, run, epochs=5), listeners=[OnStep(nan)])
    assert list_checkpoints(run)[-1].path.name == "checkpoint_epoch_3.pt"
    load_checkpoint(run / "checkpoint_epoch_3.pt")


@pytest.mark.parametrize(
    ("learning_rate", "what"),
    [(1e30, r"the loss is (nan|inf)"), (1e4, r"the loss is \d")],
    ids=["not finite", "exploded"],
)
def test_a_diverged_run_names_the_step_the_pairs_and_the_norms_and_keeps_the_last_commit(
    tiny, tmp_path, learning_rate, what
):
    # Without the bag, whose gain would overflow in the same step.
    settings = {"epochs": 6, "checkpoint_every_seconds": 1e9, "bag_of_symbols": False}
    config = tiny_config(tiny, tmp_path / "run", **settings)
    train(config, listeners=[StopAfter(12)])
    path, good = raise_the_rate(tmp_path / "run", learning_rate)
    with pytest.raises(TrainingDiverged, match=what) as caught:
        train(config)
    said = str(caught.value)
    assert re.search(r"norm of the gradient \S+, of the weights \S+ before and \S+ after", said)
    number = int(re.search(r"It went wrong in epoch 3, step (\d)", said)[1])
    assert number == 3
    corpus = load_corpus(config)
    order = epoch_order(config.seed, 3, len(corpus.training))
    expected = {corpus.training.where(k) for k in order[16 * (number - 1) : 16 * number].tolist()}
    found = re.findall(r"(\S+pairs\.jsonl) line ([\d, ]+)", said)
    assert {f"{path}:{line}" for path, lines in found for line in lines.split(", ")} == expected
    assert list_checkpoints(tmp_path / "run")[-1].position == (2, 2)
    assert said in (tmp_path / "run" / "training.log").read_text()
    path.write_bytes(good)
    assert train(config).finished  # the cause gone, the same command goes on


def test_a_fault_that_a_replay_does_not_repeat_is_laid_to_the_machine(tiny, tmp_path):
    def faulty(state):
        if state.steps_done == 7:
            state.encoder.embedding.data[3] = float("nan")

    with pytest.raises(TrainingDiverged, match=r"A replay of the same steps .* suspect the memory"):
        train(tiny_config(tiny, tmp_path / "run"), listeners=[OnStep(faulty)])


def test_weights_that_explode_in_an_epochs_last_step_are_not_committed(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run")
    train(config, listeners=[StopAfter(9)])
    raise_the_rate(tmp_path / "run", 1e6)
    with pytest.raises(TrainingDiverged, match="It went wrong in epoch 2, step 5: loss 0"):
        train(config)
    assert list_checkpoints(tmp_path / "run")[-1].position == (1, 4)


def test_weights_that_went_bad_in_the_last_step_before_a_commit_are_not_committed(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", checkpoint_every_seconds=0)
    train(config, listeners=[StopAfter(7)])
    raise_the_rate(tmp_path / "run", 3e38)  # its loss is fine, only the weights after it are not
    with pytest.raises(TrainingDiverged, match=r"epoch 2, step 3: loss 0.* and (inf|nan) after"):
        train(config)
    assert list_checkpoints(tmp_path / "run")[-1].position == (1, 2)


@pytest.mark.parametrize(
    ("learning_rate", "bag"), [(1e-4, True), (1e-2, True), (0.1, True), (1.0, False)]
)
def test_a_rate_that_is_merely_too_high_is_no_divergence(tiny, tmp_path, learning_rate, bag):
    settings = {"learning_rate": learning_rate, "checkpoint_every_seconds": 0, "epochs": 4}
    settings["bag_of_symbols"] = bag  # whose gain moves by factors: exp(20 g)
    assert train(tiny_config(tiny, tmp_path / "run", **settings)).finished
