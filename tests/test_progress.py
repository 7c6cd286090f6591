from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from treelstm import train
from treelstm.progress import duration

LOOK = "from treelstm.progress import watched; print(watched())"


@pytest.mark.filterwarnings("default")
def test_a_notebook_in_jupyterlab_is_watched_and_one_under_papermill_is_not():
    manager, client = start_new_kernel()
    try:
        for somebody_could_type in (True, False):  # JupyterLab says yes, papermill and nbconvert say no
            said: list[str] = []
            client.execute_interactive(
                LOOK,
                allow_stdin=somebody_could_type,
                timeout=120,
                output_hook=lambda message, said=said: said.append(message["content"].get("text", "")),
            )
            assert "".join(said).strip() == str(somebody_could_type)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (25_500, "7 h 05 min")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


needs_full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a full disk")


@needs_full_disk
def test_a_log_that_the_disk_refuses_is_said_once_and_harms_no_run(config, capsys):
    config.output_path.mkdir()
    (config.output_path / "training.log").symlink_to("/dev/full")
    assert train(config).finished
    (line,) = capsys.readouterr().err.splitlines()
    assert "training.log: [Errno 28] No space left on device" in line


@needs_full_disk
@pytest.mark.parametrize("errors", ["PIPE", "full"])
def test_a_console_that_refuses_lines_is_said_once_and_harms_no_run(config, errors):
    words = [sys.executable, "-m", "treelstm", "train", *config.flags()]
    with Path("/dev/full").open("wb") as full:
        where = subprocess.PIPE if errors == "PIPE" else full
        done = subprocess.run(words, stdout=full, stderr=where, timeout=120)
    assert "finished: epoch 3" in (config.output_path / "training.log").read_text()
    assert done.returncode == 0
    if errors == "PIPE":
        assert done.stderr.decode().splitlines() == [
            "no line can be added to the console: [Errno 28] No space left on device"
        ]
