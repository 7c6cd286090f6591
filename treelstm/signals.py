"""The signals that ask a run to stop, with a handler for as long as the run goes on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has `handler` called on SIGINT, SIGTERM and SIGHUP; does nothing outside the main thread.

    A signal that is ignored, as nohup does with SIGHUP, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # Python would refuse the handler
        yield
        return
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handled = [number for number in known if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
