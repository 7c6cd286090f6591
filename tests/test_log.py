from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_config
from runs import StopAfter

from treelstm import run_status, train

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


def test_logs_rotate_and_the_status_is_right_just_after(tiny, tmp_path):
    log = tmp_path / "run" / "training.log"
    log.parent.mkdir()
    for epoch in range(1, 5):
        with log.open("a") as file:
            file.write("2026-01-01 00:00:00  a line of a long run\n" * 125_000)
        train(tiny_config(tiny, tmp_path / "run", epochs=epoch))
    train(tiny_config(tiny, tmp_path / "run", epochs=9), listeners=[StopAfter(7)])
    names = sorted(path.name for path in log.parent.glob("training.log*"))
    assert names == ["training.log", "training.log.1", "training.log.2", "training.log.3"]
    assert log.stat().st_size < 100_000 and "epoch 4/4" in log.read_text()
    log.replace(log.with_name("training.log.1"))
    status = run_status(tmp_path / "run")
    assert "stopped by you (stop button" in status.last_line and "Ctrl-C); newest" in str(status)
