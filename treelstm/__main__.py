"""What `python -m treelstm` runs: `commands.main`, with signals and standard streams in order before it.

A signal outside the training loop ends the process at once: every file is whole, or made again, or
removed by the next writer. Inside the loop it commits first (see `signals.py`).
"""

import atexit
import contextlib
import gc
import os
import signal
import sys


def _end(number, frame):  # type: ignore[no-untyped-def]  # importing what names the types takes time
    if number == signal.SIGINT:
        with contextlib.suppress(OSError):  # nobody reads it
            os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _open_streams() -> None:
    """Gives closed standard streams to the null device, so that no file of a run gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    is_worker = "TORCHELASTIC_RUN_ID" in os.environ  # as in run/distributed.py
    if is_worker:
        from treelstm.night import follow_launcher

        follow_launcher()
    else:
        for each in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(each) != signal.SIG_IGN:  # as in a background job
                signal.signal(each, _end)
    _open_streams()
    if is_worker and "TREELSTM_LAUNCH_DIR" in os.environ:
        from treelstm.launch import work
        from treelstm.listeners import train

        work(train)
    # What torch imports is no garbage: not looking through it saves a command a second.
    atexit.register(gc.freeze)
    gc.disable()
    from treelstm.commands import main

    gc.enable()
    sys.exit(main())
