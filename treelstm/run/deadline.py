"""When a run has to stop for `max_hours`: early enough for one more step or validation, and a commit."""

import time
from dataclasses import dataclass


@dataclass
class Deadline:
    """The latest durations decide. Before the first validation, its pairs are taken to need as long as
    those of a step.
    """

    began: float  # by the monotonic clock
    max_hours: float | None
    validation_steps: float  # validation pairs / pairs per step
    step_seconds: float = 0.0
    commit_seconds: float = 0.0
    validation_seconds: float | None = None

    def is_near(self, *, validates: bool) -> bool:
        """Whether what comes next, the validation or a step, and its commit would end too late."""
        if self.max_hours is None:
            return False
        seconds = self.step_seconds
        if validates:
            known = self.validation_seconds
            seconds = self.validation_steps * seconds if known is None else known
        ends = self.began + 3600 * self.max_hours
        return time.monotonic() + seconds + self.commit_seconds >= ends
