"""The state of a run: what the next step depends on, written to a commit and read back."""

import logging
import math
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from treelstm.config import Config, ConfigError, from_root
from treelstm.data.pairs import Corpus
from treelstm.errors import UserError
from treelstm.history import (
    IN_EVALUATION,
    BestEpoch,
    Change,
    EpochRecord,
    Outcome,
    Timing,
    marked,
    metric_named,
)
from treelstm.model.child_sum import ARITHMETIC
from treelstm.model.encoder import TreeEncoder
from treelstm.model.files import load_encoder, vocabulary_of
from treelstm.model.objectives import Objective, objective_of
from treelstm.model.vectors import Vectors, read_vectors
from treelstm.process import chosen_device
from treelstm.run.changes import ended, new_changes, refusals
from treelstm.run.content import Commit, schedules
from treelstm.run.directory import ResumePoint, now_at
from treelstm.run.distributed import ALONE, Group
from treelstm.sealed import FORMAT, UNTYPED

log = logging.getLogger("treelstm")

# Variables with which MKL, oneDNN, OpenBLAS and torch choose other instructions or another order.
_ENVIRONMENT = """ATEN_CPU_CAPABILITY MKL_CBWR MKL_DEBUG_CPU_TYPE MKL_DYNAMIC MKL_ENABLE_INSTRUCTIONS
    MKL_NUM_THREADS ONEDNN_DEFAULT_FPMATH_MODE ONEDNN_MAX_CPU_ISA OPENBLAS_CORETYPE
    DNNL_DEFAULT_FPMATH_MODE DNNL_MAX_CPU_ISA""".split()


class SettingsChanged(UserError, ValueError):
    """A run cannot be resumed with these settings or data; names them with both values."""


@dataclass
class Run:
    """Everything that the next step depends on."""

    config: Config
    corpus: Corpus
    encoder: TreeEncoder
    objective: Objective
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None  # steps once an epoch
    warmup: LRScheduler | None  # steps once a step; scales the scheduler's rate
    epoch_sums: torch.Tensor  # float64 [2] on the run's device: this epoch's loss, correct pairs
    initial_norm: float  # of the weights as drawn
    threshold: float  # of the newest validation; the objective's own before the first
    epochs_done: int = 0
    step: int = 0  # steps done in the next epoch
    best: BestEpoch | None = None
    history: list[EpochRecord] = field(default_factory=list)
    first_loss: torch.Tensor | None = None  # mean of the first step, on the run's device
    seconds: float = 0.0  # training time of this epoch up to its last commit, over all restarts
    timings: list[Timing] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)  # made on purpose by resumes, oldest first
    group: Group = ALONE  # the processes that train it: on it, no bit depends

    @property
    def best_by(self) -> str:
        """Key of the number that decides which epoch is the best."""
        return self.config.best_by or self.objective.best_by

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.corpus.training) / self.config.batch_size)

    @property
    def steps_done(self) -> int:
        """Optimizer steps since the run began."""
        return self.epochs_done * self.steps_per_epoch + self.step

    @property
    def train_loss(self) -> float:
        """Mean loss of the epoch so far, or of the last one between epochs; waits for a GPU's step."""
        if self.step:
            pairs_seen = min(self.step * self.config.batch_size, len(self.corpus.training))
            return float(self.epoch_sums[0]) / pairs_seen
        return self.history[-1]["train_loss"] if self.history else math.nan

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def device(self) -> torch.device:
        return self.epoch_sums.device

    @property
    def place(self) -> str:
        """The newest step, in words."""
        epoch, step = self.epochs_done + (self.step > 0), self.step or self.steps_per_epoch
        return f"epoch {epoch}, step {step}"

    @property
    def outcome(self) -> Outcome | None:
        """How the run has ended by itself, or None while there is more to do."""
        return ended(self.config, self.epochs_done, self.step, self.best)


