"""What is recorded of each epoch, its metrics, the best epoch, and how a run ended.

The log line, figures, tables, TensorBoard, notifications and the checkpoint picker all follow `METRICS`:
to add a metric, compute it in `evaluation.Metrics` and give it a row here.
"""

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NotRequired, Self, TypedDict, cast

from msgspec import Meta

from treelstm.config import ConfigError, Value, did_you_mean

# Their bounds are checked where a commit is read, see run/content.py.
Count = Annotated[int, Meta(ge=0, le=10**12)]
Epoch = Annotated[int, Meta(ge=1, le=10**12)]
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]  # finite


class EpochRecord(TypedDict):
    """One epoch, as in training_history.json: every metric of `METRICS` that has a key."""

    epoch: Epoch
    train_loss: Number
    train_acc: NotRequired[float]
    validation_loss: Number
    validation_acc: NotRequired[float]
    validation_roc_auc: NotRequired[float]
    validation_average_precision: NotRequired[float]
    validation_pearson: NotRequired[float]
    validation_spearman: NotRequired[float]
    validation_mse: NotRequired[float]
    validation_precision_at_1: NotRequired[float]
    validation_reciprocal_rank: NotRequired[float]
    learning_rate: Number
    best: NotRequired[bool]  # better than all before it; earlier versions did not record it


class BestEpoch(TypedDict):
    """The best epoch so far and its validation loss."""

    epoch: Epoch
    validation_loss: Number


class Change(TypedDict):
    """A setting, or "data", that a resume changed on purpose, and where in the run."""

    name: str
    before: Value
    now: Value
    epoch: Epoch  # of the commit that was resumed
    step: Count
    best_anew: bool  # validation losses before it mean something else: the best epoch is sought anew


class Timing(TypedDict):
    """How long an epoch took. In commits only: histories of equal runs must be equal."""

    epoch: Epoch
    ended: Number  # seconds since 1970
    seconds: Number
    pairs_per_second: Number


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of an epoch or of an evaluation, and how it is shown everywhere."""

    key: str = ""  # in an epoch's record; "": evaluations only
    field: str = ""  # in evaluation.Metrics; "": not computed from distances and labels
    label: str  # in figures, tables, notifications
    short: str = ""  # in the log's line of an epoch
    format: str = "{:.4f}"
    better: Literal["lower", "higher", ""] = ""
    tag: str = ""  # in TensorBoard
    panel: Literal["loss", "quality", "schedule", ""] = ""  # of the history figure
    column: str = ""  # heading in the checkpoint picker

    @property
    def name(self) -> str:
        """Of the number that an evaluation gives, whatever the pairs it was computed on."""
        return self.field or self.key.removeprefix("validation_")

    def text(self, record: EpochRecord) -> str:
        """Its value in an epoch's record, as people read it."""
        return self.format.format(value_of(record, self.key))


METRICS = (
    Metric(key="train_loss", label="training loss", short="train", better="lower",
           tag="loss/train", panel="loss", column="train loss"),
    Metric(key="train_acc", label="training accuracy", short="acc", format="{:.3f}", better="higher",
           tag="accuracy/train"),
    Metric(key="validation_loss", label="validation loss", short="| validation", better="lower",
           tag="loss/validation", panel="loss", column="valid. loss"),
    Metric(key="validation_acc", field="accuracy", label="accuracy at the threshold", short="acc",
           format="{:.3f}", better="higher", tag="accuracy/validation"),
    Metric(key="validation_roc_auc", field="roc_auc", label="ROC-AUC", short="ROC-AUC", better="higher",
           tag="validation/roc_auc", panel="quality"),
    Metric(key="validation_average_precision", field="average_precision", label="average precision",
           short="AP", better="higher", tag="validation/average_precision", panel="quality",
           column="avg. precision"),
    Metric(key="validation_pearson", label="Pearson correlation", short="Pearson", better="higher",
           tag="validation/pearson", panel="quality", column="Pearson"),
    Metric(key="validation_spearman", label="Spearman correlation", short="Spearman", better="higher",
           tag="validation/spearman", panel="quality"),
    Metric(key="validation_mse", label="mean squared error", short="MSE", better="lower",
           tag="validation/mse"),
    Metric(key="validation_precision_at_1", label="precision at 1", short="P@1", better="higher",
           tag="validation/precision_at_1", panel="quality", column="prec. at 1"),
    Metric(key="validation_reciprocal_rank", label="mean reciprocal rank", short="MRR", better="higher",
           tag="validation/reciprocal_rank", panel="quality"),
    Metric(field="f1", label="F1 at the threshold", better="higher"),
    Metric(key="learning_rate", label="learning rate", format="{:.3g}",
           tag="pace/learning_rate", panel="schedule"),
)  # fmt: skip
IN_HISTORY = tuple(metric for metric in METRICS if metric.key)
IN_EVALUATION = tuple(metric for metric in METRICS if metric.field)
OF_GRADED_PAIRS = tuple(metric for metric in METRICS if metric.name in ("pearson", "spearman", "mse"))


