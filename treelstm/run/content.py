"""What a commit holds: every value that the next step depends on, and its bounds."""

from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import torch
from msgspec import Meta
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, ReduceLROnPlateau

from treelstm.config import Config
from treelstm.history import BestEpoch, Change, Count, EpochRecord, Number, Timing
from treelstm.model.content import (
    ModelFile,
    Shape,
    check_model,
    require,
    require_tensor,
    require_type,
)

_NotNegative = Annotated[float, Meta(ge=0, le=1e300)]
_Rate = Annotated[list[_NotNegative], Meta(min_length=1, max_length=1)]  # of the one parameter group
_Plain = Annotated[int, Meta(ge=-(10**12), le=10**12)] | float | bool | str | None


class Commit(ModelFile):
    """What a checkpoint holds: an encoder, and everything else that the next step depends on."""

    step: Count  # steps done in `epoch`; 0: the epoch is complete
    optimizer_state_dict: dict[str, Any]
    scheduler_state_dict: dict[str, Any] | None
    warmup_state_dict: dict[str, Any] | None
    train_loss: Number  # mean of the epoch so far
    epoch_sums: Annotated[list[_NotNegative], Meta(min_length=2, max_length=2)]  # loss, correct pairs
    best: BestEpoch | None
    history: list[EpochRecord]
    first_loss: Number | None  # mean of the run's first step
    timings: list[Timing]
    seconds: _NotNegative  # training time of the epoch so far
    fingerprint: dict[str, str]  # of the data: file -> SHA-256
    content_digest: NotRequired[dict[str, str]]  # of the data, however its files hold it
    changes: NotRequired[list[Change]]  # that a resume made on purpose, oldest first
    num_threads: Annotated[int, Meta(ge=1, le=4096)]
    device: str  # type of device


class _Group(TypedDict):
    params: list[int]
    lr: _NotNegative
    initial_lr: NotRequired[_NotNegative]
    fused: NotRequired[bool | None]
    foreach: NotRequired[bool | None]
    betas: tuple[float, float]  # these, and what is not here, as in a new optimizer
    eps: float
    weight_decay: float


class _Moments(TypedDict):
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor


class _Adam(TypedDict):
    param_groups: Annotated[list[_Group], Meta(min_length=1, max_length=1)]
    state: dict[int, _Moments]


class _Schedule(TypedDict, total=False):
    """What settings and the steps of a run change; all else is as in a new schedule."""

    last_epoch: Count
    _step_count: Count
    num_bad_epochs: Count
    cooldown_counter: Count
    _last_lr: _Rate
    base_lrs: _Rate
    best: Annotated[float, Meta(ge=-1e300)]  # infinite before the first epoch
    T_max: Annotated[int, Meta(ge=1, le=10**18)]
    total_iters: Annotated[int, Meta(ge=1, le=10**18)]
    start_factor: Annotated[float, Meta(gt=0, le=1)]


_NEEDED = {"last_epoch", "_last_lr", "best", "num_bad_epochs", "cooldown_counter"}


def schedules(
    optimizer: torch.optim.Optimizer, config: Config
) -> tuple[LRScheduler | None, LRScheduler | None]:
    """What changes the learning rate: after each epoch, and in each of the first steps."""
    scheduler: LRScheduler | None = None
    if config.lr_schedule == "cosine":
        scheduler = CosineAnnealingLR(optimizer, T_max=config.epochs)
    elif config.lr_schedule == "plateau":
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
    warmup, steps = None, config.warmup_steps
    if steps > 1:  # step k of the first `warmup_steps` (1, 2, ...) has k / warmup_steps of the rate
        warmup = LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)
    return scheduler, warmup