def new_run(config: Config, corpus: Corpus) -> Run:
    """The state before the first step, on the configured device.

    Raises:
        SettingsChanged, CheckpointError: start_from has other sizes, or cannot be used.
        ConfigError: torch sees no such device.
    """
    if config.start_from is None:
        vectors = read_vectors(from_root(config.vectors)) if config.vectors else None
        return _blank_run(config, corpus, vectors)
    path = now_at(from_root(config.start_from), config.output_path)
    source = load_encoder(path)
    log.info("starting from the weights in %s", path)
    run = _blank_run(config, replace(corpus, vocabulary=source.vocabulary), source.vectors)
    try:
        if source.settings.child_order != config.child_order:  # its weights would have the right shapes
            raise RuntimeError("another child_order")
        own, theirs = run.encoder.state_dict(), source.state_dict()
        if not source.settings.bag_of_symbols:  # of a tree alone: the bag begins as drawn
            theirs |= {name: own[name] for name in ("bag_weight", "gain") if name in own}
        run.encoder.load_state_dict(theirs)
    except RuntimeError as error:
        was, ours = source.settings.to_dict(), run.encoder.settings.to_dict()
        differing = [name for name in ours if was[name] != ours[name]]
        found, asked = (", ".join(f"{k}={v[k]!r}" for k in differing) for v in (was, ours))
        remedy = "Set the same to start from its weights"
        raise SettingsChanged(f"{path} has {found}, this run asks for {asked}. {remedy}.") from error
    return run


def resumed_run(config: Config, corpus: Corpus, start: ResumePoint) -> Run:
    """The state that a commit holds; what `config.changes` names may differ, and counts from here on.

    Raises:
        SettingsChanged: other settings or data would change what is computed, or the commit is past
            `epochs`; names all of them.
    """
    content, path = start.content, start.checkpoint.path
    if reasons := refusals(config, corpus, content, path):
        remedies = dict.fromkeys(remedy for _, remedy in reasons)
        found, gap = [text for text, _ in reasons], "\n  " if len(reasons) > 1 else " "
        raise SettingsChanged(
            f"{path} cannot be resumed:{gap}{gap.join(found)}.{gap[:1]}{'. '.join(remedies)}."
        )
    new = new_changes(config, corpus, content)
    changed = {change["name"] for change in new}
    vocabulary, weights = vocabulary_of(content), content["model_state_dict"]
    vectors = Vectors.of_state(weights) if config.vectors_keys else None
    run = _blank_run(config, replace(corpus, vocabulary=vocabulary), vectors)
    run.encoder.load_state_dict(weights)  # of its shapes, see run/content.py
    run.step, run.epochs_done = content["step"], content["epoch"] - (content["step"] > 0)
    if changed & {"learning_rate", "lr_schedule", "warmup_steps", "epochs"}:
        _advance_schedule(run)
        rates = run.optimizer.state_dict()["param_groups"]
        run.optimizer.load_state_dict({**content["optimizer_state_dict"], "param_groups": rates})
    else:
        run.optimizer.load_state_dict(content["optimizer_state_dict"])
        kept = content["scheduler_state_dict"], content["warmup_state_dict"]
        for schedule, state in zip((run.scheduler, run.warmup), kept, strict=True):
            if schedule and state:
                schedule.load_state_dict(state)
    run.epoch_sums = torch.tensor(content["epoch_sums"], dtype=torch.float64, device=run.device)
    run.threshold = math.nan if content["threshold"] is None else content["threshold"]
    run.best, run.seconds = content["best"], content["seconds"]
    anew = any(change["best_anew"] for change in new)
    run.history, run.timings = marked(content["history"], anew), list(content["timings"])
    run.changes = [*content.get("changes", []), *new]
    if content["first_loss"] is not None:
        run.first_loss = torch.tensor(content["first_loss"], device=run.device)
    if anew:
        run.best = None
        if changed != {"best_by"} and isinstance(run.scheduler, ReduceLROnPlateau):
            run.scheduler.best, run.scheduler.num_bad_epochs = math.inf, 0
    return run


