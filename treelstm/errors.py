"""Errors that a user or a machine causes: one message, no traceback."""


class UserError(Exception):
    """Base of this package's errors: the message says where, what was found and what to do."""

    def _render_traceback_(self) -> list[str]:
        """Makes IPython show the message only."""
        return [f"{type(self).__name__}: {self}"]
