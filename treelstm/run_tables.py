"""Many runs compared: which settings differ, which numbers can be compared, tables of them."""

import itertools
import math
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields

from IPython.display import HTML

from treelstm.config import NOT_OF_TRAINING, Config, Value, project_root
from treelstm.history import IN_HISTORY, Metric
from treelstm.model.objectives import Contrastive, Graded, Ranking
from treelstm.plain import in_html, shown
from treelstm.progress import duration
from treelstm.run.changes import DECIDE_LOSS
from treelstm.run.summary import FAILED
from treelstm.runs import BROKEN, RUNNING, RunRow
from treelstm.tables import html_table

# These say where a run is and how it is watched, which is no difference between two runs.
_NO_CHOICE = NOT_OF_TRAINING | {"output_dir", "resume", "changes", "max_hours", "ignore_preflight"}
_NO_CHOICE |= {"accept_weak_disk", "checkpoint_every_seconds", "keep"}
_CHOICES = [setting.name for setting in fields(Config) if setting.name not in _NO_CHOICE]
_PATHS = {"data_dir", "validation_dir", "start_from", "vectors"}
_ROOT = project_root()
_BEST_BY = {"contrastive": Contrastive.best_by, "graded": Graded.best_by, "ranking": Ranking.best_by}
_UNSEEN = [metric for metric in IN_HISTORY if metric.key.startswith("validation_")]
_WIDTH, _NAME, _LISTED = 100, 24, 10  # of a terminal; the least of a name; reasons, at most
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
    return next(
        iter([*chosen, *(m for m in shared if m.panel == "quality" and m.column), *shared]), None
    )


def ranked(rows: Sequence[RunRow], metric: Metric | None = None) -> list[RunRow]:
    """The runs, best first; at the end, by name, those that have no such number."""
    metric = metric or main_metric(rows)
    sign = -1 if metric and metric.better == "higher" else 1
    values = [sign * row.value(metric) if metric else math.nan for row in rows]
    places = [math.inf if math.isnan(value) else value for value in values]
    named = zip(places, (row.name for row in rows), rows, strict=True)
    return [row for _, _, row in sorted(named, key=lambda each: each[:2])]


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


def table(
    rows: Sequence[RunRow], metrics: Sequence[Metric] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, as text. Without `metrics`, all that are shared."""
    metrics = shared_metrics(rows) if metrics is None else metrics
    names, of_metrics = differing(rows), [metric.label for metric in metrics]
    head = ["run", "state", *names, "epochs done", "best epoch", *of_metrics, "time", "size", "note"]
    cells = []
    for row in rows:
        record, asked, size = row.best, row.settings.get("epochs"), row.size
        cells.append([
            row.name,
            row.says,
            *(setting_text(row, name) for name in names),
            f"{row.epochs_done}/{asked}" if asked else str(row.epochs_done),
            str(record["epoch"]) if record else "",
            *(metric.text(record) if record and metric.key in record else "" for metric in metrics),
            "" if row.seconds is None else duration(row.seconds),
            f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB",
            row.note,
        ])  # fmt: skip
    return head, cells


def as_text(rows: Sequence[RunRow], metric: Metric | None = None) -> str:
    """The runs for a terminal of 100 columns, best first."""
    metric = metric or main_metric(rows)
    rows = ranked(rows, metric)
    head, cells = table(rows, [metric] if metric else [])
    columns = {name: [*texts] for name, texts in zip(head, zip(*cells, strict=True), strict=True)}
    del columns["note"]
    columns["state"] = [cut(row.state, 20) for row in rows]
    names = differing(rows)
    columns |= {name: [cut(text, 16) for text in columns[name]] for name in names}
    heads = {name: name.replace("_", " ").split() for name in columns}
    width = {name: max(map(len, heads[name] + texts)) for name, texts in columns.items()}

    def left() -> int:
        """Columns of the terminal that are left for the run's name."""
        return _WIDTH - sum(width[name] + 2 for name in columns if name != "run")

    hidden = list[str]()
    while names and left() < _NAME:
        hidden.append(max(names, key=lambda name: width[name]))
        names.remove(hidden[-1])
        del columns[hidden[-1]]
    most = left()
    columns["run"] = [cut(name, most) for name in columns["run"]]
    width["run"] = min(width["run"], most)
    lines = list[str]()
    upper = itertools.zip_longest(*(heads[name] for name in columns), fillvalue="")
    for line in (*upper, *zip(*columns.values(), strict=True)):
        sides = ["<" if name in ("run", "state") else ">" for name in columns]
        padded = (f"{x:{s}{width[n]}}" for x, s, n in zip(line, sides, columns, strict=True))
        lines.append("  ".join(padded).rstrip())
    after = caveats(rows)
    if hidden:
        after.append(f"These settings differ too, and --json has them: {', '.join(hidden)}.")
    told = [f"{row.name}: {row.says}" for row in rows if row.state in _TOLD]
    if told[_LISTED:]:
        told[_LISTED:] = [f"... and {len(told) - _LISTED} more, which --json has"]
    wrap = textwrap.TextWrapper(_WIDTH, subsequent_indent="  ", max_lines=3, placeholder=" …")
    lines += [line for text in after + told for line in wrap.wrap(shown(text))]
    return "\n".join(lines)


def cut(text: str, most: int) -> str:
    """The text on one line, without its middle where it is longer."""
    text = " ".join(shown(text).split())
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


@dataclass(frozen=True)
class Group:
    """Runs whose settings differ in the seed alone."""

    label: str  # the settings that tell it from the other groups
    rows: list[RunRow]

    def values(self, metric: Metric) -> list[float]:
        """A metric of its finished runs; of those with one seed, which are equal, of one."""
        of_seed = {row.settings.get("seed"): row.value(metric) for row in self.rows if row.finished}
        return [value for value in of_seed.values() if not math.isnan(value)]


def groups(rows: Sequence[RunRow]) -> list[Group]:
    """The runs whose settings are known, by all settings but the seed."""
    names = [name for name in differing(rows) if name != "seed"]
    found = dict[tuple[str, ...], list[RunRow]]()
    for row in rows:
        if row.settings:
            key = tuple(_same(name, row.settings.get(name)) for name in names)
            found.setdefault(key, []).append(row)
    return [Group(label(of[0], names) or "the same settings", of) for of in found.values()]


def group_table(rows: Sequence[RunRow]) -> HTML:
    """The mean of each shared metric over the seeds of a setting, its standard deviation and count."""
    metrics = shared_metrics(rows)
    found = [group for group in groups(ranked(rows)) if any(row.finished for row in group.rows)]
    if not metrics or not found:
        return HTML("No run has finished yet: there is no mean.")
    words = ["Mean of the best epochs ± standard deviation (number of seeds), of finished runs."]
    if left := sum(not row.finished for row in rows):
        words.append(f"{left} of {len(rows)} runs have not finished and are left out.")
    cells = [[group.label, *(_spread(group.values(metric)) for metric in metrics)] for group in found]
    head = ["setting", *(metric.label for metric in metrics)]
    return HTML(in_html(" ".join(words + caveats(rows))) + html_table(head, cells))


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{deviation} ({len(values)})"
