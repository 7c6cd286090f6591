"""The report of a preflight: findings by group and a verdict, as text, as HTML and as data."""

import math
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from treelstm import themes
from treelstm.config import Config
from treelstm.data.pairs import Pairs
from treelstm.errors import UserError
from treelstm.plain import AS_WRITTEN, in_html, shown, without_nan

Level = Literal["ok", "note", "warning", "error"]
OK: Final = "ok"
NOTE: Final = "note"
WARNING: Final = "warning"  # the result may disappoint
ERROR: Final = "error"  # training would fail

_SYMBOLS: dict[Level, str] = {OK: "✓", NOTE: "·", WARNING: "!", ERROR: "✗"}  # least severe first
_MARKS = {OK: ("✓", themes.GREEN), NOTE: ("●", themes.SIMILAR),  # on a page; untrusted: no colour
          WARNING: ("▲", themes.YELLOW), ERROR: ("✖", themes.MARK)}  # fmt: skip

GROUPS = ("Dependencies", "Data files", "Data content", "Output directory", "Batches", "Model",
          "Processes", "Resources", "Determinism")  # fmt: skip

CHECK_FAILED = "preflight.check-failed"


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it.

    `code` names what was looked at, for programs: docs/preflight.md lists all. It is the same whatever
    the level, and stays the same in later versions, while texts may change.
    """

    code: str
    level: Level
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        for name in ("found", "remedy"):  # they quote data, paths and settings
            object.__setattr__(self, name, shown(getattr(self, name)))


# A check finds something, or many things; of these, some may be checks of their own.
Check = Callable[[], "Finding | Iterable[Finding | Check]"]


def judged(code: str, text: str, bad: bool, level: Level, remedy: str, good: Level = OK) -> Finding:
    """The finding of a check: `level` and the remedy if it is `bad`, else level `good`, no remedy."""
    return Finding(code, level, text, remedy) if bad else Finding(code, good, text)


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
    def can_go_on(self) -> bool:
        """Whether the checks that follow make sense; one that failed itself is no hindrance."""
        return all(f.level != ERROR or f.code == CHECK_FAILED for f in self.all)

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

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it: None for what was not measured."""
        findings = [{**vars(f), "group": name} for name, group in self.findings.items() for f in group]
        found: dict[str, Any] = {"verdict": self.verdict}
        for level in (ERROR, WARNING):
            found[f"{level}s"] = [f.found for f in self.all if f.level == level]
        for name in ("seconds_per_epoch", "peak_memory_bytes", "disk_bytes"):
            found[name] = getattr(self, name)
        return dict(without_nan({**found, "findings": findings, "next": next_command(self)}))

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
            text = f"{f.found.rstrip('.')}{remedy}"
            lines.append(f"  {_SYMBOLS[f.level]} {f.level:7}  {text} [{f.code}]")
    lines += ["", summary(report), f"next: {next_command(report)}"]
    return shown("\n".join(lines)).encode(encoding, "replace").decode(encoding)


def as_html(report: Report, now: str = "") -> str:
    """The verdict, the estimates, and a table per group, open only if it has a warning or an error.

    `now`: what is still being checked, instead of a verdict.
    """
    colors = (f".treelstm-{k}{{color:{themes.variable(color)}}}" for k, (_, color) in _MARKS.items())
    parts = [f"<style>{themes.CSS}{''.join(colors)}</style><div {AS_WRITTEN}>"]
    if not now:
        estimates = [in_html(f.found) for f in report.findings.get("Resources", ())]
        parts.append("<br>".join([f"<b>{in_html(summary(report))}</b>", *estimates]))
    for group, findings in [*report.findings.items()][: -1 if now else None]:  # the last one goes on
        levels: list[Level] = [OK, *(finding.level for finding in findings)]
        level = max(levels, key=list(_SYMBOLS).index)
        rows = "".join(map(_row, findings))
        parts.append(
            f"<details{' open' if level in (WARNING, ERROR) else ''}><summary>{_mark(level)} "
            f"{GROUPS.index(group) + 1} {group}: {len(findings)} checked</summary>"
            f"<table>{rows}</table></details>"
        )
    last = f"next: {_next_page(report)}<code>{in_html(next_command(report))}</code>"
    return "".join([*parts, f"checking {in_html(now)} …" if now else last, "</div>"])


def _mark(level: Level, word: str = "") -> str:
    style = "white-space:nowrap;font-weight:bold"
    return f"<span class='treelstm-{level}' style='{style}'>{_MARKS[level][0]} {word}</span>"


def _row(f: Finding) -> str:
    style = "style='text-align:left;vertical-align:top'"
    remedy = f"<br><b>{in_html(f.remedy)}.</b>" if f.remedy else ""
    found = f"{in_html(f.found)}{remedy}<br><code style='font-size:80%'>{f.code}</code>"
    return f"<tr><td {style}>{_mark(f.level, f.level)}</td><td {style}>{found}</td></tr>"


def _next_page(report: Report) -> str:
    """A link to the page that trains, if it lies where this one does."""
    page = Path("02_train.ipynb")
    there = report.verdict != "no-go" and page.is_file()
    return f"<a href='{page}'>{page.stem}</a> with the same parameters, or " if there else ""
