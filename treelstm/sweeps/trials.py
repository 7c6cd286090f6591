"""What a sweep knows of each trial: `trial.json` in its directory, beside the run's own files.

These files and the runs' commits are the sweep's state; Optuna's journal follows from them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from treelstm.config import Config
from treelstm.errors import UserError
from treelstm.files import write_whole
from treelstm.history import EpochRecord
from treelstm.run.directory import HISTORY

TRIAL = "trial.json"
TRIAL_DIR = "TREELSTM_TRIAL"  # in the environment of a trial's processes: its directory


class DamagedSweep(UserError, ValueError):
    """A file of the sweep does not hold what it should."""


@dataclass
class Trial:
    """A trial that has begun, as `trial.json` holds it."""

    number: int
    settings: dict[str, Any]  # those that differ from the defaults
    outcome: str | None = None  # an `Outcome` or FAILED; None: it goes on
    why: str = ""
    prune: str | None = None  # the pruner, and the trials that had ended when this one began: it is
    peers: list[str] = field(default_factory=list)  # compared with them, whenever it is asked again
    name: str = ""  # of its directory

    @property
    def config(self) -> Config:
        return Config(**self.settings)

    @property
    def ended(self) -> bool:
        return self.outcome is not None


def read_as(path: Path, kind: Any) -> Any:
    """What a JSON file of a sweep or run holds; None if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        remedy = "Restore it, or remove it: a trial of a grid goes on without it"
        raise DamagedSweep(f"{path} is damaged: {error}. {remedy}.") from error


def write_as_json(path: Path, content: Any) -> None:
    write_whole(path, msgspec.json.format(msgspec.json.encode(content)))


def read_trial(directory: Path) -> Trial | None:
    """The trial of this directory; it is called as the directory is now."""
    trial: Trial | None = read_as(directory / TRIAL, Trial)
    if trial:
        trial.name = directory.name
    return trial


def write_trial(sweep_dir: Path, trial: Trial) -> None:
    write_as_json(sweep_dir / trial.name / TRIAL, trial)


def read_trials(sweep_dir: Path) -> dict[str, Trial]:
    """All trials that have begun, by name, in the order in which they did."""
    found = [read_trial(path.parent) for path in sweep_dir.glob(f"*/{TRIAL}")]
    return {trial.name: trial for trial in sorted(filter(None, found), key=lambda each: each.number)}


def history_of(directory: Path) -> list[EpochRecord]:
    return read_as(directory / HISTORY, list[EpochRecord]) or []
