"""torch as a new process has it, for as long as a run or an encoding lasts.

A flag that a user set elsewhere, such as another default type, would change results in silence. So each
is set to torch's own default and put back at the end. What cannot be set is refused by name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from treelstm.errors import UserError

_AUTOCAST_DEVICES = ("cpu", "cuda")
_MATMUL = "torch.backends.{}.matmul.fp32_precision"


class TorchChanged(UserError, RuntimeError):
    """Another part of the program changes how torch computes, and that cannot be put right."""


class _Flag(NamedTuple):
    """A flag of the whole process: its name to a user, and the values that leave results alone."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], Any]
    neutral: tuple[Any, ...]  # the first is set unless one of them is found


def _attribute(holder: Any, name: str, neutral: Any) -> _Flag:
    full = f"{getattr(holder, '__name__', 'torch.backends.cuda.matmul')}.{name}"
    return _Flag(full, lambda: getattr(holder, name), lambda v: setattr(holder, name, v), (neutral,))


def _matmul_precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch's newer flags are used, and torch then refuses to answer
        return None


def _set_matmul_precision(value: str | None) -> None:
    if value is not None:
        torch.set_float32_matmul_precision(value)


def _precision(backend: str) -> _Flag:
    """The type that a backend computes float32 products in. One equal to its parent's is inherited."""
    get, put = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter

    def restore(value: str) -> None:
        put(backend, "matmul", "none" if value == get(backend, "all") else value)

    return _Flag(_MATMUL.format(backend), lambda: get(backend, "matmul"), restore, ("ieee", "none"))


_FLAGS = (
    _Flag("torch.set_default_dtype", torch.get_default_dtype, torch.set_default_dtype, (torch.float32,)),
    _Flag(
        "torch.set_float32_matmul_precision",
        _matmul_precision,
        _set_matmul_precision,
        ("highest", None),
    ),
    _precision("cuda"),
    _precision("mkldnn"),
    _Flag(
        "torch.use_deterministic_algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        ((False, False),),
    ),
    _Flag(
        "torch.autograd.set_detect_anomaly",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
        ((False, True), (False, False)),
    ),
    _attribute(torch.backends.mkldnn, "enabled", True),
    _attribute(torch.backends.mkldnn, "deterministic", False),
    _attribute(torch.backends.cuda.matmul, "allow_fp16_accumulation", False),
    _attribute(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
)

_lock = threading.Lock()
_users = 0  # threads that need the flags neutral now: the first saves them, the last puts them back
_before: list[Any] = []


@contextmanager
def neutral_torch() -> Iterator[None]:
    """Has torch compute in this thread as in a new process, whatever was set; puts everything back.

    Raises:
        TorchChanged: something that cannot be undone; says what.
    """
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        _refuse("torch.autograd.graph.saved_tensors_hooks is active", "Call it outside of that block")
    if torch._C._get_default_device() != "cpu":
        _refuse("torch.set_default_tensor_type chose a GPU", "Set torch.FloatTensor")
    flushed = _flushes(1)
    autocast = [torch.is_autocast_enabled(device) for device in _AUTOCAST_DEVICES]
    with (
        _neutral_flags(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch._C.DisableTorchFunction(),  # default device, function modes
        _disable_current_modes(),
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
    ):
        try:
            if flushed:
                torch.set_flush_denormal(False)
            for device in _AUTOCAST_DEVICES:
                torch.set_autocast_enabled(device, False)
            yield
        finally:
            for device, enabled in zip(_AUTOCAST_DEVICES, autocast, strict=True):
                torch.set_autocast_enabled(device, enabled)
            if flushed:
                torch.set_flush_denormal(True)


@contextmanager
def _neutral_flags() -> Iterator[None]:
    global _users
    with _lock:
        if not _users:
            _before[:] = [flag.get() for flag in _FLAGS]
            for flag in _FLAGS:
                if flag.get() not in flag.neutral:
                    flag.set(flag.neutral[0])
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                for flag, value in zip(_FLAGS, _before, strict=True):
                    if flag.get() != value:
                        flag.set(value)


def require_neutral() -> None:
    """Raises TorchChanged if another thread has set a flag since `neutral_torch` began; names it."""
    for flag in _FLAGS:
        if (found := flag.get()) not in flag.neutral:
            remedy = "Resume from the last commit, and set it before or after the run"
            _refuse(f"{flag.name} was set to {found} while the run went on", remedy)


def require_denormals() -> None:
    """Raises TorchChanged if one of torch's threads takes tiny numbers for 0."""
    if _flushes(1 << 20):  # large enough that all threads take part
        remedy = "Restart this process (or kernel) and do not call it"
        _refuse("torch.set_flush_denormal(True) has reached torch's threads, for good", remedy)


def _flushes(numbers: int) -> bool:
    with torch._C.DisableTorchFunction(), torch.no_grad(), _disable_current_modes():
        tiny = torch.full((numbers,), 1e-40, dtype=torch.float32, device="cpu")
        return bool((tiny * 0.5 == 0).any())


def _refuse(found: str, remedy: str) -> None:
    raise TorchChanged(f"{found}: the results would differ from those of an undisturbed run. {remedy}.")
