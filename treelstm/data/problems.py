"""The problems of pair files, collected to be told together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from treelstm.errors import UserError

_SHOWN = 20  # problems listed in an error


@dataclass(frozen=True)
class Problem:
    """One problem of a pair file."""

    found: str  # and where
    remedy: str


@dataclass
class Problems:
    """The first 20 problems, and the number of all."""

    shown: list[Problem] = field(default_factory=list)
    count: int = 0

    def add(self, path: Path, line: int, found: str, remedy: str) -> None:
        """`line` counts from 1, 0 means the whole file."""
        self.count += 1
        if len(self.shown) < _SHOWN:
            where = f"{path}:{line}" if line else path
            self.shown.append(Problem(f"{where}: {found}", remedy))

    def extend(self, others: Problems) -> None:
        self.count += others.count
        self.shown += others.shown[: _SHOWN - len(self.shown)]

    @property
    def more(self) -> str:
        """How many are not shown, in words, or nothing."""
        rest = self.count - len(self.shown)
        return f"... and {rest:,} more" if rest else ""

    def __str__(self) -> str:
        lines = [f"{problem.found}. {problem.remedy}." for problem in self.shown]
        return "\n".join([*lines, self.more] if self.more else lines)


class DataError(UserError, ValueError):
    """Pair files cannot be used; for each problem the message gives file, line and remedy."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(str(problems))
        self.problems = problems


def data_error(path: Path, found: str, remedy: str) -> DataError:
    problems = Problems()
    problems.add(path, 0, found, remedy)
    return DataError(problems)


def unreachable(path: Path, error: OSError) -> DataError:
    found = f"cannot be read ({error.strerror})"
    return data_error(path, found, "Correct that, then run the same command again")
