"""`run.json`: what a run is and how it stands, small enough to be read for hundreds of runs at once.

Derived like `training_history.json`. Without an outcome, a run is being trained or was killed.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from treelstm.config import Settings
from treelstm.files import WriteFailed, write_if_other
from treelstm.history import Change
from treelstm.run.directory import SUMMARY
from treelstm.run.distributed import goes_on
from treelstm.run.lock import Held
from treelstm.run.state import Run

log = logging.getLogger("treelstm")

FAILED = "failed"


class Summary(TypedDict):
    """The content of `run.json`."""

    outcome: str | None  # an `Outcome`, or FAILED
    why: str  # it was pruned or failed
    epochs_done: int
    step: int  # steps done in the next epoch
    seconds: float  # of training, over all restarts
    settings: Settings  # all but output_dir, which is where the file lies
    changes: list[Change]  # made on purpose by resumes


def write_summary(run: Run, outcome: str | None, why: str = "") -> None:
    """Writes how the run stands, unless the file says so already; raises WriteFailed."""
    path, settings = run.config.output_path / SUMMARY, run.config.to_dict()
    del settings["output_dir"]
    seconds = run.seconds + sum(timing["seconds"] for timing in run.timings)
    summary = Summary(
        outcome=outcome,
        why=why,
        epochs_done=run.epochs_done,
        step=run.step,
        seconds=round(seconds, 3),
        settings=settings,
        changes=run.changes,
    )
    write_if_other(path, json.dumps(summary, indent=1).encode())


@contextmanager
def failure_noted(run: Run, held: Held) -> Iterator[None]:
    """Writes the error that ends the block before the run has ended, and raises it on."""
    try:
        yield
    except Exception as error:
        if run.outcome is None and held.is_ours() and not goes_on(error):
            try:
                write_summary(run, FAILED, f"{type(error).__name__}: {error}")
            except WriteFailed as refused:
                log.warning("%s does not say so: %s", SUMMARY, refused)
        raise
