from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_config

from treelstm import Listener, train
from treelstm.files import WriteFailed
from treelstm.run.lock import RunInUse, holder

HOLD = """
import sys, time
from pathlib import Path
from treelstm.run.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path: Path):
    """A real process that holds tmp_path/run, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_holds_the_directory(tiny, tmp_path, other_process):
    pattern = rf"run is in use by process {other_process.pid} on \S+ since \d{{4}}-\d\d-\d\dT"
    with pytest.raises(RunInUse, match=pattern):
        train(tiny_config(tiny, tmp_path / "run"))


def test_the_lock_of_a_killed_process_does_not_block(tiny, tmp_path, other_process):
    other_process.kill()
    other_process.wait()
    assert holder(tmp_path / "run") is None
    assert train(tiny_config(tiny, tmp_path / "run", epochs=1)).finished


def test_a_leftover_temporary_file_is_cleared_at_the_next_start(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    leftover = tmp_path / "run" / ".checkpoint_epoch_1.pt.tmp"
    leftover.write_bytes(b"half")
    train(tiny_config(tiny, tmp_path / "run", epochs=1))
    assert not leftover.exists()


def test_an_output_directory_that_cannot_be_made_is_a_clear_error(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteFailed, match=r"file/run cannot be written to"):
        train(tiny_config(tiny, tmp_path / "file" / "run"))


def test_a_directory_removed_while_training_is_a_clear_error(tiny, tmp_path):
    class Removes(Listener):
        def on_step(self, run):
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(
        WriteFailed, match=r"No such file or directory: .*checkpoint_epoch_1\.pt needs [\d,]+ bytes"
    ):
        train(tiny_config(tiny, tmp_path / "run"), listeners=[Removes()])
