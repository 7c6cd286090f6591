"""What training changes in its whole process: threads, how they wait, and what freed memory becomes."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

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


def waiting_seconds() -> float:
    """Processor seconds that torch's threads spend waiting after a parallel operation, as measured.

    Under 1 ms where `wait_briefly` came in time; about 10 ms or more where they spin.
    """
    import torch

    numbers = torch.zeros(1 << 20)
    spent = []
    for _ in range(5):
        numbers.add_(1)  # large enough that all threads take part
        began = time.process_time()
        time.sleep(0.03)
        spent.append(time.process_time() - began)
    return min(spent)


@contextmanager
def set_for_training(threads: int | None) -> Iterator[None]:
    """Sets torch's threads (None: as they are) and keeps freed memory; puts both back at the end.

    By default glibc gives every large buffer back to the system, which hands it out again page by
    page and zeroed: 15% of a step of 256 pairs. Buffers over 32 MB, such as a validation's, still go
    back: kept, they would leave gaps, and the process would grow from epoch to epoch. No other C
    library has the call. What glibc had learned of its own about sizes is not put back: its
    thresholds are, to the values that it starts with.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    _keep_freed_memory(mmap_bytes=32 << 20, trim_bytes=1 << 30)
    try:
        yield
    finally:
        _keep_freed_memory(mmap_bytes=_GLIBC_DEFAULT_BYTES, trim_bytes=_GLIBC_DEFAULT_BYTES)
        torch.set_num_threads(before)


def _keep_freed_memory(mmap_bytes: int, trim_bytes: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, mmap_bytes)
        mallopt(_TRIM_THRESHOLD, trim_bytes)
