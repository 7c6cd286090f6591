"""A run's directory: its commits, the newest that verifies, and the files derived from a commit.

`checkpoint_epoch_N.pt` is the state after epoch N, `checkpoint_epoch_N_step_S.pt` the state inside
epoch N after S steps. One such file is the commit; history, best and final model are derived from it.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar, cast

from treelstm.config import from_root
from treelstm.files import WriteFailed, listed, make_directory, write_if_other
from treelstm.history import EpochRecord, Outcome, best
from treelstm.model.content import ModelFile
from treelstm.model.files import model_epoch, model_part
from treelstm.run.content import Commit, check_commit
from treelstm.sealed import (
    CheckpointError,
    DamagedCheckpoint,
    UnreadableCheckpoint,
    read_sealed,
    verified_bytes,
    write_sealed,
)

log = logging.getLogger("treelstm")

BEST, FINAL, HISTORY = "best_model.pt", "final_model.pt", "training_history.json"
SUMMARY, TRIAL, SWEEP = "run.json", "trial.json", "sweep.json"  # the last two are a sweep's
SUPERSEDED, DAMAGED = "superseded", "damaged"
BAG_ALONE = "bag_alone"  # what 04_evaluate trains beside a model

_NAME = re.compile(r"checkpoint_epoch_([1-9]\d*)(?:_step_(\d+))?\.pt")


class NoUsableCheckpoint(CheckpointError):
    """Checkpoints exist, but every one is damaged."""


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
    if (match := _NAME.fullmatch(path.name)) is None:
        return None
    epoch, step = match.groups()
    return Checkpoint(int(epoch) - (step is not None), int(step or 0), path)


def is_file_of_run(name: str) -> bool:
    """Whether a run writes a file of this name into its directory, under a temporary name first."""
    others = (BEST, FINAL, HISTORY, SUMMARY, TRIAL, SWEEP, "training.log", ".lock", ".holder.json")
    return name in others or bool(_NAME.fullmatch(name)) or name.startswith(".treelstm-preflight-")


def list_checkpoints(output_dir: Path | str) -> list[Checkpoint]:
    """All checkpoints of a run by position, oldest first, by name alone; raises as `names_in`."""
    directory = Path(output_dir)
    return sorted(filter(None, (checkpoint_at(directory / name) for name in names_in(directory))))


def names_in(directory: Path) -> list[str]:
    """The names in a directory, none if it does not exist.

    Raises:
        UnreadableCheckpoint: it cannot be listed.
    """
    try:
        return [path.name for path in listed(directory, "*")]
    except OSError as error:
        raise UnreadableCheckpoint(directory, error.strerror) from error


def load_checkpoint(path: Path | str) -> Commit:
    """The content of a verified checkpoint (the keys of `Commit`), tensors on the CPU.

    Raises:
        MissingCheckpoint: there is no such file.
        DamagedCheckpoint: the file is damaged, foreign, or not what its name says.
        UnreadableCheckpoint: the file system refuses; the file may be good.
        CheckpointError: another version of the package wrote it.
    """
    path = Path(path)
    content = cast("Commit", read_sealed(path))
    if missing := sorted(Commit.__required_keys__ - content.keys()):
        found = f"is not a checkpoint of a run: it lacks {', '.join(missing)}"
        if ModelFile.__required_keys__ <= content.keys():
            found = "holds an encoder, not the state of a run. To begin with its weights, set start_from"
        raise DamagedCheckpoint(f"{path} {found}.")
    check_commit(path, content)
    name = checkpoint_name(content["epoch"], content["step"])
    if checkpoint_at(path) and path.name != name:
        raise DamagedCheckpoint(f"{path} holds what belongs under the name {name}. Rename it.")
    return content


@dataclass(frozen=True)
class ResumePoint:
    """A verified checkpoint, and what is wrong with each newer one."""

    checkpoint: Checkpoint
    content: Commit
    passed_over: tuple[DamagedCheckpoint, ...] = ()


_Look = TypeVar("_Look", bound=Callable[..., Any])


def looks_again(look: _Look) -> _Look:
    """Calls `look` again while it misses a file that newer commits of a live run have just replaced."""

    @wraps(look)
    def until_seen(output_dir: Path | str, *rest: Any, **named: Any) -> Any:
        while True:
            listed = list_checkpoints(output_dir)
            try:
                return look(Path(output_dir), *rest, **named)
            except FileNotFoundError:
                if list_checkpoints(output_dir) == listed:
                    raise

    return cast("_Look", until_seen)


@looks_again
def newest_usable(output_dir: Path | str) -> ResumePoint | None:
    """The newest checkpoint that verifies; None and errors as `find_latest_checkpoint`."""
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
        UnreadableCheckpoint: the directory cannot be listed, or the newest checkpoint not be read.
    """
    return newest.checkpoint.path if (newest := newest_usable(output_dir)) else None


