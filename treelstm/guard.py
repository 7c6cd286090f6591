"""What watches over a kernel from inside: it ends, after a commit, when its papermill is gone."""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE_SECONDS = 60.0  # for a commit and a stop, before SIGKILL
_SECONDS_BETWEEN_LOOKS = 0.2


def guard(parent: int) -> None:
    """Starts the watch; `parent` is the process id of papermill, which started this kernel."""
    threading.Thread(target=_watch, args=(parent,), name="guard", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    # In training, SIGTERM is a request to commit and stop, however often it comes. Before and after,
    # it ends the process, which has nothing to lose then.
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)
