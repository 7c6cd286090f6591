"""The report of a preflight: findings by group and a verdict, as text and as HTML."""

import math
import shlex
import sys
from dataclasses import dataclass, field
from typing import Final, Literal

from treelstm.config import Config
from treelstm.data.pairs import Pairs
from treelstm.errors import UserError
from treelstm.plain import AS_WRITTEN, in_html, shown

Level = Literal["ok", "note", "warning", "error"]
OK: Final = "ok"
NOTE: Final = "note"
WARNING: Final = "warning"  # the result may disappoint
ERROR: Final = "error"  # training would fail

_SYMBOLS: dict[Level, str] = {OK: "✓", NOTE: "·", WARNING: "!", ERROR: "✗"}  # least severe first

GROUPS = ("Dependencies", "Data files", "Data content", "Output directory", "Batches", "Model",
          "Processes", "Resources", "Determinism")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it."""

    level: Level
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        for name in ("found", "remedy"):  # they quote data, paths and settings
            object.__setattr__(self, name, shown(getattr(self, name)))


def judged(text: str, bad: bool, level: Level, remedy: str, good: Level = OK) -> Finding:
    """The finding of a check: `level` and the remedy if it is `bad`, else level `good`, no remedy."""
    return Finding(level, text, remedy) if bad else Finding(good, text)


class PreflightRefused(UserError, ValueError):
    """The verdict is no-go, and `ignore_preflight` is not set."""


@dataclass
class Report:
    """All findings by group, and the estimates for the whole run (NaN if not measured)."""

    config: Config
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    seconds_per_epoch: float = math.nan
    peak_memory_bytes: float = math.nan
    disk_bytes: float = math.nan
    pairs: Pairs | None = None  # for training, once they have been read

    @property
    def all(self) -> list[Finding]:
        return [finding for group in self.findings.values() for finding in group]

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.all)

    @property
    def verdict(self) -> str:
        if self.count(ERROR):
            return "no-go"
        return "go with warnings" if self.count(WARNING) else "go"

    def require_go(self) -> None:
        """Raises PreflightRefused, with each error, for no-go unless `ignore_preflight` is set."""
        if self.verdict == "no-go" and not self.config.ignore_preflight:
            errors = [f"{f.found.rstrip('.')}. {f.remedy}." for f in self.all if f.level == ERROR]
            raise PreflightRefused("\n".join(["preflight says no-go:", *errors]))

    def __str__(self) -> str:
        return as_text(self)

    __repr__ = __str__  # notebooks save it beside the HTML; the generated one would print all pairs

    def _repr_html_(self) -> str:
        return as_html(self)


def next_command(report: Report) -> str:
    flags = shlex.join(report.config.flags())
    if report.verdict == "no-go":
        return f"correct the errors, then: python -m treelstm preflight {flags}"
    return f"python -m treelstm train {flags}"


def summary(report: Report) -> str:
    counts = [(report.count(level), level) for level in (ERROR, WARNING, NOTE)]
    listed = ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for count, level in counts if count)
    return f"{report.verdict}: {len(report.all)} checks" + (f", {listed}" if listed else "")


def as_text(report: Report, encoding: str | None = None) -> str:
    """One aligned line per finding, the verdict and the next command; ? for what `encoding` lacks."""
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "ascii"  # there may be no stdout
    lines = []
    for group, findings in report.findings.items():
        lines.append(f"{GROUPS.index(group) + 1} {group}")
        for f in findings:
            remedy = f". {f.remedy}." if f.remedy else ""
            lines.append(f"  {_SYMBOLS[f.level]} {f.level:7}  {f.found.rstrip('.')}{remedy}")
    lines += ["", summary(report), f"next: {next_command(report)}"]
    return shown("\n".join(lines)).encode(encoding, "replace").decode(encoding)


def as_html(report: Report) -> str:
    """The verdict, the estimates, and a table per group, open only if it has a warning or an error."""
    parts = [f"<div {AS_WRITTEN}><b>{in_html(summary(report))}</b>"]
    parts += [f"<br>{in_html(f.found)}" for f in report.findings.get("Resources", ())]
    for group, findings in report.findings.items():
        levels: list[Level] = [OK, *(finding.level for finding in findings)]
        level = max(levels, key=list(_SYMBOLS).index)
        rows = "".join(
            f"<tr><td>{_SYMBOLS[f.level]} {f.level}</td>"
            f"<td style='text-align:left'>{in_html(f.found)}</td>"
            f"<td style='text-align:left'>{in_html(f.remedy)}</td></tr>"
            for f in findings
        )
        parts.append(
            f"<details{' open' if level in (WARNING, ERROR) else ''}><summary>{_SYMBOLS[level]} "
            f"{GROUPS.index(group) + 1} {group}: {len(findings)} checked</summary>"
            f"<table>{rows}</table></details>"
        )
    parts.append(f"next: <code>{in_html(next_command(report))}</code></div>")
    return "".join(parts)
