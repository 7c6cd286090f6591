"""Who watches a run. The training loop calls these methods and knows nothing of who listens."""

from __future__ import annotations

from treelstm.history import EpochRecord, History
from treelstm.run.directory import Commit
from treelstm.run.state import Run


class Listener:
    """Overrides what it wants to hear. What it raises ends the run; the last commit stands.

    `run` is the live state: to be read, not to be changed.
    """

    def on_start(self, run: Run) -> None:
        """The state is loaded, and there is something left to do or not (`run.outcome`)."""

    def on_step(self, run: Run) -> None:
        """One optimizer step is done."""

    def on_commit(self, commit: Commit) -> None:
        """A commit is on disk."""

    def on_epoch(self, record: EpochRecord) -> None:
        """An epoch is validated and on disk, with all that follows from it."""

    def on_end(self, history: History) -> None:
        """The run ended, finished or stopped, after there was something to do."""

    def on_failure(self, error: Exception) -> None:
        """The run ends with this error."""