def value_of(record: EpochRecord | Timing, key: str) -> float:
    """A number of an epoch by its key; NaN if an older version did not record it."""
    return cast("dict[str, float]", record).get(key, math.nan)


def metric_named(key: str) -> Metric:
    """A metric of an epoch by its key; ConfigError if `best_by` cannot be that."""
    known = {metric.key: metric for metric in IN_HISTORY if metric.better}
    if key not in known:
        listed = f"{did_you_mean(key, known)}It can be {', '.join(known)}"
        raise ConfigError(f"best_by is {key!r}: no such number. {listed}.")
    return known[key]


def is_better(record: EpochRecord, best: EpochRecord | None, by: str) -> bool:
    """Whether an epoch is better than the best before it."""
    if best is None:
        return True
    new, old = value_of(record, by), value_of(best, by)
    return new < old if metric_named(by).better == "lower" else new > old


def marked(history: Sequence[EpochRecord], anew: bool = False) -> list[EpochRecord]:
    """The records, each with `best`, which in those of earlier versions follows from validation losses.
    With `anew`, none is the best.
    """
    found, lowest = list[EpochRecord](), math.inf
    for record in history:
        is_best = record.get("best", record["validation_loss"] < lowest)
        lowest = min(lowest, record["validation_loss"])
        found.append({**record, "best": is_best and not anew})
    return found


def best(history: Sequence[EpochRecord]) -> EpochRecord | None:
    """The last of those that were better than all before them; None if there is none."""
    return next((record for record in reversed(marked(history)) if record["best"]), None)


def epoch_line(record: EpochRecord) -> str:
    """The metrics of an epoch as the log shows them."""
    shown = [metric for metric in IN_HISTORY if metric.short and metric.key in record]
    return " ".join(f"{metric.short} {metric.text(record)}" for metric in shown)


def summary(history: Sequence[EpochRecord]) -> str:
    """The best epoch of a history in words."""
    record = best(history)
    if record is None:
        return f"{len(history)} epochs." if history else "No epoch is complete."
    shown = [each for each in IN_HISTORY if each.key.startswith("validation_") and each.key in record]
    numbers = [f"{metric.label} {metric.text(record)}" for metric in shown]
    return f"{len(history)} epochs; best: epoch {record['epoch']}, {', '.join(numbers)}"


class Outcome(StrEnum):
    """How a run ended. The text is what logs, pages and results hold."""

    FINISHED = "finished"
    FINISHED_EARLY = "finished early"  # by patience
    PRUNED = "pruned"  # by a listener, which says why
    STOPPED_BY_SIGINT = "stopped by SIGINT"
    STOPPED_BY_SIGTERM = "stopped by SIGTERM"
    STOPPED_BY_SIGHUP = "stopped by SIGHUP"
    STOPPED_BY_SIGUSR1 = "stopped by SIGUSR1"
    STOPPED_BY_SIGUSR2 = "stopped by SIGUSR2"
    STOPPED_BY_SIGXCPU = "stopped by SIGXCPU"
    STOPPED_BY_MAX_HOURS = "stopped by max_hours"
    STOPPED_BY_TIMEOUT = "stopped by the execution timeout"  # of a cell, which only the engine knows

    @classmethod
    def stopped_by(cls, number: int) -> Self:
        """The outcome of a run that this signal stopped after a commit."""
        return cls(f"stopped by {signal.Signals(number).name}")

    @classmethod
    def in_text(cls, text: str) -> Self | None:
        """The outcome that a line of a log names, or None."""
        return next((each for each in reversed(cls) if each in text or each.said in text), None)

    @property
    def said(self) -> str:
        """It in words for people."""
        by_hand = self is Outcome.STOPPED_BY_SIGINT
        return "stopped by you (stop button or Ctrl-C)" if by_hand else str(self)

    @property
    def finished(self) -> bool:
        return self in (Outcome.FINISHED, Outcome.FINISHED_EARLY)

    @property
    def exit_status(self) -> int:
        """0 if it is finished or pruned, 128 + the signal that stopped it, 124 if its time was up."""
        if self.finished or self is Outcome.PRUNED:
            return 0
        by = self.rpartition(" ")[2]
        return 128 + signal.Signals[by] if by.startswith("SIG") else 124

    def __repr__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class History:
    """What `train` returns: every epoch's record (as in training_history.json) and how it ended."""

    epochs: list[EpochRecord]
    outcome: Outcome
    output_dir: Path
    resumed_at: tuple[int, int] | None  # (epochs done, steps into the next), None: a fresh start

    @property
    def finished(self) -> bool:
        return self.outcome.finished

    @property
    def best(self) -> EpochRecord | None:
        return best(self.epochs)
