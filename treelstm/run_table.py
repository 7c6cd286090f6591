"""Many runs compared: which settings differ, which numbers can be compared, their order, their table."""

import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from treelstm.config import NOT_OF_TRAINING, Config, Value, project_root
from treelstm.history import IN_HISTORY, Metric
from treelstm.model.objectives import Contrastive, Graded, Ranking
from treelstm.plain import shown
from treelstm.run.changes import DECIDE_LOSS
from treelstm.run.summary import FAILED
from treelstm.runs import BROKEN, RUNNING, RunRow

# These say where a run is and how it is watched, which is no difference between two runs.
_NO_CHOICE = NOT_OF_TRAINING | {"output_dir", "resume", "changes", "max_hours", "ignore_preflight"}
_NO_CHOICE |= {"accept_weak_disk", "checkpoint_every_seconds", "keep", "max_restarts", "processes"}
_CHOICES = [setting.name for setting in fields(Config) if setting.name not in _NO_CHOICE]
_PATHS = {"data_dir", "validation_dir", "start_from", "vectors"}
_ROOT = project_root()
_Cell = tuple[str, Any]
_BEST_BY = {"contrastive": Contrastive.best_by, "graded": Graded.best_by, "ranking": Ranking.best_by}
_UNSEEN = [metric for metric in IN_HISTORY if metric.key.startswith("validation_")]
_WIDTH, _NAME, _LISTED = 100, 24, 10  # of a terminal; the least of a name; reasons, at most
_OF_NOTE = 200  # characters in a table, at most
_TOLD = {BROKEN, FAILED, RUNNING}  # states whose reasons a terminal shows


def _same(name: str, value: Value) -> str:
    """Text that is equal for equal values of a setting; a path is, from wherever it is written."""
    return str(_ROOT / value) if name in _PATHS and isinstance(value, str) else repr(value)


def differing(rows: Sequence[RunRow]) -> list[str]:
    """Names of the settings that differ between runs, in the order of `Config`."""
    known = [row.settings for row in rows]
    found = {name: {_same(name, each[name]) for each in known if name in each} for name in _CHOICES}
    return [name for name, values in found.items() if len(values) > 1]


def setting_text(row: RunRow, name: str) -> str:
    """A setting as a table shows it, in four digits; "" if it is not known."""
    value = row.settings.get(name, "")
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)


def label(row: RunRow, names: Sequence[str]) -> str:
    """These settings of a run: `hidden_dim=128, seed=43`."""
    return ", ".join(f"{name}={setting_text(row, name)}" for name in names if name in row.settings)


def labels(rows: Sequence[RunRow]) -> list[str]:
    """What tells each run from the others: the settings that differ, and its name where it needs it."""
    names = differing(rows)
    found = [label(row, names) for row in rows]
    return [
        text if text and found.count(text) == 1 else f"{row.name} {text}".strip()
        for row, text in zip(rows, found, strict=True)
    ]


def shared_metrics(rows: Sequence[RunRow]) -> list[Metric]:
    """The numbers on unseen pairs that every run with an epoch has, and that mean the same in all."""
    keys = [{*row.best} for row in rows if row.best]
    shared = set.intersection(*keys) if keys else set()
    if DECIDE_LOSS & {*differing(rows)}:
        shared -= {"validation_loss"}
    return [metric for metric in _UNSEEN if metric.key in shared]


def main_metric(rows: Sequence[RunRow]) -> Metric | None:
    """The shared number by which all of them chose their best epoch, else the first one of quality."""
    shared = shared_metrics(rows)
    settings = [row.settings for row in rows if row.best]
    by = {each.get("best_by") or _BEST_BY.get(str(each.get("objective"))) for each in settings}
    chosen = [metric for metric in shared if by == {metric.key}]
    quality = [metric for metric in shared if metric.panel == "quality" and metric.column]
    return next(iter(chosen + quality + shared), None)


def ranked(rows: Sequence[RunRow]) -> list[RunRow]:
    """The runs, best first; at the end, by name, those that have no such number."""
    metric = main_metric(rows)
    sign = -1 if metric and metric.better == "higher" else 1

    def place(row: RunRow) -> tuple[float, str]:
        value = sign * row.value(metric) if metric else math.nan
        return math.inf if math.isnan(value) else value, row.name

    return sorted(rows, key=place)


def caveats(rows: Sequence[RunRow]) -> list[str]:
    """What one must know before comparing these runs, in sentences."""
    found, names = list[str](), differing(rows)
    split = [row for row in rows if row.settings and row.settings.get("validation_dir") is None]
    causes = [n for n in differing(split) if n in ("data_dir", "validation_fraction", "seed")]
    if "validation_dir" in names:
        found.append("The runs are measured on other pairs: validation_dir differs.")
    elif causes:
        found.append(
            f"Which pairs a run holds out depends on {' and '.join(causes)}, as validation_dir is None: "
            "part of the difference between these runs is that of their pairs."
        )
    kept = {metric.key for metric in shared_metrics(rows)}
    if decide := [name for name in names if name in DECIDE_LOSS]:
        found.append(f"Losses are not compared: they depend on {' and '.join(decide)}.")
        kept |= {"validation_loss"}
    seen = {key for row in rows for key in row.best or ()} - kept
    if lost := [metric.label for metric in _UNSEEN if metric.key in seen]:
        found.append(f"Left out, since not every run has them: {', '.join(lost)}.")
    return found


