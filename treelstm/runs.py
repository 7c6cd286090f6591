"""Every run under a directory as a row, read from small files: `run.json`, the history, the note.

Hundreds of runs take a second. Only a run of an earlier version, which has no `run.json`, is read from
its checkpoints. Nothing is written.
"""

import codecs
import errno
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from treelstm.config import Config, Settings, completed, from_root
from treelstm.errors import UserError
from treelstm.files import open_file
from treelstm.history import EpochRecord, Metric, Outcome, best, value_of
from treelstm.model.files import read_model
from treelstm.run.directory import (
    BAG_ALONE,
    BEST,
    DAMAGED,
    FINAL,
    HISTORY,
    SUPERSEDED,
    checkpoint_at,
)
from treelstm.run.lock import holder
from treelstm.run.status import run_status
from treelstm.run.summary import SUMMARY, Summary
from treelstm.sealed import CheckpointError

NOTES, TRIAL = "notes.md", "trial.json"
RUNNING, KILLED, BROKEN = "running now", "killed", "damaged"
WAITING, NO_COMMIT = "not begun", "no checkpoint"
_MARKS = {SUMMARY, HISTORY, TRIAL, BEST, FINAL}  # whatever holds one of these is a run
_ASIDE = {SUPERSEDED, DAMAGED, BAG_ALONE}  # below a run, but no runs of their own
_MOST_OF_NOTE = 4_000  # bytes


class NoDirectory(UserError, OSError):
    """There is no directory of this name."""


class _Trial(TypedDict, total=False):
    """What a sweep writes beside a run of its own, as `trial.json`."""

    number: int
    settings: Settings  # those that are not the defaults
    outcome: str | None
    why: str


@dataclass(frozen=True)
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
    written: datetime | None = None  # its newest file, without the note
    note: str = ""  # the first lines of notes.md
    trial: int | None = None  # its number in a sweep

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
        plain["written"] = self.written and self.written.isoformat()
        del plain["history"]
        return dict(json.loads(json.dumps(plain), parse_constant=lambda name: None))


@dataclass
class _Place:
    """A directory that holds a run or cannot be listed, with the sizes of what is below it."""

    name: str
    path: Path
    names: set[str] = field(default_factory=set)
    size: int = 0
    written: float = 0.0
    unlisted: str = ""  # why it cannot be listed


def list_runs(directory: Path | str = "models") -> list[RunRow]:
    """Every run under the directory at any depth, by name. A run that is damaged is a row that says so,
    and so is a directory that cannot be listed. A relative path starts from the repository.

    Raises:
        NoDirectory: there is none of this name.
    """
    root = from_root(directory)
    if not root.is_dir():
        raise NoDirectory(f"{root}: no such directory. Name one that holds runs.")
    return [_row(place) for place in sorted(_places(root), key=lambda place: place.name)]


def _places(root: Path) -> list[_Place]:
    """The runs under `root`. Links come last: what they lead to goes by its own name, if it has one."""
    found, seen = list[_Place](), set[tuple[int, int]]()
    waiting: list[tuple[Path, _Place | None, bool]] = [(root, None, False)]
    links = waiting[:0]
    while waiting or links:
        path, owner, aside = waiting.pop() if waiting else links.pop()
        name = path.relative_to(root).as_posix()
        try:
            stat = path.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(path) as listing:
                entries = [*listing]
        except OSError as error:  # it is gone; a link to a file or in a circle; or closed
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                found.append(_Place(name, path, unlisted=f"it cannot be listed: {error.strerror}"))
            continue
        names = {entry.name for entry in entries}
        if not aside and (names & _MARKS or _has_commits(names)):
            owner = _Place(name, path, names)
            found.append(owner)
        for entry in entries:
            below = (owner is not None and entry.name in _ASIDE) or entry.name == BAG_ALONE
            if entry.is_symlink():
                links.append((path / entry.name, owner, aside or below))
            elif entry.is_dir():
                waiting.append((path / entry.name, owner, aside or below))
            elif owner:
                with suppress(FileNotFoundError):  # a newer commit has just replaced it
                    stat = entry.stat()
                    owner.size += stat.st_size
                    if entry.name != NOTES:
                        owner.written = max(owner.written, stat.st_mtime)
    return found


