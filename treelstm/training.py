"""Training: one loop, entered at any step; training and resuming are the same function.

Everything that a step depends on is in `Run`, or is a pure function of (seed, epoch, step). A
commit is a `Run` on disk, so a killed run ends bit-identical to one that was never killed.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import platform
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, ReduceLROnPlateau

from treelstm import checkpoint as store
from treelstm.checkpoint import CheckpointError, Usable
from treelstm.config import Config, project_root
from treelstm.data import Corpus, Pairs, load_corpus
from treelstm.evaluation import calibrated_threshold, pair_distances, pair_metrics
from treelstm.events import write_events
from treelstm.files import write_whole
from treelstm.model import ARITHMETIC, TreeEncoder, contrastive_loss, distances
from treelstm.notify import notify, summary, wanted
from treelstm.progress import Progress, in_notebook, logged, watched
from treelstm.randomness import dropout_mask, epoch_order
from treelstm.signals import stop_signals
from treelstm.trees import Vocabulary

if TYPE_CHECKING:
    from treelstm.widgets import TrainingMonitor

log = logging.getLogger("treelstm")

# Times what an untrained encoder has: losses (distances 100 times as large) and weights.
_EXPLODED = 10_000.0


class SettingsChanged(ValueError):
    """A run cannot be resumed with these settings or data; says which, both values, the way out."""


class TrainingDiverged(ArithmeticError):
    """Loss or weights are no longer finite, or beyond all measure; the last commit is good.

    Beyond all measure: the epoch's mean loss is over 10,000 times that of the first step, and of an
    encoder that maps all trees to one point (margin squared / 2); or the norm of the weights is over
    10,000 times what it was when they were drawn.
    """


@dataclass(frozen=True)
class History:
    """What `train` returns: one dict an epoch (as in training_history.json) and how it ended."""

    epochs: list[dict[str, Any]]
    outcome: str  # "finished", "finished early" (by patience) or "stopped by SIGTERM" (or another)
    output_dir: Path
    resumed_at: tuple[int, int] | None  # (epochs done, steps into the next), None: a fresh start

    @property
    def finished(self) -> bool:
        return self.outcome.startswith("finished")

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch with the lowest validation loss, the first of them; None before any."""
        return min(self.epochs, key=lambda record: record["validation_loss"], default=None)


# --- the state of a run ------------------------------------------------------------------------


@dataclass
class Run:
    """Everything that the next step depends on."""

    config: Config
    corpus: Corpus
    encoder: TreeEncoder
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None  # steps once an epoch
    warmup: LRScheduler | None  # steps once a step, and multiplies what the other decides
    running: torch.Tensor  # float64 [2] on the run's device: this epoch's loss sum, correct pairs
    drawn_norm: float  # of the weights before anything was learned or loaded
    threshold: float  # of the newest validation; half the margin before the first
    epochs_done: int = 0
    step: int = 0  # steps done in the epoch after those
    best: dict[str, Any] | None = None  # epoch and validation_loss of the best epoch
    history: list[dict[str, Any]] = field(default_factory=list)
    first_loss: torch.Tensor | None = None  # mean of the first step, on the run's device
    seconds: float = 0.0  # that the running epoch's committed steps took, over all lives
    timings: list[dict[str, Any]] = field(default_factory=list)  # one dict an epoch; no rerun repeats it

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.corpus.training) / self.config.batch_size)

    @property
    def pairs_seen(self) -> int:
        """Pairs of the running epoch that its steps have seen."""
        return min(self.step * self.config.batch_size, len(self.corpus.training))

    @property
    def steps_done(self) -> int:
        """Optimizer steps since the run began."""
        return self.epochs_done * self.steps_per_epoch + self.step

    @property
    def device(self) -> torch.device:
        return self.running.device

    @property
    def outcome(self) -> str | None:
        """How the run has ended by itself, or None while there is more to do."""
        if self.step == 0 and self.epochs_done >= self.config.epochs:
            return "finished"
        waited = self.epochs_done - self.best["epoch"] if self.best else 0
        if self.step == 0 and self.config.patience is not None and waited >= self.config.patience:
            return "finished early"
        return None


