"""Runs in a kernel: ends it, after a commit, when the papermill that started it is gone."""

import os
import signal
import threading
import time

GRACE_SECONDS = 60.0  # for a commit and a stop, before SIGKILL
_SECONDS_BETWEEN_CHECKS = 0.2


def watch_parent(parent: int) -> None:
    """Starts the watch; `parent` is the process id of papermill, which started this kernel."""
    threading.Thread(target=_watch, args=(parent,), name="watch_parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    # During training, SIGTERM asks for a commit and a stop, and repeating it is harmless. Before and
    # after training it ends the process, which has nothing to lose then.
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS_BETWEEN_CHECKS)
    os.kill(os.getpid(), signal.SIGKILL)
