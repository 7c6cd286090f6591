"""A run's directory: its commits, the newest that verifies, and the files derived from a commit.

`checkpoint_epoch_N.pt` is the state after epoch N, `checkpoint_epoch_N_step_S.pt` the state inside
epoch N after S steps. One such file is the commit; history, best and final model are derived from it.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, cast

from treelstm.config import from_root
from treelstm.files import write_whole
from treelstm.history import BestEpoch, Change, EpochRecord, Outcome, Timing
from treelstm.model.files import ModelFile, model_epoch, model_part
from treelstm.sealed import CheckpointError, DamagedCheckpoint, read_sealed, verified_bytes, write_sealed

log = logging.getLogger("treelstm")

BEST, FINAL, HISTORY = "best_model.pt", "final_model.pt", "training_history.json"
SUPERSEDED, DAMAGED = "superseded", "damaged"

_NAME = re.compile(r"checkpoint_epoch_([1-9]\d*)(?:_step_(\d+))?\.pt")


class NoUsableCheckpoint(CheckpointError):
    """Checkpoints exist, but every one is damaged."""


class Commit(ModelFile):
    """What a checkpoint holds: an encoder, and everything else that the next step depends on."""

    step: int  # steps done in `epoch`; 0: the epoch is complete
    optimizer_state_dict: dict[str, Any]
    scheduler_state_dict: dict[str, Any] | None
    warmup_state_dict: dict[str, Any] | None
    train_loss: float  # mean of the epoch so far
    epoch_sums: list[float]  # of the epoch so far: loss, correct pairs
    best: BestEpoch | None
    history: list[EpochRecord]
    first_loss: float | None  # mean of the run's first step
    timings: list[Timing]
    seconds: float  # training time of the epoch so far
    fingerprint: dict[str, str]  # of the data: file -> SHA-256
    content_digest: NotRequired[dict[str, str]]  # of the data, however its files hold it
    changes: NotRequired[list[Change]]  # that a resume made on purpose, oldest first
    num_threads: int
    device: str  # type of device


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A checkpoint file and its position in the run, known from its name; sorts by position."""

    epochs_done: int
    steps_into_next: int
    path: Path

    @property
    def epoch(self) -> int:
        """The epoch in the file's name: completed, or begun."""
        return self.epochs_done + (self.steps_into_next > 0)

    @property
    def position(self) -> tuple[int, int]:
        return self.epochs_done, self.steps_into_next


def checkpoint_name(epoch: int, step: int) -> str:
    return f"checkpoint_epoch_{epoch}_step_{step}.pt" if step else f"checkpoint_epoch_{epoch}.pt"


