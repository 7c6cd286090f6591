from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from runs import copy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from treelstm import load_checkpoint, train
from treelstm.run.tensorboard import encoded, write_events

pytestmark = pytest.mark.filterwarnings("default")  # TensorBoard's reader is not ours

TAGS = {
    "loss/train",
    "loss/validation",
    "accuracy/train",
    "accuracy/validation",
    "validation/roc_auc",
    "validation/average_precision",
    "pace/learning_rate",
    "pace/pairs_per_second",
    "pace/seconds",
}


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("events") / "run"
    train(tiny_config(tiny, run, epochs=4))
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return copy(finished, tmp_path / "run")


def event_file(run: Path) -> Path:
    """The only one with anything in it."""
    (path,) = (path for path in (run / "tensorboard").iterdir() if path.stat().st_size)
    return path


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_tensorboard_reads_every_epoch_once(finished):
    found = curves(finished)
    assert found.keys() == TAGS
    for tag, points in found.items():
        assert [step for step, _ in points] == [1, 2, 3, 4], tag
    history = load_checkpoint(finished / "checkpoint_epoch_4.pt")["history"]
    losses = [record["validation_loss"] for record in history]
    assert [value for _, value in found["loss/validation"]] == pytest.approx(losses)
    assert all(value > 0 for _, value in found["pace/pairs_per_second"])
    reader = EventAccumulator(str(finished / "tensorboard"))
    reader.Reload()


def test_a_kill_in_the_middle_of_an_append_is_healed_wherever_it_came(run):
    content = load_checkpoint(run / "checkpoint_epoch_4.pt")
    whole = event_file(run).read_bytes()
    assert whole == encoded(content)
    for size in (*range(0, len(whole), 61), len(whole) - 1):
        event_file(run).write_bytes(whole[:size])
        write_events(run, content)
        assert event_file(run).read_bytes() == whole, size


def test_a_growing_file_is_appended_to_and_any_other_is_replaced(run):
    content = load_checkpoint(run / "checkpoint_epoch_4.pt")
    write_events(run, load_checkpoint(run / "checkpoint_epoch_2.pt"))
    shorter = event_file(run).stat()
    write_events(run, content)
    assert event_file(run).stat().st_ino == shorter.st_ino  # a live TensorBoard reads on
    event_file(run).write_bytes(b"x" + event_file(run).read_bytes())
    write_events(run, content)
    assert event_file(run).read_bytes() == encoded(content)


@pytest.mark.parametrize("reader", ["accumulator", "multiplexer"])
def test_a_live_tensorboard_shows_the_new_curves_when_the_file_had_to_be_made_anew(tiny, run, reader):
    """A run goes back to epoch 2 and on with another margin; the reader goes on as the server's does."""
    if reader == "accumulator":
        live: Any = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
        shown = live
    else:
        live = EventMultiplexer({"run": str(run / "tensorboard")})
        shown = live.GetAccumulator("run")

    def points() -> list[tuple[int, float]]:
        live.Reload()
        if reader == "accumulator":
            return [(event.step, event.value) for event in shown.Scalars("loss/validation")]
        events = shown.Tensors("loss/validation")
        return [(event.step, event.tensor_proto.float_val[0]) for event in events]

    before = [value for _, value in points()]
    assert len(before) == 4
    content = load_checkpoint(run / "checkpoint_epoch_4.pt")
    for lower in (0.5, 0.25):  # twice: a file that was made anew is left in its turn
        content["config"]["margin"] = lower
        content["history"] = [
            {**record, "validation_loss": lower * loss}
            for record, loss in zip(content["history"][:3], before, strict=False)
        ]
        write_events(run, content)
        assert points() == [(k + 1, pytest.approx(lower * before[k])) for k in range(3)]
        assert event_file(run).read_bytes() == encoded(content)
    train(tiny_config(tiny, run, epochs=5))
    assert [step for step, _ in points()] == [1, 2, 3, 4, 5]


def test_a_kill_between_two_files_and_the_file_of_an_earlier_version_leave_one_file(run):
    content = load_checkpoint(run / "checkpoint_epoch_4.pt")
    directory = run / "tensorboard"
    event_file(run).rename(directory / "events.out.tfevents.treelstm")
    (directory / "events.out.tfevents.treelstm.000007").write_bytes(encoded(content)[:100])
    (directory / "events.out.tfevents.mine").write_bytes(b"a user's own")
    write_events(run, content)
    assert (directory / "events.out.tfevents.mine").read_bytes() == b"a user's own"
    (directory / "events.out.tfevents.mine").unlink()
    assert event_file(run).name.endswith(".000007")
    assert event_file(run).read_bytes() == encoded(content)


def test_going_back_to_an_earlier_checkpoint_leaves_no_step_backwards(tiny, run):
    config = tiny_config(tiny, run, epochs=5)
    train(dataclasses.replace(config, resume=str(run / "checkpoint_epoch_2.pt")))
    for points in curves(run).values():
        assert [step for step, _ in points] == [1, 2, 3, 4, 5]


def test_timings_travel_with_the_commit_but_are_no_part_of_the_history(tiny, run):
    content = load_checkpoint(run / "checkpoint_epoch_4.pt")
    assert [timing["epoch"] for timing in content["timings"]] == [1, 2, 3, 4]
    assert not {"seconds", "pairs_per_second", "ended"} & content["history"][0].keys()
    train(tiny_config(tiny, run, epochs=5))
    later = load_checkpoint(run / "checkpoint_epoch_5.pt")["timings"]
    assert later[:4] == content["timings"] and len(later) == 5


def test_a_disk_that_refuses_the_curves_is_said_and_harms_nothing(tiny, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "tensorboard").write_text("in the way")
    assert train(tiny_config(tiny, run)).finished
    assert "TensorBoard's file is behind, the next epoch tries again: " in capsys.readouterr().out