def check_commit(path: Path, content: Commit) -> None:
    """Raises DamagedCheckpoint where a commit holds what no run can have written."""
    known = {key: value for key, value in content.items() if key in Commit.__annotations__}
    require_type(path, known, Commit)  # whatever else a later version may have added
    require_type(path, content["history"] + content["timings"], list[dict[str, _Plain]])
    config, shapes = check_model(path, content)
    texts = [content["device"], *content["fingerprint"].values()]
    texts += content.get("content_digest", {}).values()
    require(path, all(map(str.isprintable, texts)), "its device or its digests are no texts")
    done = content["epoch"] - (content["step"] > 0)
    for records in (content["history"], content["timings"]):
        epochs = [record["epoch"] for record in records]
        right = len(epochs) == done and epochs == [*range(1, len(epochs) + 1)]
        require(path, right, f"its history or timings are not of the epochs 1 to {done}")
    best, changes = content["best"], content.get("changes", [])
    right = best["epoch"] <= done if best else not done or bool(changes)  # it may be sought anew
    require(path, right, f"its best epoch is {best}, expected one of {done}")
    past = all(change["epoch"] <= content["epoch"] for change in changes)
    require(path, past, "its changes are of epochs to come")
    _check_optimizer(path, content["optimizer_state_dict"], shapes, done + content["step"])
    blank = torch.optim.Adam([torch.zeros(1)], lr=config.learning_rate)
    states = content["scheduler_state_dict"], content["warmup_state_dict"]
    for state, schedule in zip(states, schedules(blank, config), strict=True):
        if state is not None and schedule is not None:  # nothing else reads it
            _check_schedule(path, state, schedule)


def _check_optimizer(path: Path, state: dict[str, Any], shapes: list[Shape], least_steps: int) -> None:
    adam: _Adam = require_type(path, state, _Adam)
    (group,), (usual,) = state["param_groups"], torch.optim.Adam([torch.zeros(1)]).param_groups
    _require_usual(path, group, usual, but={"params", "lr", "initial_lr", "fused", "foreach"})
    numbers = [*range(len(shapes))]
    right = numbers == group["params"] == [*adam["state"]]
    require(path, right, f"its optimizer is not of {len(shapes)} tensors")
    for number, shape in enumerate(shapes):
        moments, about = adam["state"][number], f"the optimizer's {{}} of tensor {number}"
        require_tensor(path, about.format("exp_avg"), moments["exp_avg"], shape)
        require_tensor(path, about.format("exp_avg_sq"), moments["exp_avg_sq"], shape, low=0.0)
        require_tensor(path, about.format("step"), moments["step"], (), low=1.0)
    steps = {float(moments["step"]) for moments in adam["state"].values()}
    # From 2^24 on, float32 can count no further.
    right = len(steps) == 1 and min(steps).is_integer() and min(steps) >= min(least_steps, 2**24)
    require(path, right, f"its optimizer has done {steps} steps, expected one number from {least_steps}")


def _check_schedule(path: Path, state: dict[str, Any], schedule: LRScheduler) -> None:
    require_type(path, state, _Schedule)
    usual, name = schedule.state_dict(), type(schedule).__name__
    missing = _NEEDED & usual.keys() - state.keys()
    require(path, not missing, f"its {name} lacks {missing}")
    # Another version of torch may have others, but none that replaces a method.
    replaced = [key for key in state.keys() - usual.keys() if hasattr(schedule, key)]
    require(path, not replaced, f"its {name} has {replaced}, which no state holds")
    _require_usual(path, state, usual, but={*_Schedule.__annotations__})


def _require_usual(path: Path, state: dict[str, Any], usual: dict[str, Any], but: set[str]) -> None:
    """Raises DamagedCheckpoint unless all values, `but` these, are a new optimizer's or schedule's."""
    names = sorted(state.keys() & usual.keys() - but)
    found, expected = (
        require_type(path, {name: each[name] for name in names}, dict[str, _Plain | tuple[float, ...]])
        for each in (state, usual)
    )
    same_types = all(type(state[name]) is type(usual[name]) for name in names)
    require(
        path,
        same_types and repr(found) == repr(expected),
        f"it holds {found!r:.200}, expected {expected}",
    )
