"""Real processes that train one run, with real kills. `benchmarks/torture.py --processes 2` has more."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import tiny_config
from groups import WORKER, Command, newest_commit, train_command
from pages import SLOW, Papermill, write_page
from runs import assert_same_run
from services import webhook

import treelstm
from treelstm import Config, Listener
from treelstm.config import ConfigError
from treelstm.data.problems import DataError
from treelstm.launch import WorkersLost
from treelstm.run.lock import holder

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT


def long_config(tiny: Path, run: Path) -> Config:
    return tiny_config(tiny, run, epochs=25, shards=2, num_threads=1)


@pytest.fixture(scope="module")
def alone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> treelstm.History:
    return treelstm.train(long_config(tiny, tmp_path_factory.mktemp("alone") / "run"))


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def kill_a_worker(run: Path, rank: str) -> None:
    """In the fourth epoch."""
    until(lambda: newest_commit(run) > (4, 0))
    next(each for each in workers() if each.environ()["RANK"] == rank).kill()


def workers() -> list[psutil.Process]:
    """Of this process."""
    return [each for each in psutil.Process().children() if "RANK" in each.environ()]


def outcome(run: Path) -> str:
    return str(json.loads((run / "run.json").read_bytes())["outcome"])


def launch_directories() -> list[Path]:
    return [*Path(tempfile.gettempdir()).glob(f"treelstm-night-{os.getpid()}-*")]


def test_two_processes_one_of_which_is_killed_give_the_bits_of_one_and_leave_nothing(
    tiny, alone, tmp_path, monkeypatch, capfd
):
    """resume=None is no reason to begin anew when the workers are started again."""
    run = tmp_path / "run"
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with webhook() as hook:
        monkeypatch.setenv("TREELSTM_NOTIFY_URLS", hook.address)
        environment = dict(os.environ)
        killer = threading.Thread(target=kill_a_worker, args=(run, "1"))
        killer.start()
        config = replace(long_config(tiny, run), processes=2, resume=None)
        history = treelstm.train(config)
        killer.join()
        assert [message["title"].split(": ")[1] for message in hook.messages] == ["finished"]
    assert history == replace(alone, output_dir=run)
    assert_same_run(alone.output_dir, run)
    log = (run / "training.log").read_text()
    assert log.count("restart 1 of at most 20") == 1 and "resuming" in log
    assert not (run / "superseded").exists()
    printed, errors = capfd.readouterr()
    assert errors == "" and printed.count("\nfinished: epoch 25") == 1
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert dict(os.environ) == environment
    assert not launch_directories() and not workers()


def test_an_error_in_a_worker_is_raised_here_in_the_same_words_after_which_all_is_as_before(
    tiny, tmp_path, capfd
):
    config = tiny_config(tiny, tmp_path / "run", shards=2)
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "pairs.jsonl").write_text('{"label": 2}\n')
    faulty = replace(config, data_dir=str(tmp_path / "pairs"))
    with pytest.raises(DataError) as of_one:
        treelstm.train(faulty)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    environment = dict(os.environ)
    with pytest.raises(DataError) as of_two:
        treelstm.train(replace(faulty, processes=2))
    assert str(of_two.value) == str(of_one.value)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert dict(os.environ) == environment and not launch_directories()
    assert "Traceback" not in capfd.readouterr().err
    assert holder(tmp_path / "run") is None


def test_what_cannot_be_trained_so_is_refused_before_anything_starts(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", shards=2, processes=2)
    with pytest.raises(ConfigError, match="Set processes=1 to train with your own"):
        treelstm.train(config, listeners=[Listener()])
    with pytest.raises(ConfigError, match="3 processes for shards=2"):
        treelstm.train(replace(config, processes=3))
    assert not (tmp_path / "run").exists() and not workers()


def test_ctrl_c_twice_commits_and_a_killed_launcher_is_followed_by_the_same_command(
    tiny, alone, tmp_path
):
    """Then its workers are committing, and the next one waits for them."""
    run, console = tmp_path / "run", tmp_path / "console.txt"
    config = replace(long_config(tiny, run), processes=2)
    first = Command(train_command(config), console)
    until(lambda: newest_commit(run) > (4, 0))
    for _ in range(2):
        first.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert first.process.wait(20) == 128 + signal.SIGINT
    first.wait_for_all(5)
    last = console.read_text().splitlines()[-1]
    assert last.startswith("stopped by you (stop button or Ctrl-C): epoch ")
    assert "Traceback" not in console.read_text()
    assert outcome(run) == "stopped by SIGINT"

    at = newest_commit(run)
    second = Command(train_command(config), console)
    until(lambda: newest_commit(run) > at)
    second.process.kill()
    second.process.wait()
    treelstm.train(replace(config, processes=1))
    second.wait_for_all(1)
    assert_same_run(alone.output_dir, run)


@pytest.mark.long
def test_processes_that_are_killed_too_often_end_in_one_message(tiny, tmp_path):
    run = tmp_path / "run"
    config = replace(long_config(tiny, run), processes=2, max_restarts=0)
    threading.Thread(target=kill_a_worker, args=(run, "0")).start()
    with pytest.raises(WorkersLost, match=r"^process 0 was killed by SIGKILL .* after 0 restarts .*$"):
        treelstm.train(config)
    assert holder(run) is None and newest_commit(run) >= (4, 0)


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # Jupyter's packages warn
def test_a_night_of_two_processes_through_a_killed_kernel(tiny, alone, tmp_path, monkeypatch):
    """What the first worker says is in the executed page, whose kernel resumes a run that had begun."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with it, kernels do not show what their children print
    run, page = tmp_path / "run", write_page(tmp_path / "page.ipynb")
    notebook = nbformat.read(page, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.source != SLOW]  # a listener
    nbformat.write(notebook, page)
    config = replace(long_config(tiny, run), processes=2, resume=None)
    with webhook() as hook:
        night = Papermill(page, config, "--engine", "treelstm", TREELSTM_NOTIFY_URLS=hook.address)
        night.until_epoch(4)
        (kernel,) = psutil.Process(night.process.pid).children()
        kernel.kill()
        assert night.wait() == 0, night.console.read_text()
        events = [message["title"].split(": ")[1] for message in hook.messages]
    assert events == ["restarted", "finished"]
    printed = [
        each.get("text", "") for cell in night.notebook().cells for each in cell.get("outputs", ())
    ]
    assert "resuming" in "".join(printed) and "\nfinished: epoch 25" in "".join(printed)
    assert night.notebook().metadata.treelstm.outcome == "finished"
    assert_same_run(alone.output_dir, run)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_bare_torchrun_that_ends_leaves_a_commit_and_no_process(tiny, alone, tmp_path, number):
    run, console = tmp_path / "run", tmp_path / "console.txt"
    flags = long_config(tiny, run).flags()
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words += ["--max-restarts=3", "-m", "treelstm", "train", *flags]
    first = Command(words, console)
    until(lambda: newest_commit(run) > (4, 0))
    at = newest_commit(run)
    first.kill(WORKER, random.Random(0))
    until(lambda: newest_commit(run) > at)
    first.process.send_signal(number)
    first.process.wait(30)
    first.wait_for_all()
    assert holder(run) is None and outcome(run) == "stopped by SIGTERM"
    assert subprocess.run(words, check=False, capture_output=True).returncode == 0
    assert_same_run(alone.output_dir, run)