def about(rows: Sequence[RunRow], directory: Path | str) -> str:
    """How many runs stand how, and what to know before they are compared."""
    if not rows:
        return shown(f"No run is in {directory}. Train one, or name the directory that holds them.")
    states = ", ".join(f"{n} {state}" for state, n in Counter(row.state for row in rows).most_common())
    return "\n".join([f"{len(rows)} run{'s' * (len(rows) > 1)}: {states}", *caveats(rows)])


def table(rows: Sequence[RunRow], metrics: Sequence[Metric]) -> tuple[list[str], list[list[_Cell]]]:
    """Headings; of each run its cells: the text, and what it is sorted by, None if it is not known."""
    names, labels = differing(rows), [metric.label for metric in metrics]
    head = ["run", "state", *names, "epochs done", "best epoch", *labels, "minutes", "MB", "note"]
    lines = list[list[_Cell]]()
    for row in rows:
        best, asked = dict[str, Any](row.best or {}), row.settings.get("epochs")
        minutes = None if row.seconds is None else row.seconds / 60
        done = f"{row.epochs_done}/{asked}" if asked else str(row.epochs_done)
        numbers = [("{}", best.get("epoch")), *((each.format, best.get(each.key)) for each in metrics)]
        numbers += [("{:.1f}", minutes), ("{:.1f}", row.size / 1e6)]
        cells = [
            (row.name, row.name),
            (row.says, row.says),
            *((setting_text(row, name), row.settings.get(name)) for name in names),
            (done, row.epochs_done),
            *(("" if value is None else form.format(value), value) for form, value in numbers),
            (cut(row.note, _OF_NOTE), row.note),
        ]
        lines.append([(shown(text), _sorted_by(value)) for text, value in cells])
    return head, lines


def _sorted_by(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if math.isfinite(value) else None
    return None if value is None else shown(value)


def as_text(rows: Sequence[RunRow]) -> str:
    """The runs for a terminal of 100 columns, best first."""
    metric, rows, names = main_metric(rows), ranked(rows), differing(rows)
    head, cells = table(rows, [metric] if metric else [])
    heads = itertools.zip_longest(*(name.replace("_", " ").split() for name in head[:-1]), fillvalue="")
    body = [
        (row.name, row.state, *(text for text, _ in line[2:-1]))
        for row, line in zip(rows, cells, strict=True)
    ]
    most = {"state": 20, **dict.fromkeys(names, 16)}
    columns = {
        name: [cut(text, most.get(name, _WIDTH)) for text in texts]
        for name, *texts in zip(head[:-1], *heads, *body, strict=True)
    }
    width = {name: max(map(len, texts)) for name, texts in columns.items()}

    def left() -> int:
        """Columns of the terminal that are left for the run's name."""
        return _WIDTH - sum(width[name] + 2 for name in columns if name != "run")

    hidden = list[str]()
    while names and left() < _NAME:
        hidden.append(max(names, key=lambda name: width[name]))
        names.remove(hidden[-1])
        del columns[hidden[-1]]
    width["run"] = min(width["run"], left())
    columns["run"] = [cut(name, width["run"]) for name in columns["run"]]
    padded = [
        [f"{text:{'<' if name in ('run', 'state') else '>'}{width[name]}}" for text in texts]
        for name, texts in columns.items()
    ]
    after = caveats(rows)
    if hidden:
        after.append(f"These settings differ too, and --json has them: {', '.join(hidden)}.")
    told = [f"{row.name}: {row.says}" for row in rows if row.state in _TOLD]
    if told[_LISTED:]:
        told[_LISTED:] = [f"... and {len(told) - _LISTED} more, which --json has"]
    wrap = textwrap.TextWrapper(_WIDTH, subsequent_indent="  ", max_lines=3, placeholder=" …")
    lines = ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]
    return "\n".join(lines + [line for text in after + told for line in wrap.wrap(shown(text))])


def cut(text: str, most: int) -> str:
    """The text on one line, without its middle where it is longer."""
    text = " ".join(shown(text).split())
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


def groups(rows: Sequence[RunRow]) -> list[tuple[str, list[RunRow]]]:
    """The runs whose settings differ in the seed alone, by the settings that tell these from others."""
    names = [name for name in differing(rows) if name != "seed"]
    found = dict[tuple[str, ...], list[RunRow]]()
    for row in rows:
        if row.settings:
            key = tuple(_same(name, row.settings.get(name)) for name in names)
            found.setdefault(key, []).append(row)
    return [(label(of[0], names) or "the same settings", of) for of in found.values()]
