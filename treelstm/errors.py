"""What a user can get wrong, or a machine can do to them: one message, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """Base of this package's errors: its message says where, what was found, what to do."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it: in a notebook the message is all that helps."""
        return [f"{type(self).__name__}: {self}"]
