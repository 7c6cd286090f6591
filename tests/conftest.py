"""A tiny corpus that every test may share, and the real one where it is at hand."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from treelstm import Config, write_sample

# Started with nohup or in the background, tests and their processes would inherit these as ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

REPOSITORY = Path(__file__).resolve().parent.parent
REAL = REPOSITORY.parent / "shared" / "data" / "krestomatio"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`training` and `validation`, 72 pairs each, with no sentence in common."""
    directory = tmp_path_factory.mktemp("tiny")
    write_sample(directory / "training", positives=24, negatives=48)
    write_sample(
        directory / "validation", positives=24, negatives=48, seed=1, unlike=directory / "training"
    )
    return directory


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> Config:
    """A run of 3 epochs of 5 steps that takes well under a second."""
    return tiny_config(tiny, tmp_path / "run")


def tiny_config(data: Path, output_dir: Path, **settings: object) -> Config:
    sizes = {"embedding_dim": 8, "hidden_dim": 12, "output_dim": 6, "epochs": 3, "batch_size": 16}
    return Config.from_parameters(
        {
            "data_dir": str(data / "training"),
            "validation_dir": str(data / "validation"),
            "output_dir": str(output_dir),
            **sizes,
            **settings,
        }
    )


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real corpus, its cache in a place of our own."""
    if not REAL.is_dir():
        pytest.skip("the real corpus ../shared/data/krestomatio is not beside this clone")
    return REAL


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of read-only data directories stay inside the test session."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "cache"))
