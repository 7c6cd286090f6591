"""The guide is true: its commands run, its error texts are in the source, its files exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, tiny_config
from services import webhook

from treelstm import train
from treelstm.config import Comparison, Config

GUIDE = (REPOSITORY / "docs" / "training-guide.md").read_text()
ELSEWHERE = "*(another machine)*"


def here() -> list[str]:
    """The blocks of commands that are not marked as needing another machine."""
    blocks = []
    for section in re.split(r"^#+ ", GUIDE, flags=re.MULTILINE)[1:]:
        if ELSEWHERE not in section.splitlines()[0]:
            blocks += re.findall(r"^ *```\n(.*?)^ *```", section, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines()]


@pytest.fixture
def clone(tiny, tmp_path) -> Path:
    """A directory like the repository's root, with data, whose `.venv` is this environment."""
    for name in ("notebooks", "treelstm"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "training_pairs").symlink_to(tiny / "training")
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.mark.filterwarnings("default")
def test_every_command_that_this_machine_can_run_runs(clone):
    """In the guide's order; the training command on tiny sizes, into the clone's own `models`."""
    commands = here()
    assert len(commands) == 8, commands
    small = "-p embedding_dim 8 -p hidden_dim 12 -p output_dim 6 -p output_dir models/tree_lstm"
    with webhook() as hook:
        hook.secret = "hook"
        port = re.search(r":(\d+)/", hook.address)[1]
        script = "set -e\n"
        for command in commands:
            command = command.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace(
                "epochs 300", "epochs 2"
            )
            if command.startswith(".venv/bin/papermill"):
                command = f"{command} {small} -p data_dir data/training_pairs"
            script += f"echo RUNNING {shlex.quote(command)}\n{command}\n"
        environment = os.environ | {"PYTHONPATH": str(clone)}
        done = subprocess.run(
            ["bash", "-c", script], cwd=clone, env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "is finished: epoch 2" in done.stdout
    assert [message["title"].split(":")[0] for message in hook.messages] == ["a test", "treelstm"]


def test_the_error_texts_of_the_guide_are_the_sources():
    source = " ".join(path.read_text() for path in sorted((REPOSITORY / "treelstm").rglob("*.py")))
    # Adjacent literals of one message are one text.
    source = re.sub(r'"\s*f?"', "", source)
    table = GUIDE.partition("## When it says")[2]
    texts = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert len(texts) >= 12
    for text in texts:
        assert text in source, text


def test_the_settings_and_files_that_the_guide_names_exist(tiny, tmp_path):
    train(tiny_config(tiny, tmp_path / "run", epochs=1))
    names = ["best_model.pt", "final_model.pt", "training_history.json", "run.json", "training.log"]
    for name in [*names, "tensorboard"]:
        assert f"`{name}" in GUIDE and (tmp_path / "run" / name).exists()
    settings = set(re.findall(r"-p (\w+) ", GUIDE))
    assert {"max_restarts", "patience", "lr_schedule", "warmup_steps", "keep"} <= settings
    assert settings <= Config().to_dict().keys() | vars(Comparison()).keys() | {"name"}


def test_what_runs_elsewhere_at_least_names_this_engine_and_valid_shell():
    blocks = re.findall(r"^```\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    for block in blocks:
        subprocess.run(["bash", "-n", "-c", block], check=True)
    assert sum("papermill --engine treelstm" in block for block in blocks) == 3


def test_the_makefile_has_the_night_and_the_soak():
    for target, words in (("overnight", "--engine treelstm"), ("soak", "benchmarks/soak.py 60")):
        done = subprocess.run(
            ["make", "--dry-run", "--old-file=.venv/.ready", target],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert words in done.stdout, done.stdout
