from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config

from treelstm import load_checkpoint
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
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("run is finished: epoch 1")


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


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(each, marks=pytest.mark.long) for each in (signal.SIGUSR1, signal.SIGXCPU)),
    ],
)
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
        pytest.param({}, ">&-", marks=pytest.mark.long),
        ({}, "<&- >&- 2>&-"),
        pytest.param({**ASCII, "PYTHONIOENCODING": "ascii:strict"}, "", marks=pytest.mark.long),
        pytest.param({**ASCII, "PYTHONIOENCODING": "latin-1"}, "", marks=pytest.mark.long),
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
    assert re.search(
        r"epoch 1; its log says: SettingsChanged: .* cannot be resumed", capsys.readouterr().out
    )
    with only_writer(tmp_path / "other"):
        assert main(["status", str(tmp_path / "other")]) == 0
    assert "has no commit yet. Try again later." in capsys.readouterr().out


# --- objectives --------------------------------------------------------------------------------

SCALE = "--objective graded --similarity-low 1 --similarity-high 5"


def records(directory: Path) -> list[Any]:
    lines = [
        path.read_text().splitlines() for path in sorted(directory.glob("*_pairs.jsonl"), reverse=True)
    ]
    return [json.loads(line) for line in chain(*lines)]


def written(directory: Path, pairs: list[Any], stem: str = "pairs") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{stem}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def graded(pairs: list[Any]) -> list[Any]:
    """Without labels, with similarities from 1 to 5."""
    kept = [{key: value for key, value in pair.items() if key != "label"} for pair in pairs]
    return [{**pair, "similarity": 1 + 4 * pair["similarity"]} for pair in kept]


def similar(pairs: list[Any]) -> list[Any]:
    return [pair for pair in pairs if pair["label"] == 1]


MAKE: dict[str, Callable[[Path, list[Any]], None]] = {
    "graded": lambda directory, pairs: written(directory, graded(pairs)),
    "positive": lambda directory, pairs: written(directory, similar(pairs), "positive_pairs"),
    "one file": lambda directory, pairs: written(directory, similar(pairs)),
}


@pytest.fixture
def corpus(tiny, tmp_path) -> Callable[..., list[str]]:
    """Writes a corpus of one kind and gives its flags."""

    def make(kind: str, validation: bool = True, change: Any = lambda pairs: pairs) -> list[str]:
        for part in ("training", "validation"):
            MAKE[kind](tmp_path / part, change(records(tiny / part)))
        config = tiny_config(tmp_path, tmp_path / "run", epochs=2, num_threads=1)
        return (config if validation else dataclasses.replace(config, validation_dir=None)).flags()

    return make


