"""Rows of runs that were never trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from treelstm import Config
from treelstm.history import EpochRecord
from treelstm.runs import RunRow


def record(epoch: int, score: float, **more: Any) -> EpochRecord:
    given = {"epoch": epoch, "train_loss": 0.5, "validation_loss": 0.5, "learning_rate": 1e-3}
    given |= {"validation_average_precision": score, "best": True}
    return {**given, **more}  # type: ignore[typeddict-item]


def a_run(name: str, score: float = 0.5, state: str = "finished", **settings: Any) -> RunRow:
    """A row with one epoch."""
    given = {"validation_dir": "data/validation_pairs", "epochs": 1} | settings
    config = Config(output_dir=f"models/{name}", **given).to_dict()
    history = [record(1, score)]
    return RunRow(name, Path(name), state, "", config, history, 1, 12.0, 10**6)
