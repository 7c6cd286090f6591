"""Fixtures for all tests: a tiny corpus, the real corpus if it is available, a small configuration."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest
from children import end_with_this_process

import treelstm  # `train` is imported when it is first used: pytest itself need not wait for torch
from treelstm import Config, write_sample

# Runs as small as the tests' cost twice the CPU time with two threads, and more beside a second worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# nohup and background jobs ignore these signals, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

hypothesis.settings.register_profile("treelstm", deadline=None)  # a busy machine takes its time
hypothesis.settings.load_profile("treelstm")
# Also where there is a GPU: most tests start several processes, and each would need one of its own.
DEVICE = os.environ.get("TREELSTM_TESTS_ON", "cpu")
REPOSITORY = Path(__file__).resolve().parent.parent
REAL = REPOSITORY.parent / "shared" / "data" / "krestomatio"


def pytest_configure(config: pytest.Config) -> None:
    """Leave no process behind, also when pytest, a worker of xdist or `make test` is killed."""
    is_worker = hasattr(config, "workerinput")
    end_with_this_process(follow_parent=is_worker or "TREELSTM_TESTS_FOLLOW_PARENT" in os.environ)


SLOWEST_FILES = [  # and test_neutral.py, which forks: a worker must not have run torch's threads before
    f"test_{name}.py"
    for name in ("neutral", "browser", "notebooks", "overnight", "kills", "guide", "children")
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slowest files first, so that both workers end at about the same time."""
    order = {name: place for place, name in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories `training` and `validation` of 72 pairs each, with no sentence in common."""
    directory = tmp_path_factory.mktemp("tiny")
    write_sample(directory / "training", positives=24, negatives=48)
    write_sample(
        directory / "validation", positives=24, negatives=48, seed=1, unlike=directory / "training"
    )
    return directory


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> Config:
    """A run of 3 epochs of 5 steps; it takes less than a second."""
    return tiny_config(tiny, tmp_path / "run")


def tiny_config(data: Path, output_dir: Path, **settings: object) -> Config:
    sizes = {"embedding_dim": 8, "hidden_dim": 12, "output_dim": 6, "epochs": 3, "batch_size": 16}
    return Config.from_parameters(
        {
            "data_dir": str(data / "training"),
            "validation_dir": str(data / "validation"),
            "output_dir": str(output_dir),
            **sizes,
            "device": DEVICE,
            **settings,
        }
    )


@pytest.fixture(scope="session")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 2 epochs; read only."""
    output_dir = tmp_path_factory.mktemp("whole") / "run"
    treelstm.train(tiny_config(tiny, output_dir, epochs=2))
    return output_dir


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A checkpoint of our own to damage."""
    target = tmp_path / "checkpoint_epoch_2.pt"
    target.write_bytes((whole / target.name).read_bytes())
    return target


@pytest.fixture(scope="session")
def real() -> Path:
    """The real corpus; the test is skipped where it is missing."""
    if not REAL.is_dir():
        pytest.skip("the real corpus ../shared/data/krestomatio is not beside this clone")
    return REAL


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the caches of read-only data directories in the temporary directory of this session."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "cache"))
