"""How a run stands, from its files alone; also while another process trains it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from treelstm.config import Settings
from treelstm.history import EpochRecord, Outcome
from treelstm.model.files import model_epoch, read_model
from treelstm.run.directory import (
    FINAL,
    ResumePoint,
    checkpoint_at,
    load_checkpoint,
    newest_usable,
)
from treelstm.run.lock import Holder, holder
from treelstm.sealed import CheckpointError, MissingCheckpoint


@dataclass(frozen=True)
class RunStatus:
    """How a run stands; printed, one line for each thing there is to know."""

    output_dir: Path
    newest: ResumePoint
    held_by: Holder | None
    finished: bool
    last_line: str  # of its log

    @property
    def history(self) -> list[EpochRecord]:
        return self.newest.content["history"]

    @property
    def config(self) -> Settings:
        """The settings it was trained with, its own directory as it is found now."""
        return {**self.newest.content["config"], "output_dir": str(self.output_dir)}

    def __str__(self) -> str:
        content = self.newest.content
        place = f"epoch {content['epoch']}" + (f", step {content['step']}" if content["step"] else "")
        outcome = Outcome.in_text(self.last_line)
        if self.held_by:
            how = f"being trained by {self.held_by}; newest commit: {place}"
        elif self.finished:
            how = f"finished: {place}"
        elif outcome and not outcome.finished:
            how = f"{outcome}; newest commit: {place}"
        else:
            how = f"not running and not finished (killed, or an error); newest commit: {place}"
        lines = [f"{self.output_dir} is {how}", f"last line of its log: {self.last_line or 'none'}"]
        return "\n".join([*lines, *(f"damaged: {error}" for error in self.newest.passed_over)])


def run_status(output_dir: Path | str) -> RunStatus:
    """How the run in `output_dir` stands; changes nothing.

    Raises:
        CheckpointError: there is no checkpoint, or none that verifies.
    """
    output_dir = Path(output_dir)
    newest = newest_usable(output_dir)
    if newest is None and (by := holder(output_dir)):
        raise CheckpointError(
            f"{output_dir} is being trained by {by} and has no commit yet. Look again after its first."
        )
    if newest is None:
        raise CheckpointError(
            f"{output_dir} holds no checkpoint. Start the run with notebooks/02_train.ipynb, "
            "or name another output_dir."
        )
    content = newest.content
    finished = content["step"] == 0 and model_epoch(output_dir / FINAL) == content["epoch"]
    return RunStatus(output_dir, newest, holder(output_dir), finished, _last_line(output_dir))


def _last_line(output_dir: Path) -> str:
    """The last line of the run's log, which may just have been rotated."""
    for name in ("training.log", "training.log.1"):
        path = output_dir / name
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines:
            return lines[-1]
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
    train_loss: float | None = None  # as committed; None where damaged or not read
    record: EpochRecord | None = None  # of the epoch that it completes
    config: Settings | None = None


def unread_row(path: Path) -> CheckpointRow:
    """What a file's name and the file system say of it.

    Raises:
        FileNotFoundError: it has been removed meanwhile.
    """
    stat = path.stat()
    place = checkpoint_at(path)
    return CheckpointRow(
        path=path,
        epoch=place.epoch if place else None,
        step=place.steps_into_next or None if place else None,
        size=stat.st_size,
        written=datetime.fromtimestamp(stat.st_mtime).astimezone(),
    )


def verified_row(path: Path) -> CheckpointRow:
    """What a checkpoint or model file holds, read and verified.

    Raises:
        FileNotFoundError: it has been removed meanwhile.
    """
    row = unread_row(path)
    try:
        if checkpoint_at(path) is None:
            model = read_model(path)
            return replace(row, epoch=model["epoch"], config=model["config"], status="verified")
        content = load_checkpoint(path)
    except MissingCheckpoint:
        raise
    except CheckpointError as error:
        return replace(row, status=str(error))
    history = content["history"] if not content["step"] else []
    return replace(
        row,
        train_loss=content["train_loss"],
        record=history[-1] if history else None,
        config=content["config"],
        status="verified",
    )
