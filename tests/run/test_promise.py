"""Every later version resumes the run in tests/data/run to the same bits, or refuses it by name.

The run was stopped inside an epoch. What comes after depends on all of its state: Adam's moments, the
warm-up, the plateau schedule (which halves the learning rate three epochs later), dropout and order.
A version that no longer reads its format writes the run anew, with the version that reads it:

    python tests/run/test_promise.py
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

import treelstm
from treelstm.run.content import Commit
from treelstm.run.directory import FINAL
from treelstm.run.state import SettingsChanged
from treelstm.sealed import FORMAT, UNTYPED, CheckpointError, write_sealed

RUN = Path(__file__).resolve().parents[1] / "data" / "run"
EXPECTED = RUN / "expected.json"
STOPPED = (5, 3)  # epochs done, steps into the next
SETTINGS = {
    "embedding_dim": 8,
    "hidden_dim": 12,
    "output_dim": 6,
    "epochs": 12,
    "learning_rate": 0.05,
    "lr_schedule": "plateau",
    "warmup_steps": 40,
    "dropout": 0.2,
    "num_threads": 1,
    # What the version that wrote the run did, before there were these settings:
    "bag_of_symbols": False,
    "positive_margin": 0.0,
    "best_by": "validation_loss",
}


def config(root: Path) -> treelstm.Config:
    paths = {"data_dir": root / "training", "validation_dir": root / "validation", "output_dir": root}
    return treelstm.Config(**SETTINGS, **{name: str(path) for name, path in paths.items()})


def machine() -> dict[str, str]:
    """What the bits of a run depend on besides settings and data."""
    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpu.read_text() if cpu.is_file() else "")
    return {
        "torch": torch.__version__,
        "processor": f"{model[1] if model else '?'}, {torch.backends.cpu.get_cpu_capability()}",
    }


def digest(path: Path) -> str:
    """SHA-256 of a model file's weights."""
    weights = treelstm.load_encoder(path).state_dict()
    return hashlib.sha256(b"".join(weights[k].numpy().tobytes() for k in sorted(weights))).hexdigest()


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> treelstm.History:
    root = shutil.copytree(RUN, tmp_path_factory.mktemp("promise") / "run")
    history = treelstm.train(config(root))
    assert history.resumed_at == STOPPED
    return history


def test_the_stored_run_ends_on_every_machine_as_it_would_have_undisturbed(resumed):
    expected = json.loads(EXPECTED.read_text())["history"]
    for record, other in zip(resumed.epochs, expected, strict=True):
        assert {key: record[key] for key in other} == pytest.approx(other, abs=1e-3)


def test_the_stored_run_ends_with_the_very_bits_on_the_same_torch_and_processor(resumed):
    expected = json.loads(EXPECTED.read_text())
    if machine() != expected["machine"]:
        pytest.skip(f"history compared to 1e-3 only: {machine()}, the bits are {expected['machine']}'s")
    for record, other in zip(resumed.epochs, expected["history"], strict=True):
        assert {key: record[key] for key in other} == other
    assert digest(resumed.output_dir / FINAL) == expected["weights"]


def test_a_checkpoint_of_another_format_is_refused_by_name(tmp_path):
    root = shutil.copytree(RUN, tmp_path / "run")
    (path,) = root.glob("*.pt")
    write_sealed(path, {**treelstm.load_checkpoint(path), "format": UNTYPED - 1})
    reads = f"has format {UNTYPED - 1}, this version of treelstm reads {UNTYPED} and {FORMAT}"
    with pytest.raises(CheckpointError, match=rf"{path.name} {reads}"):
        treelstm.train(config(root))


def test_with_the_settings_of_this_version_the_refusal_says_which_to_set(tmp_path):
    root = shutil.copytree(RUN, tmp_path / "run")
    settings = config(root).to_dict()
    for name in ("bag_of_symbols", "positive_margin", "best_by"):
        del settings[name]
    before = "Set bag_of_symbols=False, positive_margin=0.0, best_by='validation_loss' as before"
    with pytest.raises(SettingsChanged, match=before):
        treelstm.train(treelstm.Config(**settings))


class Keep(treelstm.Listener):
    """Stores the commit at STOPPED, without the paths of the machine that made it."""

    def on_commit(self, commit: Commit) -> None:
        epoch, step = STOPPED
        if (commit["epoch"], commit["step"]) == (epoch + 1, step):
            paths = {"data_dir": "training", "validation_dir": "validation", "output_dir": "run"}
            settings = {**commit["config"], **paths}
            path = RUN / f"checkpoint_epoch_{epoch + 1}_step_{step}.pt"
            write_sealed(path, {**commit, "config": settings})


def write_anew() -> None:
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        treelstm.write_sample(root / "training", 24, 48)
        treelstm.write_sample(root / "validation", 24, 48, seed=1, unlike=root / "training")
        for path in root.glob("*/*_pairs.jsonl"):
            target = RUN / path.parent.name / f"{path.name}.gz"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        root = shutil.copytree(RUN, root / "undisturbed")
        often = treelstm.Config(**{**config(root).to_dict(), "checkpoint_every_seconds": 0})
        history = treelstm.train(often, listeners=[Keep()])
        expected = {"machine": machine(), "weights": digest(root / FINAL), "history": history.epochs}
    EXPECTED.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    write_anew()
