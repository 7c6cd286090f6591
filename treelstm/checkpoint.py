"""The commit protocol: one file is the commit, written whole, verified before use.

`checkpoint_epoch_N.pt` is the state after epoch N, `checkpoint_epoch_N_step_S.pt` the state inside
epoch N after S steps. A checkpoint is torch's own zip with a SHA-256 of every byte before it in the
zip's comment: torch reads the file as it is, and no flipped bit anywhere in it goes unseen (the
members' CRC-32 would leave the headers uncovered, and torch does not look at either).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
import torch

from treelstm.config import Config
from treelstm.files import TEMPORARY_SUFFIX, WriteFailed, write_whole
from treelstm.model import TreeEncoder
from treelstm.trees import Vocabulary

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("treelstm")

FORMAT = 2  # raised whenever an older package could misread a newer checkpoint
BEST, FINAL, HISTORY = "best_model.pt", "final_model.pt", "training_history.json"
SUPERSEDED, DAMAGED = "superseded", "damaged"

_NAME = re.compile(r"checkpoint_epoch_([1-9]\d*)(?:_step_(\d+))?\.pt")
_SEAL = b"treelstm sha256 "  # begins the zip comment; 64 hex digits follow
_COMMENT_BYTES = len(_SEAL) + 64
_CHECKPOINT_KEYS = frozenset(
    [
        "format",
        "epoch",
        "step",
        "model_state_dict",
        "optimizer_state_dict",
        "scheduler_state_dict",
        "train_loss",
        "history",
        "running",
        "best",
        "threshold",
        "vocabulary",
        "config",
        "fingerprint",
        "versions",
        "num_threads",
        "device",
    ]
)


class CheckpointError(ValueError):
    """A checkpoint cannot be used."""


class DamagedCheckpoint(CheckpointError):
    """A file is truncated, altered, or was never a checkpoint."""


class NoUsableCheckpoint(CheckpointError):
    """Checkpoints exist, but every one is damaged."""


class RunInUse(RuntimeError):
    """Another process writes to this output directory."""


# --- names and positions -----------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A checkpoint's place in its run; checkpoints sort by it. Nothing is read to make one."""

    epochs_done: int
    steps_into_next: int
    path: Path

    @property
    def epoch(self) -> int:
        """The epoch in the file's name: the one it completes, or the one it is inside of."""
        return self.epochs_done + (self.steps_into_next > 0)

    @property
    def position(self) -> tuple[int, int]:
        return self.epochs_done, self.steps_into_next


def checkpoint_name(epochs_done: int, steps_into_next: int) -> str:
    if steps_into_next:
        return f"checkpoint_epoch_{epochs_done + 1}_step_{steps_into_next}.pt"
    return f"checkpoint_epoch_{epochs_done}.pt"


def list_checkpoints(output_dir: Path | str) -> list[Checkpoint]:
    """All checkpoints of a run by position, oldest first; an empty list where there are none.

    Judged by name alone; `load_checkpoint` tells whether one is whole.
    """
    found = []
    for path in Path(output_dir).glob("checkpoint_epoch_*.pt"):
        if match := _NAME.fullmatch(path.name):
            epoch, step = int(match[1]), match[2]
            found.append(
                Checkpoint(epoch, 0, path) if step is None else Checkpoint(epoch - 1, int(step), path)
            )
    return sorted(found)


def find_latest_checkpoint(output_dir: Path | str) -> Path | None:
    """The newest checkpoint that verifies, or None where there is none at all.

    Newest by position (epoch, then step), not by file time. Changes nothing.

    Raises:
        NoUsableCheckpoint: checkpoints exist but every one is damaged; names them.
    """
    usable = newest_usable(Path(output_dir))
    return usable.checkpoint.path if usable else None


@dataclass(frozen=True)
class Usable:
    """A verified checkpoint, and what is wrong with each newer one."""

    checkpoint: Checkpoint
    content: dict[str, Any]
    passed_over: tuple[DamagedCheckpoint, ...] = ()


def newest_usable(output_dir: Path) -> Usable | None:
    """The newest checkpoint that verifies; raises as `find_latest_checkpoint`."""
    passed_over: list[DamagedCheckpoint] = []
    for checkpoint in reversed(list_checkpoints(output_dir)):
        try:
            return Usable(checkpoint, load_checkpoint(checkpoint.path), tuple(passed_over))
        except DamagedCheckpoint as error:
            passed_over.append(error)
    if passed_over:
        reasons = "\n".join(str(error) for error in passed_over)
        raise NoUsableCheckpoint(
            f"{output_dir} holds {len(passed_over)} checkpoint(s), none of them whole; starting over "
            f"would bury the run.\n{reasons}\nRestore one from a backup, or choose a new output_dir."
        )
    return None