@pytest.mark.parametrize(
    ("kind", "flags", "shown", "headings"),
    [
        ("graded", SCALE, "Pearson", ("Pearson correlation", "Spearman", "mean squared error")),
        ("positive", "--objective ranking", "MRR", ("precision at 1", "mean reciprocal rank")),
        ("one file", "--objective ranking", "MRR", ("precision at 1", "mean reciprocal rank")),
    ],
)
@pytest.mark.parametrize("validation", [True, False])
def test_an_objective_without_two_classes_is_told_in_its_own_numbers_everywhere(
    corpus, tmp_path, capsys, kind, flags, shown, headings, validation
):
    words = [*corpus(kind, validation), *flags.split()]
    assert main(["preflight", *words]) == 0
    report = capsys.readouterr().out
    assert "majority" not in report and "not labelled" not in report
    assert main(["train", *words]) == 0
    run = ["--output-dir", str(tmp_path / "run")]
    assert main(["status", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f" {shown} " in said and " acc " not in said
    for named in ([], ["--data-dir", str(tmp_path / "validation")]):
        assert main(["evaluate", *run, *named]) == 0
        table = capsys.readouterr().out
        assert all(heading in table for heading in headings) and "ROC-AUC" not in table
        said += table
    history = (tmp_path / "run" / "training_history.json").read_text()
    events = b"".join(path.read_bytes() for path in (tmp_path / "run" / "tensorboard").iterdir())
    assert "nan" not in (said + history).lower() and b"roc_auc" not in events


def equal(pairs: list[Any]) -> list[Any]:
    return [{**pair, "similarity": 0.5} for pair in pairs]


def same_tree(pairs: list[Any]) -> list[Any]:
    return [{**pair, "ast2": pair["ast1"]} for pair in pairs]


@pytest.mark.parametrize(
    ("kind", "change", "flags", "message"),
    [
        ("graded", None, "--objective graded", r"pairs\.jsonl:\d+: similarity is .* 0 to 1: correct"),
        ("graded", None, "", r'pairs\.jsonl:1: label is missing, and 71 more .*objective="graded"'),
        ("graded", None, "--objective ranking", r"holds no similar pairs.*add pairs with label 1"),
        ("graded", equal, SCALE, r"from 3 to 3\..*not all equally similar"),
        ("graded", None, f"{SCALE} --best-by validation_roc_auc", "do not give.*validation_pearson"),
        ("graded", None, f"{SCALE} --best-by pearson", "no such number.*validation_pearson"),
        ("positive", None, "", r"negative_pairs\.jsonl: no such file.*'contrastive' needs"),
        ("positive", None, SCALE, r"positive_pairs\.jsonl:1: similarity is 0\.\d+, and \d+ more"),
        ("positive", same_tree, "--objective ranking", "no similar pair of two different trees"),
        ("positive", None, "--objective ranking --best-by validation_roc_auc", "do not give"),
        ("positive", None, "--objective ranking --batch-size 1", "batch_size is 1.*at least 2"),
        ("positive", None, "--objective ranking --temperature 1e-9", r"expected 0\.001 to 1000"),
        ("graded", None, f"{SCALE} --similarity-high 1", "similarity_low is 1, expected less than"),
        ("graded", None, "--objective graded --similarity-high inf", "is inf, expected a finite number"),
        ("one file", None, "--positive-margin 2", r"positive_margin is 2, margin 1\. Lower"),
        ("one file", None, "--hidden-dim 0 --no-bag-of-symbols", "needs bag_of_symbols=True"),
    ],
)
def test_pairs_or_settings_that_an_objective_cannot_use_are_one_message_before_the_night(
    corpus, tmp_path, capsys, kind, change, flags, message
):
    words = [*corpus(kind, True, change or (lambda pairs: pairs)), *flags.split()]
    for command in ("preflight", "train"):
        try:
            status = main([command, *words])
        except SystemExit as bad_usage:
            status = int(bad_usage.code or 0)
        said = "".join(capsys.readouterr())
        assert status in (1, 2, 3) and re.search(message, said), said
        assert said.count("similarity is") <= 1 and "Traceback" not in said
    assert not list((tmp_path / "run").glob("*.pt"))


def test_what_an_objective_needs_is_asked_of_the_validation_pairs_too(corpus, tiny, tmp_path, capsys):
    words = corpus("graded")
    words[words.index("--validation-dir") + 1] = str(tiny / "validation")
    assert main(["train", *words, *SCALE.split()]) == 1
    assert f"{tiny / 'validation'}" in capsys.readouterr().err
    words[words.index("--data-dir") + 1] = str(tiny / "training")
    words[words.index("--validation-dir") + 1] = str(tmp_path / "validation")
    assert main(["train", *words]) == 1
    assert "validation/pairs.jsonl:1: label is missing" in capsys.readouterr().err


def test_pairs_that_are_there_twice_are_refused(corpus, tiny, tmp_path, capsys):
    words = corpus("graded")
    shutil.copy(tiny / "training" / "positive_pairs.jsonl", tmp_path / "training")
    assert main(["train", *words, *SCALE.split()]) == 3
    assert "pairs.jsonl: positive_pairs.jsonl is there too. Keep pairs.jsonl" in capsys.readouterr().err


def test_the_ranking_objective_says_that_dissimilar_pairs_are_not_trained_on(small, capsys):
    words = [*small, "--objective", "ranking"]
    assert main(["preflight", *words]) == 0
    said = capsys.readouterr().out
    assert "training: 24 similar pairs; the 48 others" in said and "metadata.json says" not in said
    assert "each tree of the first batch is compared with 30 to 30 trees that differ" in said
    assert main(["train", *words]) == 0
    assert "24 training pairs (only similar ones), 72 validation pairs" in capsys.readouterr().out


def test_a_ranking_without_negatives_in_a_batch_is_no_go(corpus, capsys):
    def equals(pairs: list[Any]) -> list[Any]:
        """All the same two trees."""
        return [{**pair, "ast1": pairs[0]["ast1"], "ast2": pairs[0]["ast2"]} for pair in pairs]

    assert main(["preflight", *corpus("positive", True, equals), "--objective", "ranking"]) == 3
    assert "compared with 0 to 0 trees that differ. Set a larger batch_size" in capsys.readouterr().out


def test_a_setting_that_is_true_by_default_can_be_switched_off(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", epochs=1, bag_of_symbols=False)
    assert "--no-bag-of-symbols" in config.flags()
    assert main(["train", *config.flags()]) == 0
    weights = load_checkpoint(tmp_path / "run" / "checkpoint_epoch_1.pt")["model_state_dict"]
    assert "bag_weight" not in weights


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path):
    """`runs | head`, `trees --show | head`: quiet, with the status of SIGPIPE."""
    trees = tmp_path / "trees.jsonl"
    trees.write_text('{"a": {"b": "c"}}\n' * 3000)
    words = [sys.executable, "-m", "treelstm", "trees", str(trees), "--show", "3000"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    assert main(words[3:]) == 0
