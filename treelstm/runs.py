"""Every run under a directory as a row, read from small files: `run.json`, the history, the note.

Hundreds of runs take a second. A run of an earlier version has no `run.json`: its settings are read from
its model. Nothing is written but a note.
"""

import errno
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from treelstm.config import Config, Settings, completed, from_root
from treelstm.errors import UserError
from treelstm.files import open_file, write_whole
from treelstm.history import EpochRecord, Metric, Outcome, best, value_of
from treelstm.model.files import read_model
from treelstm.plain import shown, without_nan
from treelstm.run.directory import (
    BAG_ALONE,
    BEST,
    DAMAGED,
    FINAL,
    HISTORY,
    SUMMARY,
    SUPERSEDED,
    TRIAL,
    checkpoint_at,
)
from treelstm.run.lock import holder
from treelstm.run.summary import Summary
from treelstm.sealed import CheckpointError
from treelstm.sweeps.trials import Trial

NOTES = "notes.md"
RUNNING, KILLED, BROKEN, WAITING = "running now", "killed", "damaged", "not begun"
_MARKS = {SUMMARY, HISTORY, TRIAL, BEST, FINAL}  # whatever holds one of these is a run
_ASIDE = {SUPERSEDED, DAMAGED, BAG_ALONE}  # below a run, but no runs of their own
_MOST_OF_NOTE = 100_000  # bytes


class NoDirectory(UserError, OSError):
    """There is no directory of this name."""


class NoteRefused(UserError, OSError):
    """A note cannot be read or written here."""