# --- sealed files ------------------------------------------------------------------------------


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` as a torch file with its digest inside, whole or not at all.

    Raises:
        WriteFailed: as `write_whole`.
    """
    write_whole(path, *sealed(content))


def sealed(content: dict[str, Any]) -> tuple[memoryview, bytes]:
    """The bytes of a sealed file: what torch writes, then the digest in the zip's comment."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    data[-2:] = _COMMENT_BYTES.to_bytes(2, "little")  # the end record's comment length, 0 until now
    digest = hashlib.sha256(data).hexdigest().encode()
    return data, _SEAL + digest


def read_sealed(path: Path) -> dict[str, Any]:
    """The content of a file that `write_sealed` wrote, tensors on the CPU.

    The bytes that are verified are the bytes that are parsed, and parsing runs no code.

    Raises:
        FileNotFoundError: nothing is there.
        DamagedCheckpoint: the file is not byte for byte what was written; says how.
    """
    data = _verified_bytes(path)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        # torch's text is mostly advice on loading the file unsafely; the name it stumbled on is not.
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {code[1]}" if code else str(error).partition("\n")[0]
        raise DamagedCheckpoint(f"{path} is no checkpoint: torch refuses it ({reason}).") from error
    if not isinstance(content, dict):
        raise DamagedCheckpoint(f"{path} is no checkpoint: it holds a {type(content).__name__}.")
    return content


def _verified_bytes(path: Path) -> bytes:
    """The bytes of a sealed file that match their digest; raises as `read_sealed`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file. Name an existing checkpoint.") from None
    except OSError as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error.strerror}.") from error
    body, seal, digest = data[:-_COMMENT_BYTES], data[-_COMMENT_BYTES:-64], data[-64:]
    if not data:
        raise DamagedCheckpoint(f"{path} is damaged: it holds no bytes.")
    if seal != _SEAL:
        raise DamagedCheckpoint(
            f"{path} is damaged: it is cut short, or treelstm did not write it "
            f"({len(data):,} bytes, no digest at its end)."
        )
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamagedCheckpoint(f"{path} is damaged: its bytes do not match their SHA-256.")
    return data


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """A verified checkpoint: `epoch`, `step`, `model_state_dict`, `optimizer_state_dict`,
    `train_loss`, `history` and what else resumption needs; tensors on the CPU.

    Raises:
        FileNotFoundError: nothing is there.
        DamagedCheckpoint: the file is damaged, foreign, or not what its name says.
        CheckpointError: a newer version of the package wrote it.
    """
    path = Path(path)
    content = read_sealed(path)
    _check_format(path, content)
    missing = sorted(_CHECKPOINT_KEYS - set(content))
    if missing:
        raise DamagedCheckpoint(f"{path} is no checkpoint of a run: it lacks {', '.join(missing)}.")
    name = checkpoint_name(content["epoch"] - (content["step"] > 0), content["step"])
    if _NAME.fullmatch(path.name) and path.name != name:
        raise DamagedCheckpoint(f"{path} holds what belongs under the name {name}. Rename it.")
    return content


def _check_format(path: Path, content: dict[str, Any]) -> None:
    if content.get("format", 0) > FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']}, this version of treelstm reads up to {FORMAT}. "
            "Update treelstm."
        )


# --- encoders from files -----------------------------------------------------------------------


def model_content(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What `load_encoder` needs of a checkpoint: no optimizer, no position."""
    names = ["format", "epoch", "model_state_dict", "threshold", "vocabulary", "config", "versions"]
    return {name: checkpoint[name] for name in names}


def model_epoch(path: Path) -> int | None:
    """The epoch whose weights a model file holds, None where it is missing or damaged."""
    try:
        return int(read_sealed(path)["epoch"])
    except (FileNotFoundError, CheckpointError, KeyError):
        return None


def settings_of(path: Path | str) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint or a model; raises as `load_encoder`."""
    content = read_sealed(Path(path))
    _check_format(Path(path), content)
    if "config" not in content:
        raise DamagedCheckpoint(f"{path} holds no settings of a run.")
    return dict(content["config"])


def load_encoder(path: Path | str, device: str = "cpu") -> TreeEncoder:
    """The encoder in a checkpoint, `best_model.pt` or `final_model.pt`, ready to `.encode(asts)`.

    Its `threshold` is the distance under which two trees count as similar.

    Raises:
        FileNotFoundError, DamagedCheckpoint, CheckpointError: as `load_checkpoint`.
    """
    path = Path(path)
    content = read_sealed(path)
    _check_format(path, content)
    try:
        encoder = build_encoder(content["config"], Vocabulary(content["vocabulary"]))
        load_weights(encoder, content, path)
        encoder.threshold = float(content["threshold"])
    except KeyError as error:
        raise DamagedCheckpoint(f"{path} holds no encoder: it lacks {error}.") from error
    return encoder.to(device).eval()


def load_weights(encoder: TreeEncoder, content: dict[str, Any], path: Path) -> None:
    """
    Raises:
        CheckpointError: the weights are not this encoder's, in name or size; says which.
    """
    try:
        encoder.load_state_dict(content["model_state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split()).partition(": ")[2]
        raise CheckpointError(
            f"{path} holds the weights of another model ({reason}). Use the version of treelstm that "
            f"wrote it, or start a new output_dir."
        ) from error


def build_encoder(config: dict[str, Any], vocabulary: Vocabulary) -> TreeEncoder:
    """A fresh encoder with the sizes of `config` (plain values, as a checkpoint holds them)."""
    names = ["embedding_dim", "hidden_dim", "output_dim", "ignored_keys", "seed"]
    precision = config.get("precision", Config.precision)  # checkpoints of version 0.1 lack it
    return TreeEncoder(vocabulary, precision=precision, **{name: config[name] for name in names})


# --- a run's directory -------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """Who writes to an output directory."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_this_process(self) -> bool:
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())


@contextmanager
def only_writer(output_dir: Path) -> Iterator[None]:
    """Holds the directory for this process, and clears what a killed writer left half-written.

    The operating system frees the lock of a process that ends in any way, so no lock goes stale.

    Raises:
        RunInUse: another process holds it; says which, where, since when.
        WriteFailed: the directory cannot be made or written to.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(output_dir / ".lock", timeout=0.5)
        lock.acquire()  # half a second, since `holder` shares the lock for an instant to look
    except filelock.Timeout:
        refuse_if_held(output_dir)
        raise
    except OSError as error:
        raise WriteFailed(
            error.errno,
            f"{error.strerror}: {output_dir} cannot be written to. "
            "Mend its permissions or choose another output_dir",
        ) from error
    try:
        for depth in ("", "*/"):
            for leftover in output_dir.glob(f"{depth}.*{TEMPORARY_SUFFIX}"):
                leftover.unlink()
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
        write_whole(output_dir / ".holder.json", json.dumps(about).encode())
        yield
    finally:
        lock.release()


def refuse_if_held(output_dir: Path) -> None:
    """
    Raises:
        RunInUse: a process holds the directory; says which, where, since when.
    """
    if by := holder(output_dir):
        raise RunInUse(
            f"{output_dir} is in use by {by}. Wait for it, stop it, or choose another output_dir."
        )


def holder(output_dir: Path) -> Holder | None:
    """Who holds the directory now, or None where nobody does. Any number may look at once."""
    if not _locked(output_dir / ".lock"):
        return None
    try:
        return Holder(**json.loads((output_dir / ".holder.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return Holder("an unknown host", 0, "a moment ago")  # between its lock and its note


def _locked(path: Path) -> bool:
    """Whether a writer holds this lock; a shared lock asks, so that lookers never meet as writers."""
    try:
        with path.open("rb") as file:
            if fcntl is None:
                with filelock.FileLock(path, timeout=0):
                    return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (BlockingIOError, filelock.Timeout):
        return True


@dataclass(frozen=True)
class RunStatus:
    """How a run stands, from its files alone."""

    output_dir: Path
    newest: Usable
    held_by: Holder | None
    finished: bool
    last_words: str  # the last line of its log

    @property
    def history(self) -> list[dict[str, Any]]:
        return list(self.newest.content["history"])

    @property
    def config(self) -> dict[str, Any]:
        """The settings it was trained with, its own directory as it is found now."""
        return {**self.newest.content["config"], "output_dir": str(self.output_dir)}

    def __str__(self) -> str:
        content = self.newest.content
        place = f"epoch {content['epoch']}" + (f", step {content['step']}" if content["step"] else "")
        if self.held_by:
            how = f"being trained by {self.held_by}; newest commit: {place}"
        elif self.finished:
            how = f"finished: {place}"
        elif stop := re.search(r"stopped by \w+", self.last_words):
            how = f"{stop[0]}; newest commit: {place}"
        else:
            how = f"not running and not finished (killed, or an error); newest commit: {place}"
        lines = [f"{self.output_dir} is {how}", f"last line of its log: {self.last_words or 'none'}"]
        return "\n".join([*lines, *(f"damaged: {error}" for error in self.newest.passed_over)])


def run_status(output_dir: Path) -> RunStatus:
    """How the run in `output_dir` stands; changes nothing, also while another process trains it.

    Raises:
        CheckpointError: there is no checkpoint, or none that verifies.
    """
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
    at_an_epochs_end = content["step"] == 0
    finished = at_an_epochs_end and model_epoch(output_dir / FINAL) == content["epoch"]
    return RunStatus(output_dir, newest, holder(output_dir), finished, _last_words(output_dir))


def _last_words(output_dir: Path) -> str:
    """The last line of the run's log, which may just have been rotated."""
    for name in ("training.log", "training.log.1"):
        path = output_dir / name
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines:
            return lines[-1]
    return ""


def glance(path: Path) -> dict[str, Any]:
    """One row of a table of checkpoints, without reading the file: what its name and its file system
    say. `status` is "" and the numbers are None until `describe` has read it.

    Raises:
        FileNotFoundError: it has been removed meanwhile.
    """
    stat = path.stat()
    match = _NAME.fullmatch(path.name)
    epoch, step = (int(match[1]), match[2]) if match else (None, None)
    return {
        "path": path,
        "epoch": epoch,
        "step": None if step is None else int(step),
        "train_loss": None,
        "validation_loss": None,
        "average_precision": None,
        "bytes": stat.st_size,
        "written": datetime.fromtimestamp(stat.st_mtime).astimezone(),
        "config": {},
        "status": "",
    }


def describe(path: Path) -> dict[str, Any]:
    """`glance`, and what the checkpoint or model file holds once it is read and verified.

    `status` is "verified", or says what is wrong; the numbers of a damaged one are None.
    """
    row = glance(path)
    try:
        content = load_checkpoint(path) if _NAME.fullmatch(path.name) else read_sealed(path)
    except CheckpointError as error:
        return {**row, "status": str(error)}
    inside = bool(content.get("step"))
    history = content.get("history", ())
    last = history[-1] if history and not inside else {}
    return {
        **row,
        "epoch": content["epoch"],
        "train_loss": content.get("train_loss"),
        "validation_loss": last.get("validation_loss"),
        "average_precision": last.get("validation_average_precision"),
        "config": content["config"],
        "status": "verified",
    }


def set_aside(paths: list[Path], into: str) -> list[Path]:
    """Moves files into a subdirectory of their own; a name already taken there gets a number."""
    moved = []
    for path in paths:
        directory = path.parent / into
        directory.mkdir(exist_ok=True)
        target, number = directory / path.name, 1
        while target.exists():
            number += 1
            target = directory / f"{path.stem}.{number}{path.suffix}"
        path.replace(target)
        moved.append(target)
    return moved


def prune(output_dir: Path, keep: str | int, best_epoch: int | None) -> None:
    """Removes checkpoints that a newer commit made dispensable; call right after a commit.

    Of those inside an epoch the newest two stay until an epoch's commit follows them. Of the epochs'
    own, the last `keep` and the best stay; `"all"` keeps them all. Nothing is removed before the
    newest has been read back whole: the disk may have kept something else than was written.
    """
    checkpoints = list_checkpoints(output_dir)
    epochs = [c for c in checkpoints if not c.steps_into_next]
    inside = [c for c in checkpoints if c.steps_into_next]
    newest_epoch = epochs[-1].position if epochs else (0, 0)
    stale = [c for c in inside if c.position < newest_epoch]
    stale += [c for c in inside if c.position > newest_epoch][:-2]
    if keep != "all":
        stale += [c for c in epochs[: -int(keep)] if c.epochs_done != best_epoch]
    if not stale:
        return
    try:
        _verified_bytes(checkpoints[-1].path)
    except DamagedCheckpoint as error:
        log.warning("no older checkpoint is removed: %s Check the disk.", error)
        return
    for checkpoint in stale:
        checkpoint.path.unlink(missing_ok=True)
