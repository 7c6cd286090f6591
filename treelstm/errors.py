"""Errors that a user or a machine causes: one message, no traceback."""

from treelstm.plain import shown


class UserError(Exception):
    """Base of this package's errors: the message says where, what was found and what to do."""

    def __str__(self) -> str:
        return shown(super().__str__())  # it quotes data, paths and settings

    def _render_traceback_(self) -> list[str]:
        """Makes IPython show the message only."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(UserError, ValueError):
    """A setting has an unknown name, a wrong type or a value out of range, or would be ignored."""