@dataclass
class RunRow:
    """A run, as one row of a table."""

    name: str  # its path below the directory
    path: Path  # its output_dir
    state: str = BROKEN  # an Outcome, "failed", "running now", "killed", "damaged" ...
    why: str = ""  # it is so; by whom it is trained
    settings: Settings = field(default_factory=dict)  # none where they cannot be read
    history: list[EpochRecord] = field(default_factory=list)
    epochs_done: int = 0
    seconds: float | None = None  # of training
    size: int = 0  # bytes of all its files
    note: str = ""  # notes.md, or why it cannot be read

    @property
    def says(self) -> str:
        """Its state and the reason."""
        return f"{self.state}: {self.why}" if self.why else self.state

    @property
    def finished(self) -> bool:
        return self.state in (Outcome.FINISHED, Outcome.FINISHED_EARLY)

    @cached_property
    def best(self) -> EpochRecord | None:
        return best(self.history)

    def value(self, metric: Metric) -> float:
        """A number of its best epoch; NaN if there is none."""
        record = self.best
        return math.nan if record is None else value_of(record, metric.key)

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON can hold it, with None for NaN; of the history, the best epoch only."""
        plain = {**vars(self), "path": str(self.path), "best": self.best}
        del plain["history"]
        return dict(without_nan(plain))


def list_runs(directory: Path | str = "models") -> list[RunRow]:
    """Every run under the directory at any depth, by name. A run that is damaged is a row that says so,
    and so is a directory that cannot be listed. A relative path starts from the repository.

    Links come last: what they lead to goes by its own name, if it has one.

    Raises:
        NoDirectory: there is none of this name.
    """
    root = from_root(directory)
    if not root.is_dir():
        raise NoDirectory(f"{root}: no such directory. Name one that holds runs.")
    found, seen = list[RunRow](), set[tuple[int, int]]()
    waiting: list[tuple[Path, RunRow | None, bool]] = [(root, None, False)]
    while waiting:
        path, owner, aside = waiting.pop()
        row = RunRow(path.relative_to(root).as_posix(), path)
        try:
            stat = path.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(path) as listing:
                entries = [*listing]
        except OSError as error:  # it is gone; a link to a file or in a circle; or closed
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                row.why = f"it cannot be listed: {error.strerror}"
                found.append(row)
            continue
        names = {entry.name for entry in entries}
        if not aside and (names & _MARKS or any(checkpoint_at(Path(name)) for name in names)):
            owner = row
            _read(row, names)
            found.append(row)
        for entry in entries:
            below = (owner is not None and entry.name in _ASIDE) or entry.name == BAG_ALONE
            if entry.is_symlink() or entry.is_dir():
                place = 0 if entry.is_symlink() else len(waiting)
                waiting.insert(place, (path / entry.name, owner, aside or below))
            elif owner:
                with suppress(FileNotFoundError):  # a newer commit has just replaced it
                    owner.size += entry.stat().st_size
    return sorted(found, key=lambda row: row.name)


def _read(row: RunRow, names: set[str]) -> None:
    """Completes a row with what the files of the run tell."""
    path, wrong = row.path, list[str]()

    def read(name: str, kind: Any, most: int = 10**6) -> Any:
        """The JSON in a file; None if there is none, or none that can be used."""
        if name not in names:
            return None
        try:
            return msgspec.convert(json.loads(_bytes(path / name, most)), kind)
        except (OSError, ValueError, RecursionError) as error:
            wrong.append(f"{name}: {getattr(error, 'strerror', None) or error}")
            return None

    told: Summary | None = read(SUMMARY, Summary)
    trial: Trial | None = read(TRIAL, Trial)
    row.history = read(HISTORY, list[EpochRecord], most=10**8) or []
    if [record["epoch"] for record in row.history] != [*range(1, len(row.history) + 1)]:
        wrong.append(f"{HISTORY}: its epochs are not 1, 2, 3 and so on")
        row.history = []
    row.note, count, by = note_of(path), len(row.history), None
    try:
        by = holder(path)
        if told:
            row.state, row.why = told["outcome"] or KILLED, told["why"]
            row.epochs_done, row.seconds = told["epochs_done"], told["seconds"]
            row.settings = completed(told["settings"])
        elif models := [name for name in (FINAL, BEST) if name in names]:
            model = read_model(path / models[0])
            ended = models[0] == FINAL and model["epoch"] == count
            row.state = Outcome.FINISHED if ended else KILLED
            row.epochs_done, row.settings = max(count, model["epoch"]), completed(model["config"])
        elif trial:
            row.state, row.settings = WAITING, {**Config().to_dict(), **trial.settings}
        else:
            row.state = KILLED
    except (CheckpointError, OSError) as error:
        wrong.append(str(error))
    if row.state in (KILLED, WAITING) and trial and trial.outcome:
        row.state, row.why = trial.outcome, trial.why
    if count < row.epochs_done and not by and not wrong:
        says = f"{SUMMARY if told else 'its model'} says {row.epochs_done}"
        wrong.append(f"{HISTORY} has {count} epochs, {says}")
    if by or wrong:
        row.state = RUNNING if by else BROKEN
        row.why = "; ".join([f"by {by}"] * bool(by) + wrong)


def read_note(run: Path) -> str:
    """The note on a run, "" if there is none. Raises NoteRefused if it cannot be read whole."""
    try:
        return _bytes(run / NOTES, _MOST_OF_NOTE).decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        why = f"{NOTES} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise NoteRefused(f"{why}. Use another program.") from error


def note_of(run: Path) -> str:
    """The note on a run, or why it cannot be read."""
    try:
        return read_note(run)
    except NoteRefused as error:
        return str(error)


def write_note(run: Path, text: str, was: str) -> None:
    """Writes the note on a run, whole or not at all, if the present one is `was`.

    Raises:
        NoteRefused: it is another one by now, or cannot be read.
        WriteFailed: the disk refuses.
    """
    if (now := read_note(run)) != was:
        found = f"has changed meanwhile and is now: {now}" if now else "has been removed meanwhile"
        raise NoteRefused(f"Not saved: {NOTES} {found}\nSave again to replace it.")
    write_whole(run / NOTES, shown(text).encode())


def _bytes(path: Path, most: int) -> bytes:
    """The bytes of a file, at most so many, else ValueError."""
    with open_file(path) as file:
        data = file.read(most + 1) or b""
    if len(data) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return data
