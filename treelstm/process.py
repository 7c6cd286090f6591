"""The device, threads and memory of this process. Nothing is done, and torch not imported, at import."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from treelstm.config import ConfigError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("treelstm")

# malloc.h: the options, and the values that glibc starts with.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_GLIBC_DEFAULT_BYTES = 128 << 10


def wait_briefly() -> None:
    """Lets waiting OpenMP threads sleep after 0.1 ms instead of 10 ms. Call before torch is loaded.

    Beside busy processes, threads that spin keep the core that the awaited thread needs: a step can take
    20 times as long. On an idle machine, sleeping costs 4%. Settings in the environment win.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_device(name: str) -> torch.device:
    """The device of a setting; raises ConfigError if torch sees no such GPU."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f'device is "{name}", expected "auto", "cpu", "cuda" or "cuda:N".') from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count() or "no"
        raise ConfigError(f'device is "{name}", but torch sees {count} GPU. Set device="cpu" or "auto".')
    return device


def waiting_seconds() -> float:
    """Processor seconds that torch's threads spend waiting after a parallel operation, measured.

    At most 0.2 ms if `wait_briefly` was called in time, over 2 ms if they spin. A median, because busy
    processes and other threads disturb single trials.
    """
    import torch

    numbers = torch.zeros(1 << 20)
    spent = []
    for _ in range(5):
        numbers.add_(1)  # large enough that all threads take part
        began = time.process_time()
        time.sleep(0.05)
        spent.append(time.process_time() - began)
    return sorted(spent)[2]


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
    call. At the end its thresholds get their initial values, not those that it may have adapted.
    """
    if _keep_freed_memory(mmap_bytes=32 << 20, trim_bytes=1 << 30):
        log.info(
            "until the run ends, memory that a step frees is kept for the next one (glibc's mallopt)"
        )
    try:
        with threads(thread_count):
            yield
    finally:
        _keep_freed_memory(mmap_bytes=_GLIBC_DEFAULT_BYTES, trim_bytes=_GLIBC_DEFAULT_BYTES)


def _keep_freed_memory(mmap_bytes: int, trim_bytes: int) -> bool:
    """Sets glibc's thresholds; False with another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, mmap_bytes) and mallopt(_TRIM_THRESHOLD, trim_bytes))
