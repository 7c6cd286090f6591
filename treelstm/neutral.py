"""torch as a new process has it, for as long as a run or an encoding lasts.

A flag that a user set elsewhere, such as another default type, would change results in silence. So each
is set to torch's own default and put back at the end. What cannot be set is refused by name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from treelstm.errors import UserError


class TorchChanged(UserError, RuntimeError):
    """Another part of the program changes how torch computes, and that cannot be put right."""


class _Flag(NamedTuple):
    """A flag of the whole process: its name to a user, and the values that leave results alone."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], Any]
    neutral: tuple[Any, ...]  # the first is set unless one of them is found


def _attribute(path: str, neutral: Any) -> _Flag:
    home, _, name = path.rpartition(".")
    holder = attrgetter(home)(torch)
    return _Flag(path, partial(getattr, holder, name), partial(setattr, holder, name), (neutral,))


def _precision(backend: str) -> _Flag:
    """The type that a backend computes float32 products in. One equal to its parent's is inherited."""
    get, put = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter

    def restore(value: str) -> None:
        put(backend, "matmul", "none" if value == get(backend, "all") else value)

    name = f"backends.{backend}.matmul.fp32_precision"
    return _Flag(name, partial(get, backend, "matmul"), restore, ("ieee", "none"))


def _matmul_precision() -> str | None:
    with suppress(RuntimeError):  # torch's newer flags are used, and torch then refuses to answer
        return torch.get_float32_matmul_precision()
    return None


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


_PRECISION = "set_float32_matmul_precision"
_MODE = torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode
_ANOMALY = _anomaly, lambda value: torch.set_anomaly_enabled(*value)
_FLAGS = (
    _Flag("set_default_dtype", torch.get_default_dtype, torch.set_default_dtype, (torch.float32,)),
    _Flag(_PRECISION, _matmul_precision, torch.set_float32_matmul_precision, ("highest", None)),
    _precision("cuda"),
    _precision("mkldnn"),
    _Flag("use_deterministic_algorithms", *_MODE, (0,)),
    _Flag("autograd.set_detect_anomaly", *_ANOMALY, ((False, True), (False, False))),
    _attribute("backends.mkldnn.enabled", True),
    _attribute("backends.mkldnn.deterministic", False),
    _attribute("backends.cuda.matmul.allow_bf16_reduced_precision_reduction", True),
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
    with (
        _neutral_flags(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        torch._C.DisableTorchFunction(),  # default device, function modes
        _disable_current_modes(),
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
    ):
        flushed = _flushes(1)
        torch.set_flush_denormal(False)
        try:
            yield
        finally:
            torch.set_flush_denormal(flushed)


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
                    if value is not None and flag.get() != value:
                        flag.set(value)


def require_neutral() -> None:
    """Raises TorchChanged if another thread has set a flag since `neutral_torch` began; names it."""
    for flag in _FLAGS:
        if (found := flag.get()) not in flag.neutral:
            remedy = "Resume from the last commit, and set it before or after the run"
            _refuse(f"torch.{flag.name} was set to {found} while the run went on", remedy)


def require_denormals() -> None:
    """Raises TorchChanged if one of torch's threads takes tiny numbers for 0."""
    if _flushes(1 << 20):  # large enough that all threads take part
        remedy = "Restart this process (or kernel) and do not call it"
        _refuse("torch.set_flush_denormal(True) has reached torch's threads, for good", remedy)


def _flushes(numbers: int) -> bool:
    return bool((torch.full((numbers,), 1e-40, dtype=torch.float32) * 0.5 == 0).any())


def _refuse(found: str, remedy: str) -> None:
    raise TorchChanged(f"{found}: the results would differ from those of an undisturbed run. {remedy}.")
