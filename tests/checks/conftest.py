from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from faults import healthy_config

from treelstm import train, write_sample


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus without faults, and a run of 2 epochs on it."""
    base = tmp_path_factory.mktemp("healthy")
    write_sample(base / "training", positives=40, negatives=60)
    write_sample(base / "validation", positives=40, negatives=60, seed=1, unlike=base / "training")
    train(healthy_config(base, base / "run", epochs=2))
    return base


@pytest.fixture
def base(healthy: Path, tmp_path: Path) -> Path:
    """A copy of them, to plant a fault in."""
    return Path(shutil.copytree(healthy, tmp_path / "base"))