def find_best_model(output_dir: Path | str) -> Path:
    """`best_model.pt`; where it is missing, the newest checkpoint instead, which a warning says.

    Raises:
        CheckpointError: there is no checkpoint either, or none that verifies.
    """
    path = Path(output_dir) / BEST
    if BEST in names_in(path.parent):
        return path
    newest = newest_usable(path.parent)
    if newest is None:
        remedy = "Train with notebooks/02_train.ipynb, or name an existing checkpoint"
        raise CheckpointError(f"{path}: no such file, and no checkpoint beside it. {remedy}.")
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
    output_dir: Path, content: Commit, outcome: Outcome | None, resumed: bool
) -> None:
    """Writes what this commit derives and is not there yet: history, best model, final model.

    Only a commit that a run resumes looks for the best model's weights in earlier ones.
    """
    write_if_other(output_dir / HISTORY, json.dumps(content["history"], indent=1).encode())
    epoch = content["best"]["epoch"] if content["best"] else None
    is_best = (content["epoch"], content["step"]) == (epoch, 0)
    if epoch is not None and (is_best or resumed) and model_epoch(output_dir / BEST) != epoch:
        try:
            source = content if is_best else _whole_epoch(output_dir, epoch, content["history"])
            write_sealed(output_dir / BEST, model_part(source))
        except CheckpointError as error:
            log.warning("%s is not of epoch %d and cannot be made again: %s", BEST, epoch, error)
            if BEST in names_in(output_dir):
                set_aside([output_dir / BEST], SUPERSEDED)
    if outcome is not None and model_epoch(output_dir / FINAL) != content["epoch"]:
        write_sealed(output_dir / FINAL, model_part(content))


def _whole_epoch(output_dir: Path, epoch: int, history: list[EpochRecord]) -> Commit:
    """The commit that ended an epoch of this history: in the directory, or set aside from it."""
    path = output_dir / checkpoint_name(epoch, 0)
    for other in [] if path.name in names_in(output_dir) else _set_aside_before(path):
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
    later = [c.path for c in list_checkpoints(output_dir) if start is None or c > start.checkpoint]
    passed_over = start.passed_over if start else ()
    if resume == "auto" and len(later) != len(passed_over):
        raise UnreadableCheckpoint(output_dir, "two listings of it, one after the other, differ")
    if start is not None and resume == "auto":
        for error in passed_over:
            log.warning("passed over: %s", error)
        if later:
            set_aside(later, DAMAGED)
        return
    there = names_in(output_dir)
    derived = [output_dir / name for name in (BEST, FINAL, HISTORY) if name in there]
    its_best = start.content["best"] if start else None
    if its_best and model_epoch(output_dir / BEST) == its_best["epoch"]:
        derived.remove(output_dir / BEST)  # it stays the best
    # Newest first: if this is killed halfway, "auto" resumes from an earlier checkpoint.
    files = later[::-1] + derived
    if files and (later or start is None):
        set_aside(files, SUPERSEDED)


def set_aside(paths: Sequence[Path], into: str) -> None:
    """Moves files to a subdirectory of theirs, numbering names that are taken there, and logs it."""
    for path in paths:
        directory = path.parent / into
        make_directory(directory)
        numbered = (f"{path.stem}.{number}{path.suffix}" for number in count(2))
        taken = {*names_in(directory)}
        name = next(name for name in chain([path.name], numbered) if name not in taken)
        try:
            path.replace(directory / name)
        except OSError as error:
            remedy = "Correct the directory, then run the same command again"
            text = f"{error.strerror}: {path} cannot be moved to {directory}. {remedy}"
            raise WriteFailed(error.errno, text) from error
    log.info("set aside in %s/: %s", into, ", ".join(path.name for path in paths))


def now_at(path: Path, output_dir: Path) -> Path:
    """Where a file is: a fresh start in the directory that holds it may have set it aside since."""
    if path.parent.resolve() != output_dir.resolve() or path.name in names_in(path.parent):
        return path
    return [path, *_set_aside_before(path)][-1]


def _set_aside_before(path: Path) -> list[Path]:
    """The files of this name that `set_aside` has moved to superseded/, oldest first."""
    numbered = re.compile(rf"{re.escape(path.stem)}(?:\.(\d+))?{re.escape(path.suffix)}")
    matches = map(numbered.fullmatch, names_in(path.parent / SUPERSEDED))
    copies = {int(match[1] or 1): match[0] for match in matches if match}
    return [path.parent / SUPERSEDED / copies[number] for number in sorted(copies)]


def prune(output_dir: Path, keep: str | int, content: Commit) -> None:
    """Removes checkpoints that newer ones replace; call right after a commit.

    Kept are the newest two inside an epoch, until the epoch's own; of whole epochs the last `keep`, and
    for each the best one up to it, so that the best model can be made again after going back; or "all".
    Before anything is removed, the newest is read back: the disk may not hold what was written.
    """
    try:
        checkpoints = list_checkpoints(output_dir)
    except UnreadableCheckpoint as error:
        log.warning("no older checkpoint is removed: %s", error)
        return
    epochs = [c for c in checkpoints if not c.steps_into_next]
    inside = [c for c in checkpoints if c.steps_into_next]
    unfinished = [c for c in inside if not epochs or c > epochs[-1]]
    stale = [c for c in inside if c not in unfinished[-2:]]
    if keep != "all":
        bests = [best(content["history"][: c.epoch]) for c in epochs[-int(keep) :]]  # by then
        needed = {record["epoch"] for record in bests if record}
        stale += [c for c in epochs[: -int(keep)] if c.epoch not in needed]
    if not stale:
        return
    try:
        verified_bytes(checkpoints[-1].path)
    except CheckpointError as error:
        log.warning("no older checkpoint is removed: %s Check the disk.", error)
        return
    for checkpoint in stale:
        checkpoint.path.unlink(missing_ok=True)