def new_run(config: Config, corpus: Corpus) -> Run:
    """The state before the first step, on the configured device."""
    if config.start_from is None:
        return _blank_run(config, corpus)
    path = project_root() / config.start_from
    weights = store.load_encoder(path)
    run = _blank_run(config, replace(corpus, vocabulary=weights.vocabulary))
    _take_weights(run.encoder, weights, path)
    return run


def resumed_run(config: Config, corpus: Corpus, start: Usable) -> Run:
    """The state that a commit holds.

    Raises:
        SettingsChanged: settings or data decide differently what is computed; names all of them.
        CheckpointError: the weights are of another model.
    """
    content, path = start.content, start.checkpoint.path
    if changes := changed_settings(config, corpus, content):
        raise SettingsChanged(
            f"{path} was trained with other settings or data:\n  "
            + "\n  ".join(changes)
            + "\nPut back what it was trained with to resume it, or choose a new output_dir to start "
            "another run (start_from takes its weights along)."
        )
    run = _blank_run(config, replace(corpus, vocabulary=Vocabulary(content["vocabulary"])))
    store.load_weights(run.encoder, content, path)
    run.optimizer.load_state_dict(content["optimizer_state_dict"])
    if run.scheduler is not None:
        run.scheduler.load_state_dict(content["scheduler_state_dict"])
    if run.warmup is not None:
        run.warmup.load_state_dict(content["warmup_state_dict"])
    run.running = torch.tensor(content["running"], dtype=torch.float64, device=run.device)
    run.threshold, run.best = content["threshold"], content["best"]
    run.history = list(content["history"])
    run.timings, run.seconds = list(content.get("timings", ())), content.get("seconds", 0.0)
    if content.get("first_loss") is not None:
        run.first_loss = torch.tensor(content["first_loss"], device=run.device)
    run.step = content["step"]
    run.epochs_done = content["epoch"] - (run.step > 0)
    return run


def _blank_run(config: Config, corpus: Corpus) -> Run:
    keep_freed_memory()
    encoder = store.build_encoder(config.to_dict(), corpus.vocabulary)
    device = _device(config.device)
    encoder.to(device)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=config.learning_rate, fused=True)
    return Run(
        config=config,
        corpus=corpus,
        encoder=encoder,
        optimizer=optimizer,
        scheduler=_scheduler(config, optimizer),
        warmup=_warmup(config, optimizer),
        running=torch.zeros(2, dtype=torch.float64, device=device),
        drawn_norm=_norm(encoder.parameters()),
        threshold=config.margin / 2,
    )


def _take_weights(encoder: TreeEncoder, weights: TreeEncoder, path: Path) -> None:
    try:
        encoder.load_state_dict(weights.state_dict())
    except RuntimeError as error:
        sizes = [(w.embedding.shape[1], w.hidden_dim, len(w.output_weight)) for w in (weights, encoder)]
        raise SettingsChanged(
            f"{path} has embedding_dim, hidden_dim, output_dim = {sizes[0]}, this run asks for "
            f"{sizes[1]}. Set the same sizes to start from its weights."
        ) from error


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsChanged(f'device is "{name}", but torch sees no GPU. Set device="cpu" or "auto".')
    return device


def _scheduler(config: Config, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    if config.lr_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs)
    if config.lr_schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
    return None


def _warmup(config: Config, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    """Step k of the first `warmup_steps` (1, 2, ...) has k / warmup_steps of the learning rate."""
    steps = config.warmup_steps
    if steps < 2:
        return None
    return LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)


# --- one step, one validation ------------------------------------------------------------------


