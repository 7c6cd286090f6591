from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_config
from runs import copy

from treelstm import train, widgets
from treelstm.checkpoint import CheckpointError, run_status


@pytest.fixture(scope="session")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("picked") / "run"
    train(tiny_config(tiny, output_dir, epochs=2))
    return output_dir


def test_the_table_lists_every_checkpoint_newest_first_and_names_damage(finished, tmp_path):
    run = copy(finished, tmp_path / "run")
    (run / "checkpoint_epoch_1.pt").write_bytes(b"<b>")
    html = widgets.checkpoint_table(run).data
    rows = html.split("<tr>")[2:]
    assert "verified" in rows[0] and "<td>2 ★</td>" in rows[0]
    assert "is damaged" in rows[1] and len(rows) == 2


def test_the_choices_value_is_what_train_takes(finished):
    choice = widgets.checkpoint_choice(finished, "auto")
    assert choice.value == "auto"
    choice.label = "checkpoint_epoch_1.pt"
    assert choice.value == str(finished / "checkpoint_epoch_1.pt")
    given = widgets.checkpoint_choice(finished, str(finished / "checkpoint_epoch_2.pt"))
    assert given.label == "checkpoint_epoch_2.pt"


@pytest.mark.parametrize("resume", [None, "checkpoint_epoch_9.pt"])
def test_a_default_that_is_no_choice_is_refused(finished, resume):
    with pytest.raises(CheckpointError, match="names no whole checkpoint"):
        widgets.checkpoint_choice(finished, resume)


def test_status_tells_finished_running_stopped_and_killed_apart(finished, tiny, tmp_path):
    run = copy(finished, tmp_path / "run")
    assert "is finished: epoch 2\nlast line of its log: " in str(run_status(run))
    (run / "final_model.pt").unlink()
    (run / "training.log").write_text("2026-01-01 00:00:00  epoch 2/9  train 0.1\n")
    assert "not running and not finished" in str(run_status(run))
    (run / "training.log").write_text("2026-01-01 00:00:00  stopped by SIGTERM: epoch 2\n")
    assert "is stopped by SIGTERM; newest commit: epoch 2" in str(run_status(run))
    code = (
        "import sys, time; from pathlib import Path; from treelstm.checkpoint import only_writer\n"
        "with only_writer(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert f"being trained by process {process.pid} on " in str(run_status(run))
        process.kill()
