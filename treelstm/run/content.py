"""What a file must hold to be resumed: every value that the next step depends on, and its bounds."""

import math

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, ReduceLROnPlateau

from treelstm.config import Config
from treelstm.model.content import MOST, Content

# What the steps of a run change in the state of torch's schedules; only settings change the others.
_STEPPED = {"last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter"}
_SET = {"base_lrs", "T_max", "total_iters", "start_factor"}  # from settings that a resume may change
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


def check_commit(content: Content) -> None:
    """Raises DamagedCheckpoint where a commit holds what no run can have written."""
    config, shapes = content.model()
    step = content.whole("step", content["step"], 0)
    done = content["epoch"] - (step > 0)
    _history(content, done)
    content.number("train_loss", content["train_loss"])
    content.number("seconds", content["seconds"], 0.0)
    if content["first_loss"] is not None:
        content.number("first_loss", content["first_loss"])
    sums = content["epoch_sums"]
    content.require(isinstance(sums, list) and len(sums) == 2, "epoch_sums", sums, "two numbers")
    for number in sums:
        content.number("epoch_sums", number, 0.0)
    content.strings("fingerprint")
    _changes(content)
    content.whole("num_threads", content["num_threads"], 1, 4096)
    device = content["device"]
    printable = isinstance(device, str) and device.isprintable()
    content.require(printable, "device", device, "a text")
    _optimizer(content, list(shapes.values()), done + step)
    blank = torch.optim.Adam([torch.zeros(1)], lr=config.learning_rate)
    named = zip(("scheduler_state_dict", "warmup_state_dict"), schedules(blank, config), strict=True)
    for key, schedule in named:
        if content[key] is not None:
            _schedule(content, key, schedule)


def _changes(content: Content) -> None:
    """The two keys that earlier versions did not write."""
    if content.get("content_digest") is not None:
        content.strings("content_digest")
    changes = content.get("changes", [])
    content.require(isinstance(changes, list), "changes", changes, "a list")
    for number, change in enumerate(changes, 1):
        about = f"changes, record {number}"
        content.mapping(about, change)
        names = isinstance(change.get("name"), str) and {"before", "now"} <= change.keys()
        known = names and isinstance(change.get("best_anew"), bool)
        content.require(known, about, change, "name, before, now, epoch, step, best_anew")
        content.whole(f"{about}, epoch", change.get("epoch"), 1, content["epoch"])
        content.whole(f"{about}, step", change.get("step"), 0)


def _history(content: Content, done: int) -> None:
    needed = {
        "history": ("train_loss", "validation_loss", "learning_rate"),
        "timings": ("ended", "seconds", "pairs_per_second"),
    }
    for key, numbers in needed.items():
        records = content[key]
        found = len(records) if isinstance(records, list) else records
        content.require(isinstance(records, list) and found == done, key, found, f"{done} records")
        for epoch, record in enumerate(records, 1):
            about = f"{key}, record {epoch}"
            content.mapping(about, record)
            content.whole(f"{about}, epoch", record.get("epoch"), epoch, epoch)
            for name in numbers:
                content.number(f"{about}, {name}", record.get(name))
            for name, value in record.items():
                if type(value) is int:
                    content.whole(f"{about}, {name}", value, -MOST)
                plain = value is None or isinstance(value, bool | int | float | str)
                content.require(plain, f"{about}, {name}", value, "a number or a text")
    if content["best"] is not None or (done and not content.get("changes")):  # it may be sought anew
        best = content.mapping("best", content["best"])
        content.whole("best, epoch", best.get("epoch"), 1, done)
        content.number("best, validation_loss", best.get("validation_loss"))


def _optimizer(content: Content, shapes: list[tuple[int, ...]], least_steps: int) -> None:
    key = "optimizer_state_dict"
    whole, blank = content.mapping(key, content[key]), torch.optim.Adam([torch.zeros(1)]).state_dict()
    groups, states = whole.get("param_groups"), whole.get("state")
    one = isinstance(groups, list) and len(groups) == 1
    content.require(one, f"{key}, param_groups", groups, "a list of one group")
    assert groups
    group, usual = content.mapping(f"{key}, param_groups", groups[0]), blank["param_groups"][0]
    for name in {"lr", "betas", "eps", "weight_decay"} | (group.keys() & usual.keys()):
        value, about = group.get(name), f"{key}, {name}"
        if name in ("lr", "initial_lr"):
            content.number(about, value, 0.0)
        elif name not in ("params", "fused", "foreach"):
            same = type(value) is type(usual[name]) and value == usual[name]
            content.require(same, about, value, repr(usual[name]))
    numbers = list(range(len(shapes)))
    content.require(_are(group.get("params"), numbers), f"{key}, params", "others", str(numbers))
    for name in ("fused", "foreach"):
        flag = group.get(name)
        right = flag is None or isinstance(flag, bool)
        content.require(right, f"{key}, {name}", flag, "True, False or None")
    if "initial_lr" in group:
        content.number(f"{key}, initial_lr", group["initial_lr"], 0.0)
    known = isinstance(states, dict) and _are([*states], numbers)
    content.require(known, f"{key}, state", states, f"the moments of {len(shapes)} tensors")
    steps = set()
    for number, shape in enumerate(shapes):
        about = f"{key}, state {number}"
        state = content.mapping(about, states[number])  # type: ignore[index]
        for name, low in (("exp_avg", -math.inf), ("exp_avg_sq", 0.0)):
            content.tensor(f"{about}, {name}", state.get(name), shape, low)
        content.tensor(f"{about}, step", state.get("step"), (), 1.0)
        steps.add(float(state["step"]))
    # From 2^24 on, float32 can count no further.
    enough = len(steps) == 1 and min(steps).is_integer() and min(steps) >= min(least_steps, 2**24)
    content.require(enough, f"{key}, step", f"{steps}", f"one number for all, at least {least_steps}")


def _are(found: object, numbers: list[int]) -> bool:
    whole = isinstance(found, list) and all(type(each) is int for each in found)
    return whole and found == numbers


def _schedule(content: Content, key: str, schedule: LRScheduler | None) -> None:
    state = content.mapping(key, content[key])
    if schedule is None:
        return  # nothing reads it
    usual = schedule.state_dict()
    for name in (_NEEDED & usual.keys()) | state.keys():
        value, about, like = state.get(name), f"{key}, {name}", usual.get(name)
        if name not in usual:  # of another version of torch; but nothing that replaces a method
            content.require(not hasattr(schedule, name), about, value, "no such key")
        elif name in ("last_epoch", "_step_count", "num_bad_epochs", "cooldown_counter"):
            content.whole(about, value, 0)
        elif name in ("_last_lr", "base_lrs"):
            content.require(
                isinstance(value, list) and len(value) == 1, about, value, "a list of one number"
            )
            content.number(about, value[0], 0.0)  # type: ignore[index]
        elif name == "start_factor":
            content.require(
                0 < content.number(about, value) <= 1, about, value, "more than 0, at most 1"
            )
        elif name in _SET:
            content.whole(about, value, 1)
        elif name == "best":
            if not isinstance(value, float) or value != math.inf:  # infinite before the first epoch
                content.number(about, value)
        else:
            content.require(type(value) is type(like) and value == like, about, value, repr(like))