def train_step(run: Run, order: np.ndarray, vocabulary_ids: np.ndarray) -> None:
    """One optimizer step on the next `batch_size` pairs of `order`."""
    config, pairs = run.config, run.corpus.training
    indices = order[run.step * config.batch_size : (run.step + 1) * config.batch_size]
    trees = np.concatenate((pairs.first[indices], pairs.second[indices]))
    batch = _moved(pairs.forest.batch(trees, vocabulary_ids), run.device)
    label = _moved(torch.from_numpy(pairs.label[indices]), run.device)
    mask = None
    if config.dropout:
        shape = (len(trees), config.hidden_dim)
        mask = _moved(dropout_mask(config.seed, run.steps_done, shape, config.dropout), run.device)

    encoding = run.encoder(batch, mask)
    distance = distances(encoding[: len(indices)], encoding[len(indices) :])
    loss = contrastive_loss(distance, label, config.margin)
    run.optimizer.zero_grad(set_to_none=True)
    mean = loss.mean()
    mean.backward()
    run.optimizer.step()
    if run.warmup is not None and run.steps_done < config.warmup_steps:
        run.warmup.step()
    if run.first_loss is None:
        run.first_loss = mean.detach()

    correct = (distance.detach() < run.threshold) == label.bool()
    run.running += torch.stack((loss.detach().double().sum(), correct.double().sum()))
    run.step += 1


def _moved(data: Any, device: torch.device) -> Any:
    """A tensor or batch on the device; to a GPU from pinned memory, so that nobody waits for it."""
    return data if device.type == "cpu" else data.pin_memory().to(device, non_blocking=True)


def finish_epoch(run: Run) -> dict[str, Any]:
    """Validates and closes the epoch whose steps are all done; returns its history record."""
    config, pairs = run.config, run.corpus.validation
    loss_sum, correct = run.running.tolist()
    distance = pair_distances(run.encoder, pairs)
    losses = contrastive_loss(
        torch.from_numpy(distance).double(), torch.from_numpy(pairs.label), config.margin
    )
    run.threshold = calibrated_threshold(distance, pairs.label)
    metrics = pair_metrics(distance, pairs.label, run.threshold)
    run.epochs_done += 1
    record = {
        "epoch": run.epochs_done,
        "train_loss": loss_sum / len(run.corpus.training),
        "train_acc": correct / len(run.corpus.training),
        "validation_loss": float(losses.mean()),
        "validation_acc": metrics.accuracy,
        "validation_roc_auc": metrics.roc_auc,
        "validation_average_precision": metrics.average_precision,
        "learning_rate": _learning_rate(run),
    }
    run.history.append(record)
    if run.best is None or record["validation_loss"] < run.best["validation_loss"]:
        run.best = {name: record[name] for name in ("epoch", "validation_loss")}
    if isinstance(run.scheduler, ReduceLROnPlateau):
        run.scheduler.step(record["validation_loss"])
    elif run.scheduler is not None:
        run.scheduler.step()
    run.step = 0
    run.running.zero_()
    return record


def _learning_rate(run: Run) -> float:
    return float(run.optimizer.param_groups[0]["lr"])


# --- commits -----------------------------------------------------------------------------------


def commit(run: Run) -> dict[str, Any]:
    """Writes the run's state as one checkpoint and clears the ones it makes dispensable.

    Raises:
        TrainingDiverged: the state is not worth keeping; names the step that went wrong.
        WriteFailed: the disk refuses; earlier commits are intact.
    """
    _check_sound(run)
    content = state_of(run)
    output_dir = run.config.output_path
    store.write_sealed(output_dir / store.checkpoint_name(run.epochs_done, run.step), content)
    store.prune(output_dir, run.config.keep, run.best["epoch"] if run.best else None)
    return content


def state_of(run: Run) -> dict[str, Any]:
    """What a checkpoint holds; tensors are the run's own, not copies."""
    return {
        "format": store.FORMAT,
        "epoch": run.epochs_done + (run.step > 0),
        "step": run.step,
        "model_state_dict": run.encoder.state_dict(),
        "optimizer_state_dict": run.optimizer.state_dict(),
        "scheduler_state_dict": run.scheduler.state_dict() if run.scheduler else None,
        "warmup_state_dict": run.warmup.state_dict() if run.warmup else None,
        "train_loss": _train_loss(run),
        "running": run.running.tolist(),
        "threshold": run.threshold,
        "best": run.best,
        "history": run.history,
        "first_loss": None if run.first_loss is None else float(run.first_loss),
        "timings": run.timings,
        "seconds": run.seconds,
        "vocabulary": list(run.corpus.vocabulary.symbols),
        "config": run.config.to_dict(),
        "fingerprint": run.corpus.fingerprint,
        "versions": _versions(),
        "num_threads": torch.get_num_threads(),
        "device": run.device.type,
    }


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "treelstm's arithmetic": ARITHMETIC,
    }


