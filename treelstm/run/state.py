"""The state of a run: what the next step depends on, written to a commit and read back."""

import math
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, ReduceLROnPlateau

from treelstm.config import Config, from_root
from treelstm.data.pairs import Corpus
from treelstm.errors import UserError
from treelstm.history import BestEpoch, EpochRecord, Outcome, Timing
from treelstm.model.child_sum import ARITHMETIC
from treelstm.model.encoder import TreeEncoder
from treelstm.model.files import load_encoder, load_weights
from treelstm.model.objectives import Objective, objective_of
from treelstm.process import chosen_device
from treelstm.run.directory import Commit, ResumePoint
from treelstm.trees.vocabulary import Vocabulary

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
        if self.step:
            return None
        if self.epochs_done >= self.config.epochs:
            return Outcome.FINISHED
        waited = self.epochs_done - self.best["epoch"] if self.best else 0
        out_of_patience = self.config.patience is not None and waited >= self.config.patience
        return Outcome.FINISHED_EARLY if out_of_patience else None


def new_run(config: Config, corpus: Corpus) -> Run:
    """The state before the first step, on the configured device.

    Raises:
        SettingsChanged, CheckpointError: start_from has other sizes, or cannot be used.
        ConfigError: torch sees no such device.
    """
    if config.start_from is None:
        return _blank_run(config, corpus)
    path = from_root(config.start_from)
    source = load_encoder(path)
    run = _blank_run(config, replace(corpus, vocabulary=source.vocabulary))
    try:
        run.encoder.load_state_dict(source.state_dict())
    except RuntimeError as error:
        theirs, ours = source.settings.to_dict(), run.encoder.settings.to_dict()
        differing = [name for name in ours if theirs[name] != ours[name]]
        found, asked = (", ".join(f"{k}={v[k]!r}" for k in differing) for v in (theirs, ours))
        remedy = "Set the same to start from its weights"
        raise SettingsChanged(f"{path} has {found}, this run asks for {asked}. {remedy}.") from error
    return run


def resumed_run(config: Config, corpus: Corpus, start: ResumePoint) -> Run:
    """The state that a commit holds.

    Raises:
        SettingsChanged: settings or data would change what is computed; names all of them.
        CheckpointError: the weights are of another model.
    """
    content, path = start.content, start.checkpoint.path
    if changes := changed_settings(config, corpus, content):
        raise SettingsChanged(
            f"{path} was trained with other settings or data:\n  "
            + "\n  ".join(changes)
            + "\nPut these back to resume it, or choose a new output_dir (start_from keeps the weights)."
        )
    run = _blank_run(config, replace(corpus, vocabulary=Vocabulary(content["vocabulary"])))
    load_weights(run.encoder, content["model_state_dict"], path)
    run.optimizer.load_state_dict(content["optimizer_state_dict"])
    if run.scheduler and content["scheduler_state_dict"]:
        run.scheduler.load_state_dict(content["scheduler_state_dict"])
    if run.warmup and content["warmup_state_dict"]:
        run.warmup.load_state_dict(content["warmup_state_dict"])
    run.epoch_sums = torch.tensor(content["epoch_sums"], dtype=torch.float64, device=run.device)
    run.threshold, run.best = content["threshold"], content["best"]
    run.history, run.timings = list(content["history"]), list(content["timings"])
    if content["first_loss"] is not None:
        run.first_loss = torch.tensor(content["first_loss"], device=run.device)
    run.step, run.seconds = content["step"], content["seconds"]
    run.epochs_done = content["epoch"] - (run.step > 0)
    return run


def state_of(run: Run) -> Commit:
    """The content of a checkpoint; tensors are the run's own, not copies."""
    return {
        "epoch": run.epochs_done + (run.step > 0),
        "step": run.step,
        "model_state_dict": run.encoder.state_dict(),
        "optimizer_state_dict": run.optimizer.state_dict(),
        "scheduler_state_dict": run.scheduler.state_dict() if run.scheduler else None,
        "warmup_state_dict": run.warmup.state_dict() if run.warmup else None,
        "train_loss": run.train_loss,
        "epoch_sums": run.epoch_sums.tolist(),
        "threshold": run.threshold,
        "best": run.best,
        "history": run.history,
        "first_loss": None if run.first_loss is None else float(run.first_loss),
        "timings": run.timings,
        "seconds": run.seconds,
        "vocabulary": list(run.corpus.vocabulary.symbols),
        "config": run.config.to_dict(),
        "fingerprint": run.corpus.fingerprint,
        "versions": versions(),
        "num_threads": torch.get_num_threads(),
        "device": run.device.type,
    }


def versions() -> dict[str, str]:
    """What bit-identity depends on besides settings and data: versions, machine, environment."""
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
    }


def changed_settings(config: Config, corpus: Corpus, content: Commit) -> list[str]:
    """Settings and data that would change what the checkpoint's run computes, with both values."""
    before = content["config"]
    changes = [
        f"{name}={before.get(name)!r}, this run asks for {now!r}"
        for name, now in config.fixed_on_resume().items()
        if name not in before or before[name] != now
    ]
    if config.num_threads not in (None, content["num_threads"]):
        changes.append(f"num_threads={content['num_threads']}, this run asks for {config.num_threads}")
    was, now = content["fingerprint"], corpus.fingerprint
    held_out = before["validation_dir"], config.validation_dir
    if (held_out[0] is None) != (held_out[1] is None):  # the files below follow from it
        changes.append("validation_dir={!r}, this run asks for {!r}".format(*held_out))
        was, now = (
            {name: digest for name, digest in files.items() if name.startswith("training/")}
            for files in (was, now)
        )
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            first, second = (digests.get(name, "no such file")[:12] for digests in (was, now))
            changes.append(f"{name} with SHA-256 {first}, the file now has {second}")
    symbols = content["vocabulary"]
    # With start_from, the vocabulary came with the weights.
    if before["start_from"] is None and not changes and symbols != list(corpus.vocabulary.symbols):
        changes.append(f"{len(symbols)} symbols, the trees now give {len(corpus.vocabulary)}")
    return changes


def norm(tensors: Iterable[torch.Tensor]) -> float:
    """The Euclidean norm of all numbers in all tensors."""
    norms = [torch.linalg.vector_norm(tensor.detach()) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def _blank_run(config: Config, corpus: Corpus) -> Run:
    encoder = TreeEncoder(corpus.vocabulary, config, seed=config.seed)
    device = chosen_device(config.device)
    encoder.to(device)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=config.learning_rate, fused=True)
    scheduler: LRScheduler | None = None
    if config.lr_schedule == "cosine":
        scheduler = CosineAnnealingLR(optimizer, T_max=config.epochs)
    elif config.lr_schedule == "plateau":
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
    warmup, steps = None, config.warmup_steps
    if steps > 1:  # step k of the first `warmup_steps` (1, 2, ...) has k / warmup_steps of the rate
        warmup = LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)
    objective, initial_norm = objective_of(config), norm(encoder.parameters())
    sums, threshold = torch.zeros(2, dtype=torch.float64, device=device), objective.first_threshold
    return Run(
        config, corpus, encoder, objective, optimizer, scheduler, warmup, sums, initial_norm, threshold
    )
