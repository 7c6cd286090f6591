"""The interface between the training loop and whatever watches a run."""

from treelstm.errors import UserError
from treelstm.history import EpochRecord, History
from treelstm.run.content import Commit
from treelstm.run.state import Run


class Prune(UserError):
    """Raised in `on_start` or `on_epoch` while there is more to do: the run ends there, whole and
    resumable, and listeners after this one are not called. The text says why.
    """


class Listener:
    """Subclasses override what they need. An exception ends the run; the last commit is intact.

    `run` is the live state, for reading only.
    """

    def on_start(self, run: Run) -> None:
        """The state is loaded; `run.outcome` is None if there is something left to do."""

    def on_step(self, run: Run) -> None:
        """One optimizer step is done."""

    def on_commit(self, commit: Commit) -> None:
        """A commit is on disk."""

    def on_epoch(self, record: EpochRecord) -> None:
        """An epoch is validated, and its commit and the files derived from it are on disk."""

    def on_end(self, history: History) -> None:
        """The run is finished or was stopped. Not called if there was nothing to do."""

    def on_failure(self, error: Exception) -> None:
        """The run ends with this error."""
