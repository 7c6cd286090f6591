from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from conftest import tiny_config

from treelstm.commands import main
from treelstm.run.lock import only_writer


@pytest.fixture
def small(tiny, tmp_path) -> list[str]:
    return tiny_config(tiny, tmp_path / "run", epochs=1).flags()


def test_train_then_evaluate_print_metrics_beside_a_baseline(small, tiny, tmp_path, capsys):
    assert main(["train", *small]) == 0
    paths = ["--output-dir", str(tmp_path / "run"), "--validation-dir", str(tiny / "validation")]
    assert main(["evaluate", *paths]) == 0
    out = capsys.readouterr().out
    assert "best_model.pt on 72 pairs" in out and "bag of symbols" in out and "majority 0.667" in out


def test_a_missing_checkpoint_by_path_ends_with_status_1_and_no_traceback(small, tmp_path, capsys):
    assert main(["train", *small, "--resume", str(tmp_path / "checkpoint_epoch_7.pt")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("MissingCheckpoint: ")
    assert "no such file. Name an existing checkpoint" in error and "Traceback" not in error


def test_missing_data_ends_with_status_3_and_faulty_data_with_1(small, tiny, tmp_path, capsys):
    assert main(["train", "--data-dir", str(tmp_path / "none"), "--output-dir", str(tmp_path)]) == 3
    assert "none: no such directory" in capsys.readouterr().err
    data = Path(shutil.copytree(tiny / "training", tmp_path / "data"))
    (data / "positive_pairs.jsonl").write_text("{\n")
    small[small.index("--data-dir") + 1] = str(data)
    assert main(["train", *small]) == 1
    assert "positive_pairs.jsonl:1: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["train", "--epochs", "0"], ["train", "--epochs", "x"], ["train", "--epoch-s", "3"], ["fly"], []],
)
def test_bad_usage_ends_with_status_2(words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate --epochs 3", "--epochs: evaluate has no such flag"),
        ("evaluate --batch-size=3", "--batch-size=3: evaluate has no such flag"),
        (
            "train --checkpoint 5",
            "--checkpoint: train has no such flag. Did you mean --check",
        ),
        ("preflight --compare-with x.pt", "--compare-with: preflight has no such flag"),
        ("train --epochz 3", "--epochz: train has no such flag. Did you mean --epochs"),
        ("train --epoch 3", "--epoch: train has no such flag. Did you mean --epochs"),
        ("sample --negative 3", "--negative: sample has no such flag. Did you mean --negatives"),
    ],
)
def test_a_command_accepts_only_the_flags_it_reads_and_names_the_closest(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_status_tells_how_a_run_stands(small, tmp_path, capsys):
    assert main(["train", *small]) == 0
    capsys.readouterr()
    assert main(["status", str(tmp_path / "run")]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith("run is finished: epoch 1") and "last line of its log: " in last


def test_status_of_a_directory_without_a_run_ends_with_status_1_and_says_so(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 1
    assert f"CheckpointError: {tmp_path} holds no checkpoint." in capsys.readouterr().err


def test_evaluate_refuses_a_gpu_that_is_not_there(small, tmp_path, monkeypatch, capsys):
    assert main(["train", *small]) == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    words = ["evaluate", "--output-dir", str(tmp_path / "run"), *small[small.index("--data-dir") :][:2]]
    assert main([*words, "--device", "cuda"]) == 1
    message = 'ConfigError: device is "cuda", but torch sees no GPU. Set device="cpu" or "auto".'
    assert message in capsys.readouterr().err
    assert main([*words, "--device", "cpu"]) == 0


def test_paths_on_the_command_line_start_where_the_shell_is(tiny, tmp_path, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    small[small.index("--output-dir") + 1] = "here"
    assert main(["train", *small]) == 0
    assert (tmp_path / "here" / "final_model.pt").is_file()


def test_sample_writes_a_corpus_and_refuses_to_overwrite_it(tmp_path, capsys):
    words = ["sample", "--data-dir", str(tmp_path / "s"), "--positives", "4", "--negatives", "6"]
    assert main(words) == 0
    assert "10 pairs written" in capsys.readouterr().out
    assert main(words) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU])
def test_a_signal_that_stops_commits_and_gives_the_exit_status(small, tmp_path, number):
    small[small.index("--epochs") + 1] = "100000"
    process = subprocess.Popen([sys.executable, "-m", "treelstm", "train", *small])
    first = tmp_path / "run" / "checkpoint_epoch_1.pt"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert f"stopped by {number.name}" in (tmp_path / "run" / "training.log").read_text()
    assert not [path for path in Path(tmp_path / "run").iterdir() if path.name.endswith(".tmp")]


def test_the_package_runs_without_a_home_or_a_terminal(small):
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", "treelstm", "train", *small],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "finished: epoch 1" in done.stdout


# --- Ctrl-C ------------------------------------------------------------------------------------


def handles_signals(process: subprocess.Popen[str]) -> bool:
    """Whether the process has come as far as `__main__.py`, from Linux's record of its handlers."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)  # type: ignore[index]
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("words", "delays"),
    [
        (["train"], (0, 0.2, 0.5, 1, 2)),
        (["preflight"], (1.2,)),
        (["evaluate"], (0.1,)),
        (["status"], (0.3,)),
        (["sample", "--positives", "100000"], (0.1, 1)),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_command_starts_is_one_line_at_most(small, tmp_path, words, delays, number):
    flags = small if words[0] in ("train", "preflight") else []
    if words[0] == "sample":
        flags = ["--data-dir", str(tmp_path / "sample")]
    for delay in delays:
        command = [sys.executable, "-m", "treelstm", *words, *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not handles_signals(process):
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
        if process.returncode == 128 + number:
            assert error == ("interrupted\n" if number == signal.SIGINT else ""), (delay, error)
        else:  # it had ended by itself
            assert process.returncode in (0, 1) and "Traceback" not in error, (delay, error)


# --- odd machines ------------------------------------------------------------------------------

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("environment", "closed"),
    [
        ({}, ">&-"),
        ({}, "<&- >&- 2>&-"),
        ({**ASCII, "PYTHONIOENCODING": "ascii:strict"}, ""),
        ({**ASCII, "PYTHONIOENCODING": "latin-1"}, ""),
    ],
)
def test_commands_work_without_streams_or_with_narrow_ones_on_paths_of_any_name(
    tiny, tmp_path, environment, closed
):
    run = tmp_path / "n\u00e4he \u4e2d"
    flags = tiny_config(tiny, run, epochs=1, num_threads=1).flags()
    for words in (["train", *flags], ["status", str(run)]):
        line = f"{shlex.join([sys.executable, '-m', 'treelstm', *words])} {closed}"
        done = subprocess.run(
            ["sh", "-c", line],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
            | environment,
            capture_output=True,
        )
        assert done.returncode == 0 and done.stderr == b"", done.stderr
    log = (run / "training.log").read_text(encoding="utf-8")
    assert f"finished: epoch 1, step 5, best epoch 1, in {run}" in log


@pytest.mark.skipif(
    not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can change its user"
)
def test_a_user_without_a_password_entry_and_without_a_home_can_train(small, tiny, tmp_path):
    """In a process that has trained before, since such a user may not read this Python's own files."""
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == "root" and path != Path(tempfile.gettempdir()) and "pytest" in str(path):
            path.chmod(0o755)
    shutil.copytree(tiny, tmp_path / "data")
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "other", tmp_path / "data", *(tmp_path / "data").rglob("*")):
        os.chown(path, 12345, 12345)
    flags = tiny_config(tmp_path / "data", tmp_path / "other", epochs=1).flags()
    code = (
        "import os, sys\n"
        "from treelstm.commands import main\n"
        f"assert main(['train', *{small}]) == 0\n"
        "b'x'.decode('cp437')  # what zipfile needs is read now\n"
        "os.setuid(12345)\n"
        f"sys.exit(main(['train', *{flags}]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "finished: epoch 1" in (tmp_path / "other" / "training.log").read_text()


def test_evaluate_takes_the_pairs_that_the_run_held_out_unless_others_are_named(tiny, tmp_path, capsys):
    config = dataclasses.replace(tiny_config(tiny, tmp_path / "run", epochs=1), validation_dir=None)
    assert main(["train", *config.flags()]) == 0
    run = ["--output-dir", str(tmp_path / "run")]
    said = []
    for words in ([], ["--data-dir", str(tiny / "training")]):
        capsys.readouterr()
        assert main(["evaluate", *run, *words]) == 0
        said.append(capsys.readouterr().out)
    assert "best_model.pt on 7 pairs that its run held out" in said[0]
    assert f"best_model.pt on 72 pairs of {tiny / 'training'}" in said[1]


def test_status_shows_the_first_line_of_an_error_and_a_run_before_its_first_commit(
    small, tmp_path, capsys
):
    run = tmp_path / "run"
    assert main(["train", *small]) == 0
    assert main(["train", *small, "--seed", "7", "--dropout", "0.3"]) == 1
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    assert re.search(r"its log: \d{4}-.* SettingsChanged: .* cannot be resumed", capsys.readouterr().out)
    with only_writer(tmp_path / "other"):
        assert main(["status", str(tmp_path / "other")]) == 0
    assert "has no commit yet. Try again later." in capsys.readouterr().out
