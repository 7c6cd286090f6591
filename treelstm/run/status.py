"""The state of a run, read from its files, also while another process trains it."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from treelstm.config import Settings
from treelstm.history import Change, EpochRecord, Outcome
from treelstm.model.content import ModelFile
from treelstm.model.files import model_epoch, read_model, same_weights
from treelstm.plain import shown
from treelstm.run.changes import in_words
from treelstm.run.directory import (
    FINAL,
    ResumePoint,
    checkpoint_at,
    checkpoint_name,
    load_checkpoint,
    newest_usable,
)
from treelstm.run.lock import Holder, holder
from treelstm.sealed import CheckpointError, MissingCheckpoint

_LAST_BYTES = 1_000_000  # of the log, in which its last entry is looked for
_DATED = re.compile(r"\d{4}-\d\d-\d\d \d\d:[\d:]*\s*")  # begins an entry of the log


class NoCommitYet(CheckpointError):
    """The run has begun, in another process, and its first commit is still to come."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run; `print` shows it."""

    output_dir: Path
    newest: ResumePoint
    held_by: Holder | None
    finished: bool
    last_line: str  # of its log

    @property
    def history(self) -> list[EpochRecord]:
        return self.newest.content["history"]

    @property
    def changes(self) -> list[Change]:
        return self.newest.content.get("changes", [])

    @property
    def config(self) -> Settings:
        """The settings it was trained with, `output_dir` as it is now."""
        return {**self.newest.content["config"], "output_dir": str(self.output_dir)}

    def __str__(self) -> str:
        content = self.newest.content
        place = f"epoch {content['epoch']}" + (f", step {content['step']}" if content["step"] else "")
        outcome = Outcome.in_text(self.last_line)
        says = f"; its log says: {_DATED.sub('', self.last_line)[:300]}" if self.last_line else ""
        if self.held_by:
            how = f"being trained by {self.held_by}{says}; newest commit: {place}"
        elif self.finished:
            how = f"finished: {place}{'' if outcome else says}"
        elif outcome and not outcome.finished:
            how = f"{outcome.said}; newest commit: {place}"
        else:
            how = f"not running and not finished (killed, or an error){says}; newest commit: {place}"
        lines = [f"{self.output_dir} is {how}"]
        lines += [f"changed on purpose: {in_words(each)}" for each in self.changes]
        lines += [f"damaged: {error}" for error in self.newest.passed_over]
        return shown("\n".join(lines))

    __repr__ = __str__  # in a notebook, without the weights


def run_status(output_dir: Path | str) -> RunStatus:
    """The state of the run in `output_dir`; changes nothing.

    Raises:
        CheckpointError: there is no checkpoint, or none that verifies.
        NoCommitYet: another process trains it, and has not committed yet.
    """
    output_dir = Path(output_dir)
    newest, by = newest_usable(output_dir), holder(output_dir)
    if newest is None:
        if by:
            text = "has no commit yet. Try again later."
            raise NoCommitYet(f"{output_dir} is being trained by {by} and {text}")
        start = "Start the run with notebooks/02_train.ipynb, or name another output_dir."
        raise CheckpointError(f"{output_dir} holds no checkpoint. {start}")
    content = newest.content
    finished = content["step"] == 0 and model_epoch(output_dir / FINAL) == content["epoch"]
    return RunStatus(output_dir, newest, by, finished, _last_line(output_dir))


def _last_line(output_dir: Path) -> str:
    """The last entry of the run's log, which may just have been rotated; of several lines, the first."""
    for name in ("training.log", "training.log.1"):
        try:
            with (output_dir / name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{name} cannot be read now: {error.strerror}"
        if dated := [line for line in lines if _DATED.match(line)]:
            return dated[-1][:2000]
    return ""


@dataclass(frozen=True)
class CheckpointRow:
    """One row of a table of checkpoints and models."""

    path: Path
    epoch: int | None
    step: int | None  # None: at an epoch's end, or not known
    size: int  # bytes
    written: datetime
    status: str = ""  # "": not read yet; "verified"; or what is wrong
    train_loss: float | None = None  # as committed; None where damaged, not read or not known
    record: EpochRecord | None = None  # of the last epoch that it completes
    config: Settings | None = None


def unread_row(path: Path) -> CheckpointRow:
    """A row of what the name and the file system tell; FileNotFoundError if the file is gone."""
    stat = path.stat()
    place, written = checkpoint_at(path), datetime.fromtimestamp(stat.st_mtime).astimezone()
    epoch, step = (place.epoch, place.steps_into_next or None) if place else (None, None)
    return CheckpointRow(path, epoch, step, stat.st_size, written)


def verified_row(path: Path) -> CheckpointRow:
    """A row of what a checkpoint or model file holds, read and verified; raises as `unread_row`.

    A model's numbers are those of the commit beside it that has its weights, if there is one.
    """
    row = unread_row(path)
    try:
        content = load_checkpoint(path) if checkpoint_at(path) else None
        model: ModelFile = content or read_model(path)
    except MissingCheckpoint:
        raise
    except CheckpointError as error:
        return replace(row, status=str(error))
    row = replace(row, epoch=model["epoch"], config=model["config"], status="verified")
    if content is None:
        with suppress(CheckpointError):
            content = load_checkpoint(path.with_name(checkpoint_name(model["epoch"], 0)))
        if not content or not same_weights(model["model_state_dict"], content["model_state_dict"]):
            return row
    return replace(row, train_loss=content["train_loss"], record=[None, *content["history"]][-1])
