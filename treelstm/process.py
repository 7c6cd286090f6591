"""This process: its device, its threads, how they wait for each other, and what freed memory becomes.

Nothing here is done at import, and torch is imported only when it is needed.
"""

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
    """Has OpenMP's threads sleep soon when they wait for each other. Call before torch is loaded.

    By default they spin for 10 ms. Where another process is busy, they spin on the core that the
    awaited thread needs, and a step can take 20 times as long. Sleeping after 0.1 ms costs 4% on a
    machine of one's own, and nothing beside others. An environment that says otherwise is left alone.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def chosen_device(name: str) -> torch.device:
    """The device of a setting: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: torch sees no such GPU.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f'device is "{name}", but torch sees {torch.cuda.device_count() or "no"} GPU. '
            'Set device="cpu" or "auto".'
        )
    return device


def waiting_seconds() -> float:
    """Processor seconds that torch's threads spend waiting after a parallel operation, as measured.

    At most 0.2 ms if `wait_briefly` was called in time, over 2 ms if they spin. The median, because
    beside busy processes a single trial may miss the spinning, and other threads may add to one.
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
    """Sets the number of torch's threads (None: leaves it), and puts it back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def set_for_training(thread_count: int | None) -> Iterator[None]:
    """Sets torch's threads and has glibc keep freed memory; puts both back at the end.

    By default glibc gives every large buffer back to the system, which hands it out again page by
    page and zeroed: 15% of a step of 256 pairs. Buffers over 32 MB, such as a validation's, still go
    back: kept, they would leave gaps, and the process would grow from epoch to epoch. No other C
    library has the call. glibc's thresholds are put back to the values that it starts with, not to
    what it may have learned of this process's sizes.
    """
    log.info("while it trains, this process keeps the memory that its steps free (mallopt)")
    _keep_freed_memory(mmap_bytes=32 << 20, trim_bytes=1 << 30)
    try:
        with threads(thread_count):
            yield
    finally:
        _keep_freed_memory(mmap_bytes=_GLIBC_DEFAULT_BYTES, trim_bytes=_GLIBC_DEFAULT_BYTES)


def _keep_freed_memory(mmap_bytes: int, trim_bytes: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, mmap_bytes)
        mallopt(_TRIM_THRESHOLD, trim_bytes)