def _advance_schedule(run: Run) -> None:
    """Brings a blank run's learning rate to where its own settings would have it at this position.

    What a plateau schedule did depends on losses: it starts anew, with the whole rate.
    """
    run.optimizer.step()  # changes nothing without gradients; torch wants it before a schedule's step
    warm = run.config.warmup_steps
    for epoch in range(run.epochs_done + 1):
        steps = run.steps_per_epoch if epoch < run.epochs_done else run.step
        if run.warmup is not None:
            for _ in range(min(steps, warm)):
                run.warmup.step()
                warm -= 1
        if epoch < run.epochs_done and isinstance(run.scheduler, CosineAnnealingLR):
            run.scheduler.step()


def state_of(run: Run) -> Commit:
    """The content of a checkpoint; tensors are the run's own, not copies."""
    return {
        "format": FORMAT if run.corpus.vocabulary.typed else UNTYPED,
        "epoch": run.epochs_done + (run.step > 0),
        "step": run.step,
        "model_state_dict": run.encoder.state_dict(),
        "optimizer_state_dict": run.optimizer.state_dict(),
        "scheduler_state_dict": run.scheduler.state_dict() if run.scheduler else None,
        "warmup_state_dict": run.warmup.state_dict() if run.warmup else None,
        "train_loss": run.train_loss,
        "epoch_sums": run.epoch_sums.tolist(),
        "threshold": None if math.isnan(run.threshold) else run.threshold,
        "best": run.best,
        "history": run.history,
        "first_loss": None if run.first_loss is None else float(run.first_loss),
        "timings": run.timings,
        "seconds": run.seconds,
        "vocabulary": list(run.corpus.vocabulary.symbols),
        "config": {**run.config.to_dict(), "changes": []},  # done, and no longer asked for
        "fingerprint": run.corpus.fingerprint,
        "content_digest": run.corpus.content_digest,
        "changes": run.changes,
        "versions": versions(run.device),
        "num_threads": torch.get_num_threads(),
        "device": run.device.type,
    }


def versions(device: torch.device) -> dict[str, str]:
    """What bit-identity depends on besides settings and data: versions, machine, environment."""
    on_gpu = device.type == "cuda"
    gpu = {"GPU": torch.cuda.get_device_name(device), "CUDA": str(torch.version.cuda)} if on_gpu else {}
    build = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    said = [f"{name}={os.environ[name]}" for name in _ENVIRONMENT if os.environ.get(name)]
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "treelstm's arithmetic": ARITHMETIC,
        "machine": platform.machine(),
        "torch's CPU capability": torch.backends.cpu.get_cpu_capability(),
        "torch's BLAS": build[1] if build else "unknown",
        "MKL and oneDNN in the environment": " ".join(said) or "not set",
        **gpu,
    }


def norm(tensors: Iterable[torch.Tensor]) -> float:
    """The Euclidean norm of all numbers in all tensors."""
    norms = torch.stack([torch.linalg.vector_norm(tensor.detach()) for tensor in tensors])
    return float(torch.linalg.vector_norm(norms))


def _blank_run(config: Config, corpus: Corpus, vectors: Vectors | None = None) -> Run:
    device = chosen_device(config.device)
    encoder = TreeEncoder(corpus.vocabulary, config, seed=config.seed, vectors=vectors).to(device)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=config.learning_rate, fused=True)
    scheduler, warmup = schedules(optimizer, config)
    objective, initial_norm = objective_of(config), norm(encoder.parameters())
    _require_best_by(config.best_by or objective.best_by, objective, corpus)
    sums, threshold = torch.zeros(2, dtype=torch.float64, device=device), objective.first_threshold
    return Run(
        config, corpus, encoder, objective, optimizer, scheduler, warmup, sums, initial_norm, threshold
    )


def _require_best_by(best_by: str, objective: Objective, corpus: Corpus) -> None:
    """Raises ConfigError if no epoch of this run will have that number."""
    metric_named(best_by)
    keys = {"train_loss", "validation_loss"} | ({"train_acc"} if corpus.training.has_classes else set())
    if corpus.validation.has_classes:
        keys |= {metric.key for metric in IN_EVALUATION if metric.key}
    keys |= objective.measures
    if best_by not in keys:
        listed = ", ".join(sorted(keys))
        found = f"best_by is {best_by!r}, which these pairs do not give"
        raise ConfigError(f"{found}. Set it to one of these: {listed}.")
