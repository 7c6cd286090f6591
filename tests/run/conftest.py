"""A finished run that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import tiny_config
from runs import copy

from treelstm import train


@pytest.fixture(scope="session")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 3 epochs; copy it before changing anything."""
    output_dir = tmp_path_factory.mktemp("finished") / "run"
    train(tiny_config(tiny, output_dir))
    return output_dir


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return copy(finished, tmp_path / "run")
