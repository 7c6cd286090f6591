"""The device, threads and memory of this process. Nothing is done, and torch not imported, at import."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from treelstm.config import ConfigError
from treelstm.errors import UserError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("treelstm")

_SETTINGS_OF_MALLOC = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
_runs: dict[int, tuple[Path]] = {}  # process -> the directory that it trains in

# malloc.h: the options, and the values that glibc starts with.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_GLIBC_DEFAULT_BYTES = 128 << 10


class AlreadyTraining(UserError, RuntimeError):
    """This process is training another run."""


class OutOfMemory(UserError, MemoryError):
    """The machine or the GPU has no memory left for what the settings ask."""


@contextmanager
def only_training(output_dir: Path) -> Iterator[None]:
    """Refuses a second run in this process: two would share torch's threads, flags and the allocator.

    Raises:
        AlreadyTraining: names the directory of the first run.
    """
    mine, process = (output_dir,), os.getpid()  # a forked process is another one
    first = _runs.setdefault(process, mine)
    if first is not mine:
        remedy = "Wait until it ends, or train in a process of its own"
        raise AlreadyTraining(f"this process already trains the run in {first[0]}. {remedy}.")
    try:
        yield
    finally:
        del _runs[process]


@contextmanager
def memory_errors_explained() -> Iterator[None]:
    """Turns the errors of all allocators into OutOfMemory, which says what to do.

    What the block held is let go, though its error is kept: a notebook shows it, and may try again.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        text = str(error).strip() or "no memory is left"
        if not isinstance(error, OutOfMemory) and not _is_lack_of_memory(error, text.lower()):
            raise
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, OutOfMemory):
            raise
        reason = text.partition("\n")[0].partition(" Including non-PyTorch memory")[0].rstrip(".")
        remedy = "Set a smaller batch_size or smaller sizes of the model, or close other programs"
        if "cuda" in text.lower():
            remedy += ' that use this GPU. device="cpu" goes on without one, in other bits'
        raise OutOfMemory(f"{reason}. What was committed is intact. {remedy}.") from error


def _is_lack_of_memory(error: Exception, text: str) -> bool:
    if isinstance(error, UserError):  # which says its own
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    signs = "not enough memory", "can't allocate memory", "out of memory", "bad_alloc", "alloc_failed"
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads(shards: int) -> int:
    """Threads of a new run where no setting says: however many processes there are, or bits would
    depend on that. With whole batches, torch's own choice.
    """
    import torch

    return torch.get_num_threads() if shards == 1 else max(1, usable_cores() // shards)


def chosen_device(name: str) -> torch.device:
    """The device of a setting; raises ConfigError if torch sees no such GPU.

    Where the setting does not say which GPU, it is torch's current one; of several processes on a
    machine, each takes its own.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name = ("cuda" if count else "cpu") if name == "auto" else name
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f'device is "{name}", expected "auto", "cpu", "cuda" or "cuda:N".') from None
    if device.type != "cuda":
        return device
    if (device.index or 0) >= count:
        found = f'device is "{name}", but torch sees {count or "no"} GPU'
        raise ConfigError(f'{found}. Set device="cpu" or "auto".')
    if device.index is None:
        rank = os.environ.get("LOCAL_RANK")
        device = torch.device("cuda", torch.cuda.current_device() if rank is None else int(rank) % count)
    return device


def lack_of_gpus(device: str, processes: int) -> tuple[str, str] | None:
    """Why so many processes on this machine cannot have a GPU each, and the remedy; None: they can."""
    import torch

    if processes == 1 or device == "cpu" or not torch.cuda.is_available():
        return None
    if ":" in device:
        return f'device="{device}" is one GPU for {processes} processes', 'Set device="cuda"'
    count = torch.cuda.device_count()
    found = f"{processes} processes need a GPU each, this machine has {count}"
    return (found, f'Set processes={count}, or device="cpu"') if processes > count else None


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Sets the number of torch's threads (None: no change), and restores it at the end."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def set_for_training(thread_count: int | None) -> Iterator[None]:
    """Sets torch's threads and has glibc keep freed memory; restores both at the end.

    By default glibc returns every large buffer to the system, and getting it back, zeroed page by page,
    costs 15% of a step of 256 pairs. Buffers over 32 MB, such as a validation's, are still returned:
    keeping them would fragment the heap and let memory grow from epoch to epoch. Only glibc has this
    call. At the end its thresholds get their initial values, not those that it may have adapted. Where
    the environment sets them, nothing is done.
    """
    from treelstm.neutral import require_denormals  # imports torch

    if _keep_freed_memory(mmap_bytes=32 << 20, trim_bytes=1 << 30):
        log.info(
            "until the run ends, memory that a step frees is kept for the next one (glibc's mallopt)"
        )
    try:
        with memory_errors_explained(), threads(thread_count):
            require_denormals()
            yield
    finally:
        _keep_freed_memory(mmap_bytes=_GLIBC_DEFAULT_BYTES, trim_bytes=_GLIBC_DEFAULT_BYTES)


def _keep_freed_memory(mmap_bytes: int, trim_bytes: int) -> bool:
    """Sets glibc's thresholds; False with another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or any(name in os.environ for name in _SETTINGS_OF_MALLOC):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, mmap_bytes) and mallopt(_TRIM_THRESHOLD, trim_bytes))