def checkpoint_at(path: Path) -> Checkpoint | None:
    """The checkpoint of this name, or None where a file is not named like one."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    epoch, step = int(match[1]), match[2]
    return Checkpoint(epoch, 0, path) if step is None else Checkpoint(epoch - 1, int(step), path)


def list_checkpoints(output_dir: Path | str) -> list[Checkpoint]:
    """All checkpoints of a run by position, oldest first. Judged by name alone, not read."""
    found = map(checkpoint_at, Path(output_dir).glob("checkpoint_epoch_*.pt"))
    return sorted(checkpoint for checkpoint in found if checkpoint)


def load_checkpoint(path: Path | str) -> Commit:
    """The content of a verified checkpoint (the keys of `Commit`), tensors on the CPU.

    Raises:
        MissingCheckpoint: there is no such file.
        DamagedCheckpoint: the file is damaged, foreign, or not what its name says.
        CheckpointError: another version of the package wrote it.
    """
    path = Path(path)
    content = read_sealed(path)
    missing = sorted(Commit.__required_keys__ - content.keys())
    if missing and ModelFile.__annotations__.keys() <= content.keys():
        remedy = "To start another run from its weights, set start_from."
        raise DamagedCheckpoint(f"{path} holds an encoder, not the state of a run. {remedy}")
    if missing:
        raise DamagedCheckpoint(f"{path} is not a checkpoint of a run: it lacks {', '.join(missing)}.")
    name = checkpoint_name(content["epoch"], content["step"])
    if checkpoint_at(path) and path.name != name:
        raise DamagedCheckpoint(f"{path} holds what belongs under the name {name}. Rename it.")
    return cast("Commit", content)


@dataclass(frozen=True)
class ResumePoint:
    """A verified checkpoint, and what is wrong with each newer one."""

    checkpoint: Checkpoint
    content: Commit
    passed_over: tuple[DamagedCheckpoint, ...] = ()


def newest_usable(output_dir: Path) -> ResumePoint | None:
    """The newest checkpoint that verifies; otherwise as `find_latest_checkpoint`."""
    passed_over: list[DamagedCheckpoint] = []
    for checkpoint in reversed(list_checkpoints(output_dir)):
        try:
            return ResumePoint(checkpoint, load_checkpoint(checkpoint.path), tuple(passed_over))
        except DamagedCheckpoint as error:
            passed_over.append(error)
    if passed_over:
        reasons = "\n".join(str(error) for error in passed_over)
        raise NoUsableCheckpoint(
            f"{output_dir} holds {len(passed_over)} checkpoint(s), and all are damaged.\n{reasons}\n"
            "Restore one from a backup, or choose a new output_dir to start over."
        )
    return None


def find_latest_checkpoint(output_dir: Path | str) -> Path | None:
    """The newest checkpoint (by position, not by file time) that verifies, or None if there is none.

    Raises:
        NoUsableCheckpoint: checkpoints exist but every one is damaged; names them.
    """
    newest = newest_usable(Path(output_dir))
    return newest.checkpoint.path if newest else None


def find_best_model(output_dir: Path | str) -> Path:
    """`best_model.pt`; where it is missing, the newest checkpoint instead, which a warning says.

    Raises:
        CheckpointError: there is no checkpoint either, or none that verifies.
    """
    path = Path(output_dir) / BEST
    if path.is_file():
        return path
    newest = newest_usable(path.parent)
    if newest is None:
        start = "Train with notebooks/02_train.ipynb, or name an existing checkpoint"
        raise CheckpointError(f"{path}: no such file, and no checkpoint beside it. {start}.")
    log.warning("%s is missing: %s is taken instead", path, newest.checkpoint.path.name)
    return newest.checkpoint.path


def starting_point(output_dir: Path, resume: str | None) -> ResumePoint | None:
    """The verified checkpoint to resume, or None for a fresh start; changes nothing.

    Raises:
        CheckpointError: a named checkpoint is missing, of another run, or damaged.
        NoUsableCheckpoint: "auto" finds checkpoints, and all are damaged.
    """
    if resume is None:
        return None
    if resume == "auto":
        return newest_usable(output_dir)
    path = from_root(resume)
    content = load_checkpoint(path)
    for checkpoint in list_checkpoints(output_dir):
        if checkpoint.path.resolve() == path.resolve():
            return ResumePoint(checkpoint, content)
    raise CheckpointError(
        f"{path} is not a checkpoint of {output_dir}. Copy it there to resume it, or set start_from to "
        "start another run from its weights."
    )


def write_commit(output_dir: Path, content: Commit, keep: str | int) -> None:
    """Writes a checkpoint, then prunes older ones. WriteFailed leaves the earlier commits intact."""
    write_sealed(output_dir / checkpoint_name(content["epoch"], content["step"]), content)
    prune(output_dir, keep, content)


def write_derived_files(
    output_dir: Path, content: Commit, outcome: Outcome | None, resumed: bool = False
) -> None:
    """Writes what this commit derives and is not there yet: history, best model, final model.

    Only a commit that a run resumes looks for the best model's weights in earlier ones.
    """
    history = json.dumps(content["history"], indent=1).encode()
    path = output_dir / HISTORY
    if not path.is_file() or path.read_bytes() != history:
        write_whole(path, history)
    best = content["best"]["epoch"] if content["best"] else None
    is_best = (content["epoch"], content["step"]) == (best, 0)
    if best is not None and (is_best or resumed) and model_epoch(output_dir / BEST) != best:
        try:
            source = content if is_best else _whole_epoch(output_dir, best, content["history"])
            write_sealed(output_dir / BEST, model_part(source))
        except CheckpointError as error:
            log.warning("%s is not of epoch %d and cannot be made again: %s", BEST, best, error)
            if (output_dir / BEST).exists():
                set_aside([output_dir / BEST], SUPERSEDED)
    if outcome is not None and model_epoch(output_dir / FINAL) != content["epoch"]:
        write_sealed(output_dir / FINAL, model_part(content))


def _whole_epoch(output_dir: Path, epoch: int, history: list[EpochRecord]) -> Commit:
    """The commit that ended an epoch of this history: in the directory, or set aside from it."""
    path = output_dir / checkpoint_name(epoch, 0)
    aside = sorted((output_dir / SUPERSEDED).glob(f"{path.stem}.*")) if not path.exists() else []
    for other in aside:
        try:
            content = load_checkpoint(other)
        except CheckpointError as error:
            log.warning("passed over: %s", error)
            continue
        if content["history"] == history[:epoch]:
            return content
    return load_checkpoint(path)


def clear_the_way(output_dir: Path, start: ResumePoint | None, resume: str | None) -> None:
    """Sets aside whatever is newer than the starting point; deletes nothing."""
    checkpoints = list_checkpoints(output_dir)
    later = [c.path for c in checkpoints if start is None or c > start.checkpoint]
    if start is not None and resume == "auto":
        for error in start.passed_over:
            log.warning("passed over: %s", error)
        if later:
            set_aside(later, DAMAGED)
        return
    derived = [output_dir / name for name in (BEST, FINAL, HISTORY)]
    best = start.content["best"] if start else None
    if best and model_epoch(output_dir / BEST) == best["epoch"]:
        derived.remove(output_dir / BEST)  # it stays the best
    # Newest first: if this is killed halfway, "auto" resumes from an earlier checkpoint.
    files = later[::-1] + [path for path in derived if path.exists()]
    if files and (later or start is None):
        set_aside(files, SUPERSEDED)


def set_aside(paths: Sequence[Path], into: str) -> None:
    """Moves files to a subdirectory of theirs, numbering names that are taken there, and logs it."""
    for path in paths:
        directory = path.parent / into
        directory.mkdir(exist_ok=True)
        target, number = directory / path.name, 1
        while target.exists():
            number += 1
            target = directory / f"{path.stem}.{number}{path.suffix}"
        path.replace(target)
    log.info("set aside in %s/: %s", into, ", ".join(path.name for path in paths))


def _best_epochs(content: Commit, ends: set[int]) -> set[int]:
    """The epochs that were the best when these epochs ended."""
    anew = {c["epoch"] - (c["step"] > 0) for c in content.get("changes", []) if c["best_anew"]}
    best, found = None, set()
    for done, record in enumerate(content["history"]):
        if best is None or done in anew or record["validation_loss"] < best["validation_loss"]:
            best = record
        if record["epoch"] in ends:
            found.add(best["epoch"])
    return found


def prune(output_dir: Path, keep: str | int, content: Commit) -> None:
    """Removes checkpoints that newer ones replace; call right after a commit.

    Checkpoints inside an epoch: the newest two are kept until the epoch's own commit. Checkpoints of
    whole epochs: the last `keep` are kept, and for each the best epoch up to it, so that the best model
    can be made again after going back; or "all". Nothing is removed before the newest has been read back
    and verified: the disk may hold something else than was written.
    """
    checkpoints = list_checkpoints(output_dir)
    epochs = [c for c in checkpoints if not c.steps_into_next]
    inside = [c for c in checkpoints if c.steps_into_next]
    unfinished = [c for c in inside if not epochs or c > epochs[-1]]
    stale = [c for c in inside if c not in unfinished[-2:]]
    if keep != "all":
        best = _best_epochs(content, {checkpoint.epoch for checkpoint in epochs[-int(keep) :]})
        stale += [c for c in epochs[: -int(keep)] if c.epoch not in best]
    if not stale:
        return
    try:
        verified_bytes(checkpoints[-1].path)
    except DamagedCheckpoint as error:
        log.warning("no older checkpoint is removed: %s Check the disk.", error)
        return
    for checkpoint in stale:
        checkpoint.path.unlink(missing_ok=True)
