"""A trial: `trial.json` in its directory, beside the run's own files, and its process.

These files and the runs' commits are the sweep's state; Optuna's journal follows from them. The process
is papermill with the engine, and ends when the sweep's does:

    python -m treelstm.sweeps.trials TRIAL_DIRECTORY PAGE PARENT
"""

import logging
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from treelstm.config import Config
from treelstm.errors import UserError
from treelstm.files import open_file, write_whole
from treelstm.history import EpochRecord
from treelstm.night import NIGHT_FILE, watch_parent
from treelstm.notify import ADDRESSES
from treelstm.run.directory import HISTORY, TRIAL

TRIAL_DIR = "TREELSTM_TRIAL"  # in the environment of a trial's kernel: its directory


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


def read_as(path: Path, kind: Any) -> Any:
    """What a JSON file of a sweep or run holds; None if there is none."""
    try:
        with open_file(path) as file:
            return msgspec.json.decode(file.readall(), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        remedy = "Restore it, or remove it: a trial of a grid goes on without it"
        raise DamagedSweep(f"{path} is damaged: {error}. {remedy}.") from error


def write_as_json(path: Path, content: Any) -> None:
    write_whole(path, msgspec.json.format(msgspec.json.encode(content)))


def write_trial(sweep_dir: Path, trial: Trial) -> None:
    write_as_json(sweep_dir / trial.name / TRIAL, trial)


def read_trials(sweep_dir: Path) -> dict[str, Trial]:
    """All trials that have begun, by the name of their directory now, in the order in which they did."""
    found = {path.parent.name: read_as(path, Trial) for path in sweep_dir.glob(f"*/{TRIAL}")}
    trials = [replace(trial, name=name) for name, trial in found.items() if trial]
    return {trial.name: trial for trial in sorted(trials, key=lambda each: each.number)}


def history_of(directory: Path) -> list[EpochRecord]:
    return read_as(directory / HISTORY, list[EpochRecord]) or []


def train_page(directory: Path, page: Path) -> str:
    """Runs the page with the trial's settings; returns why that failed, "" if it did not."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    parameters = read_as(directory / TRIAL, Trial).settings | {"output_dir": str(directory)}
    options = {"engine_name": "treelstm", "log_output": True, "progress_bar": False}
    try:
        papermill.execute_notebook(page, directory / page.name, parameters, **options)
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        return end.code  # the page could not be saved
    return ""


if __name__ == "__main__":
    watch_parent(int(sys.argv[3]))
    os.environ[TRIAL_DIR] = sys.argv[1]
    for name in (ADDRESSES, NIGHT_FILE):  # one notification for all trials; a night for each engine
        os.environ.pop(name, None)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    why = train_page(Path(sys.argv[1]), Path(sys.argv[2]))
    print(" ".join(why.split()), flush=True)  # the last line tells the sweep why it failed
    sys.exit(bool(why))