def _train_loss(run: Run) -> float:
    """Mean loss of the epoch so far, or of the last one where none has begun."""
    if run.step:
        return float(run.running[0]) / run.pairs_seen
    return float(run.history[-1]["train_loss"]) if run.history else math.nan


def _shown_loss(run: Run) -> float:
    """The loss for people to see; what is no number ends the run before the next commit would."""
    loss = _train_loss(run)
    if not math.isfinite(loss):
        _check_sound(run)
    return loss


def _check_sound(run: Run) -> None:
    """One look at sums and weights, at a commit: on a GPU, each look waits for the steps to end.

    Raises:
        TrainingDiverged: as `commit`.
    """
    first = 0.0 if run.first_loss is None else float(run.first_loss)
    limit = _EXPLODED * max(run.config.margin**2 / 2, first)
    losses = [_train_loss(run)] if run.step or run.history else []
    if run.history and not run.step:
        losses.append(run.history[-1]["validation_loss"])
    loss = max(losses, key=lambda loss: (not math.isfinite(loss), loss), default=first)
    if _sound(run, loss, limit) and math.isfinite(first):
        return
    raise TrainingDiverged(
        f"the loss is {loss:.4g} in epoch {run.epochs_done + (run.step > 0)}, step "
        f"{run.step or run.steps_per_epoch} of {run.steps_per_epoch}: training has diverged. "
        f"{_what_went_wrong(run, limit)} The last commit in {run.config.output_path} is good. Start "
        f"another run with a lower learning_rate (now {run.config.learning_rate}) or warmup_steps."
    )


def _sound(run: Run, loss: float, limit: float) -> bool:
    norm = _norm(run.encoder.parameters())
    return math.isfinite(loss + norm) and loss <= limit and norm <= _EXPLODED * run.drawn_norm


