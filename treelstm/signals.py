"""The signals that ask a run to stop, with a handler for as long as the run goes on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# SLURM and other schedulers send the last three before a job's time is up.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


@contextmanager
def stop_signals(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """Has `handler` called on every signal that asks to stop; does nothing outside the main thread.

    A signal that is ignored, as nohup does with SIGHUP, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # Python would refuse the handler
        yield
        return
    known = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    # None: a library's own handler, which Python could not put back.
    handled = [number for number in known if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