def _row(place: _Place) -> RunRow:
    """What the files of a run tell."""
    path, names = place.path, place.names
    wrong = [place.unlisted] if place.unlisted else []

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
    trial: _Trial = read(TRIAL, _Trial) or _Trial()
    history: list[EpochRecord] = read(HISTORY, list[EpochRecord], most=10**8) or []
    if [record["epoch"] for record in history] != [*range(1, len(history) + 1)]:
        wrong.append(f"{HISTORY}: its epochs are not 1, 2, 3 and so on")
        history = []
    row = RunRow(
        place.name,
        path,
        history=history,
        size=place.size,
        written=datetime.fromtimestamp(place.written).astimezone() if place.written else None,
        note=_note(path) if NOTES in names else "",
        trial=trial.get("number"),
    )
    by = None
    try:
        by = holder(path)
        if told is not None:
            row = replace(
                row,
                state=told["outcome"] or KILLED,
                why=told["why"],
                settings=completed(told["settings"]),
                epochs_done=told["epochs_done"],
                seconds=told["seconds"],
            )
        elif names & {BEST, FINAL} or _has_commits(names):
            row = _as_committed(row, names)
        else:
            settings = {**Config().to_dict(), **trial["settings"]} if "settings" in trial else {}
            row = replace(row, state=WAITING if trial else NO_COMMIT, settings=settings)
    except (CheckpointError, OSError) as error:
        wrong.append(str(error))
    if row.state in (KILLED, WAITING) and (outcome := trial.get("outcome")):
        row = replace(row, state=outcome, why=trial.get("why", ""))
    if told and len(history) < told["epochs_done"] and not by and not wrong:
        wrong.append(f"{HISTORY} has {len(history)} epochs, {SUMMARY} says {told['epochs_done']}")
    if by:
        row = replace(row, state=RUNNING, why="; ".join([f"by {by}", *wrong]))
    elif wrong:
        row = replace(row, state=BROKEN, why="; ".join(wrong))
    return row


def _has_commits(names: set[str]) -> bool:
    return any(checkpoint_at(Path(name)) for name in names)


def _as_committed(row: RunRow, names: set[str]) -> RunRow:
    """What the checkpoints, or else a model, tell of a run that an earlier version of treelstm trained.

    Raises:
        CheckpointError: none of them can be used.
    """
    if not _has_commits(names):
        model = read_model(row.path / (FINAL if FINAL in names else BEST))
        return replace(row, state=NO_COMMIT, epochs_done=model["epoch"], settings=model["config"])
    status = run_status(row.path)
    content, outcome = status.newest.content, Outcome.in_text(status.last_line)
    if status.finished:
        outcome = outcome if outcome and outcome.finished else Outcome.FINISHED
    elif outcome and outcome.finished:
        outcome = None
    return replace(
        row,
        state=outcome or KILLED,
        history=content["history"],
        epochs_done=len(content["history"]),
        seconds=content["seconds"] + sum(timing["seconds"] for timing in content["timings"]),
        settings=completed(content["config"]),
    )


def _note(path: Path) -> str:
    try:
        data = _bytes(path / NOTES, _MOST_OF_NOTE, cut=True)
        return codecs.getincrementaldecoder("utf-8-sig")().decode(data).strip()  # its end may be cut
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        return f"{NOTES} cannot be read: {getattr(error, 'strerror', None) or error}"


def _bytes(path: Path, most: int, cut: bool = False) -> bytes:
    """The bytes of a file, at most so many; of a longer one the first, or ValueError."""
    with open_file(path) as file:
        data = file.read(most + 1) or b""
    if len(data) > most and not cut:
        raise ValueError(f"it is larger than {most:,} bytes")
    return data[:most]