def _norm(tensors: Iterable[torch.Tensor]) -> float:
    """The Euclidean norm of all numbers in all tensors."""
    norms = [torch.linalg.vector_norm(tensor.detach()) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def _what_went_wrong(run: Run, limit: float) -> str:
    """Replays from the last commit, looking at every step, to the first that is not sound.

    Steps are pure functions, so the replay takes the very same ones. Where the loss of none is out of
    bounds yet, it names the step in which the weights grew most.
    """
    config, pairs = run.config, run.corpus.training
    start = store.newest_usable(config.output_path)
    again = resumed_run(config, run.corpus, start) if start else new_run(config, run.corpus)
    order = epoch_order(config.seed, again.epochs_done + 1, len(pairs))
    ids = run.corpus.vocabulary.ids(pairs.forest.symbols)
    suspect, most, after = "", 0.0, math.nan
    for step in range(again.step, run.step or run.steps_per_epoch):
        indices = order[step * config.batch_size : (step + 1) * config.batch_size]
        weights, before = _norm(again.encoder.parameters()), float(again.running[0])
        train_step(again, order, ids)
        loss = (float(again.running[0]) - before) / len(indices)
        gradient = _norm(p.grad for p in again.encoder.parameters() if p.grad is not None)
        after = _norm(again.encoder.parameters())
        sound = _sound(again, loss, limit) and math.isfinite(gradient)
        if not sound or after / weights > most:
            most = after / weights
            suspect = (
                f"It went wrong in epoch {again.epochs_done + 1}, step {step + 1}: loss {loss:.4g}, "
                f"norm of the gradient {gradient:.4g}, of the weights {weights:.4g} before and "
                f"{after:.4g} after; its pairs: {_places(pairs, indices)}."
            )
        if not sound:
            return suspect
    if after == _norm(run.encoder.parameters()):
        return suspect
    return (
        "A replay of the same steps from the last commit went well: suspect the memory or the "
        "processor of this machine."
    )


def _places(pairs: Pairs, indices: np.ndarray) -> str:
    """Files and lines of pairs, each file named once."""
    lines: dict[str, list[int]] = {}
    for where in map(pairs.where, indices.tolist()):
        path, _, line = where.rpartition(":")
        lines.setdefault(path, []).append(int(line))
    return "; ".join(
        f"{path} line {', '.join(map(str, sorted(found)))}" for path, found in sorted(lines.items())
    )


def derive(output_dir: Path, content: dict[str, Any], outcome: str | None) -> None:
    """Brings what follows from commits up to date with this one: history, best and final model."""
    history = json.dumps(content["history"], indent=1).encode()
    path = output_dir / store.HISTORY
    if not path.is_file() or path.read_bytes() != history:
        write_whole(path, history)
    best = content["best"]["epoch"] if content["best"] else None
    if best is not None and store.model_epoch(output_dir / store.BEST) != best:
        try:
            source = content
            if (content["epoch"], content["step"]) != (best, 0):
                source = store.load_checkpoint(output_dir / store.checkpoint_name(best, 0))
            store.write_sealed(output_dir / store.BEST, store.model_content(source))
        except (FileNotFoundError, CheckpointError) as error:
            log.warning("%s is not of epoch %d and cannot be made again: %s", store.BEST, best, error)
    if outcome is not None and store.model_epoch(output_dir / store.FINAL) != content["epoch"]:
        store.write_sealed(output_dir / store.FINAL, store.model_content(content))


# --- resuming ----------------------------------------------------------------------------------


def starting_point(config: Config, resume: str | None) -> Usable | None:
    """The checkpoint to go on from, verified, or None for a fresh start. Changes nothing on disk.

    Raises:
        FileNotFoundError, CheckpointError: a named checkpoint is missing, elsewhere or damaged.
        NoUsableCheckpoint: auto finds checkpoints, none of them whole.
    """
    output_dir = config.output_path
    if resume is None:
        return None
    if resume == "auto":
        return store.newest_usable(output_dir)
    path = project_root() / resume
    content = store.load_checkpoint(path)
    for checkpoint in store.list_checkpoints(output_dir):
        if checkpoint.path.resolve() == path.resolve():
            return Usable(checkpoint, content)
    raise CheckpointError(
        f"{path} is no checkpoint of {output_dir}. Copy it there to resume it, or set start_from to "
        "start another run from its weights."
    )


def _clear_the_way(output_dir: Path, start: Usable | None, resume: str | None) -> None:
    """Sets aside, and names, whatever lies beyond the starting point; deletes nothing."""
    checkpoints = store.list_checkpoints(output_dir)
    later = [c.path for c in checkpoints if start is None or c > start.checkpoint]
    if start is not None and resume == "auto":
        for error in start.passed_over:
            log.warning("passed over: %s", error)
        if later:
            store.set_aside(later, store.DAMAGED)
            log.warning("kept aside in %s: %s", output_dir / store.DAMAGED, _names(later))
        return
    derived = [output_dir / name for name in (store.BEST, store.FINAL, store.HISTORY)]
    # Newest first: killed halfway, what is left ends earlier, and auto goes on from there.
    files = later[::-1] + [path for path in derived if path.exists()]
    if files and (later or start is None):
        store.set_aside(files, store.SUPERSEDED)
        log.info("set aside in %s: %s", output_dir / store.SUPERSEDED, _names(files))


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def changed_settings(config: Config, corpus: Corpus, content: dict[str, Any]) -> list[str]:
    """What this run would compute differently from a checkpoint's, each with both values."""
    before = Config().to_dict() | content["config"]  # older checkpoints lack newer settings
    changes = [
        f"{name}={before[name]!r}, this run asks for {now!r}"
        for name, now in config.computed().items()
        if before[name] != now
    ]
    if config.num_threads not in (None, content["num_threads"]):
        changes.append(f"num_threads={content['num_threads']}, this run asks for {config.num_threads}")
    was, now = content["fingerprint"], corpus.fingerprint
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            changes.append(
                f"{name} with SHA-256 {was.get(name, 'none (no such file)')[:12]}, "
                f"the file now has {now.get(name, 'none (no such file)')[:12]}"
            )
    own_vocabulary = before.get("start_from") is None  # else it is the one it started from
    if own_vocabulary and not changes and content["vocabulary"] != list(corpus.vocabulary.symbols):
        changes.append(
            f"{len(content['vocabulary'])} symbols, the trees now give {len(corpus.vocabulary)}"
        )
    return changes


# --- the loop ----------------------------------------------------------------------------------


def train(config: Config, resume: str | None = "auto") -> History:
    """Trains until `config.epochs`, from scratch or from a commit; returns the whole history.

    `resume` is "auto" (the newest whole commit, else a fresh start), a checkpoint's path (later
    commits are set aside), or None (whatever is there is set aside). SIGINT, SIGTERM and SIGHUP
    commit and stop. How it ends is sent to the addresses in TREELSTM_NOTIFY_URLS.

    Raises:
        DataError: the pairs cannot be used; nothing has been written.
        SettingsChanged, CheckpointError, FileNotFoundError: cannot resume from there.
        RunInUse: another process writes to the output directory.
        WriteFailed: the disk refuses; the last commit is intact.
        TrainingDiverged: the last commit is the last good state; names the step that went wrong.
    """
    try:
        history, went_on = _train(config, resume)
    except Exception as error:
        _announce(config, "failed", f"{type(error).__name__}: {error}")
        raise
    if went_on:
        _announce(config, history.outcome, summary(history.epochs))
    return history


def _announce(config: Config, event: str, text: str) -> None:
    """Notifies; a notification that fails is in the log, unless the log is another process's."""
    output_dir = config.output_path
    if wanted() and output_dir.is_dir() and not store.holder(output_dir):
        with logged(output_dir / "training.log"):
            notify(event, output_dir, text)
    else:
        notify(event, output_dir, text)


def _train(config: Config, resume: str | None) -> tuple[History, bool]:
    """The history, and whether there was anything to do."""
    output_dir = config.output_path
    store.refuse_if_held(output_dir)  # at once, not after reading the data
    corpus = load_corpus(config)
    with store.only_writer(output_dir), logged(output_dir / "training.log"):
        start = starting_point(config, resume)
        with threads(config.num_threads or (start.content["num_threads"] if start else None)):
            run = resumed_run(config, corpus, start) if start else new_run(config, corpus)
            _clear_the_way(output_dir, start, resume)
            _say_start(run, start)
            if start is not None:
                derive(output_dir, start.content, run.outcome)
                if run.outcome is not None:  # else the next epoch's end brings the curves up to date
                    write_events(output_dir, start.content)
            went_on = run.outcome is None
            outcome = run.outcome or _loop(run)
            _say_end(run, outcome)
    resumed_at = start.checkpoint.position if start else None
    return History(list(run.history), outcome, output_dir, resumed_at), went_on


def _loop(run: Run) -> str:
    """Steps, epochs and commits until the run ends or is asked to stop; says which."""
    config, training = run.config, run.corpus.training
    ids = run.corpus.vocabulary.ids(training.forest.symbols)
    steps = (config.epochs - run.epochs_done) * run.steps_per_epoch - run.step
    progress, monitor = Progress(steps, config.batch_size), _monitor()
    committed = time.monotonic()

    def count_seconds() -> None:
        """Counts the time since the last commit to the epoch, of which it is a part with this one."""
        nonlocal committed
        now = time.monotonic()
        run.seconds += now - committed
        committed = now

    stop = StopRequest()
    with stop_signals(stop), closing(progress):
        while run.outcome is None:
            order = epoch_order(config.seed, run.epochs_done + 1, len(training))
            while run.step < run.steps_per_epoch:
                train_step(run, order, ids)
                progress.step(run.epochs_done + 1, config.epochs, lambda: _shown_loss(run))
                if stop.signal or time.monotonic() - committed >= config.checkpoint_every_seconds:
                    count_seconds()
                    commit(run)
                if stop.signal:
                    return f"stopped by {stop.signal}"
            _check_sound(run)  # metrics of what is no number would end in an error of their own
            record = finish_epoch(run)
            count_seconds()
            note_timing(run)
            content = commit(run)
            derive(config.output_path, content, run.outcome)
            write_events(config.output_path, content)
            _say_epoch(run, record, progress, shown=monitor is not None)
            if monitor is not None:
                words = f"epoch {run.epochs_done}/{config.epochs} · {progress.pace()}"
                monitor.show(run.history, f"{words} · learning rate {_learning_rate(run):.3g}")
            if stop.signal and run.outcome is None:
                return f"stopped by {stop.signal}"
        return run.outcome


def _monitor() -> TrainingMonitor | None:
    """The live figure, where somebody in front of a notebook looks on."""
    if not (in_notebook() and watched()):
        return None
    from treelstm.widgets import TrainingMonitor  # ipywidgets and matplotlib, here only

    return TrainingMonitor()


def note_timing(run: Run) -> None:
    """Closes the time of the epoch that has just ended: part of the commit, not of the history."""
    pace = len(run.corpus.training) / max(run.seconds, 1e-9)
    run.timings.append(
        {
            "epoch": run.epochs_done,
            "ended": time.time(),  # seconds since 1970
            "seconds": run.seconds,
            "pairs_per_second": pace,
        }
    )
    run.seconds = 0.0


def keep_freed_memory() -> None:
    """Makes glibc keep what a step frees for the next one; no other C library has the call.

    By default it gives every buffer of some size back to the system, which hands it out again page
    by page and zeroed: 15% of a step of 256 pairs. Buffers over 32 MB, such as a validation's, still
    go back: kept, they would leave gaps, and the process would grow from epoch to epoch.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 32 << 20)  # glibc's upper limit
        mallopt(trim_threshold, 1 << 30)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class StopRequest:
    """Set by the first signal, read between steps: none ever interrupts a step or a commit."""

    signal: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number).name


# --- what it says ------------------------------------------------------------------------------


def _say_start(run: Run, start: Usable | None) -> None:
    config, corpus = run.config, run.corpus
    similar = int(corpus.training.label.sum())
    log.info(
        "%s training pairs (%s similar), %s validation pairs; %.1f%% of the validation trees occur "
        "in training; %s symbols",
        f"{len(corpus.training):,}",
        f"{similar:,}",
        f"{len(corpus.validation):,}",
        100 * corpus.overlap,
        f"{len(corpus.vocabulary):,}",
    )
    if start is None:
        log.info("no checkpoint to resume: starting from scratch in %s", config.output_path)
        return
    content = start.content
    log.info(
        "resuming %s: epoch %d, step %d of %d, train loss %.4f, %d epochs of history; %s",
        start.checkpoint.path,
        content["epoch"],
        content["step"] or run.steps_per_epoch,
        run.steps_per_epoch,
        content["train_loss"],
        len(run.history),
        f"epochs {run.epochs_done + 1} to {config.epochs} will run"
        if run.outcome is None
        else f"the run is {run.outcome}: nothing to do. Raise epochs (now {config.epochs}) to go on",
    )
    before_all = {"treelstm's arithmetic": "1", "device": content["device"]} | content["versions"]
    for name, now in (_versions() | {"device": run.device.type}).items():
        before = before_all[name]
        if before != now:
            log.warning(
                "%s was %s, is %s now: allowed, but bit-identity with an undisturbed run is not "
                "promised across it",
                name,
                before,
                now,
            )


def _say_epoch(run: Run, record: dict[str, Any], progress: Progress, shown: bool) -> None:
    best = run.best is not None and run.best["epoch"] == record["epoch"]
    log.info(
        "epoch %*d/%d  train %.4f acc %.3f | validation %.4f acc %.3f ROC-AUC %.4f AP %.4f%s | %s",
        len(str(run.config.epochs)),
        record["epoch"],
        run.config.epochs,
        record["train_loss"],
        record["train_acc"],
        record["validation_loss"],
        record["validation_acc"],
        record["validation_roc_auc"],
        record["validation_average_precision"],
        " best" if best else "",
        progress.pace(),
        extra={"shown": shown},
    )
    progress.line_written()


def _say_end(run: Run, outcome: str) -> None:
    where = f"epoch {run.epochs_done + (run.step > 0)}, step {run.step or run.steps_per_epoch}"
    if outcome.startswith("finished"):
        best = run.best["epoch"] if run.best else None
        log.info("%s: %s, best epoch %s, in %s", outcome, where, best, run.config.output_path)
    else:
        log.info('%s: %s is committed. The same command with resume="auto" goes on', outcome, where)
