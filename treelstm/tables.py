"""The tables of the notebooks, as HTML."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import HTML, display

from treelstm.comparison import deciding
from treelstm.evaluation import Estimate, Retrieval
from treelstm.explanation import Explanation
from treelstm.history import METRICS, Metric
from treelstm.plain import AS_WRITTEN, in_html, shown, without_nan
from treelstm.run_table import caveats, groups, ranked, shared_metrics
from treelstm.runs import RunRow
from treelstm.tree_figures import node_name
from treelstm.trees.arrays import Array
from treelstm.trees.vocabulary import ROLE, readable, value_of

# JupyterLab would show the output for programs as a tree below the table, and prefers it to HTML.
_NO_TREE = ".jp-OutputArea-child:has(.treelstm-results) + .jp-OutputArea-child { display: none }"
_LONG = 200  # characters of a result, at most


def results(values: Mapping[str, Any]) -> None:
    """Ends a page: a row for each result, all of them folded below, and once more as
    `application/json` for programs, with null for NaN, which JSON does not have.
    """
    values = without_nan(values)
    rows = [[name.replace("_", " "), _in_short(value)] for name, value in values.items()]
    whole = in_html(json.dumps(values, indent=2, ensure_ascii=False))
    folded = f"<details><summary>all results</summary><pre {AS_WRITTEN}>{whole}</pre></details>"
    table = f"<style>{_NO_TREE}</style>{html_table(['', ''], rows)}{folded}"
    text = "\n".join(f"{name}: {value}" for name, value in rows)
    html = f"<div class='treelstm-results'>{table}</div>"
    display({"text/html": html, "text/plain": shown(text)}, raw=True)
    display({"application/json": values, "text/plain": ""}, raw=True)


def _in_short(value: Any) -> str:
    """A number in four digits; what is nested, unless that is long."""
    if isinstance(value, dict):
        parts = [f"{name.replace('_', ' ')} {_in_short(each)}" for name, each in value.items()]
    elif isinstance(value, list):
        parts = [_in_short(each) for each in value]
    else:
        return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
    text = ", ".join(parts) or "none"
    return text if len(text) <= _LONG else f"{len(parts)} entries"


def score_table(
    scores: Mapping[str, Mapping[str, Estimate]], differences: Mapping[str, Mapping[str, Estimate]]
) -> HTML:
    """Metrics with their 95% intervals, as `evaluation.compared` returns them."""
    given = next(iter(scores.values()), {})
    shown = [metric for metric in METRICS if metric.name in given]
    if not shown:
        return HTML("These pairs have neither both classes nor graded similarities: there is no score.")

    def row(name: str, of: Mapping[str, Estimate], form: str) -> list[str]:
        return [name, *(_estimate(of.get(metric.name), form) for metric in shown)]

    rows = [row(name, each, ".3f") for name, each in scores.items()]
    rows += [row(f"difference to {name}", each, "+.3f") for name, each in differences.items()]
    return HTML(html_table(["", *(metric.label for metric in shown)], rows))


def _estimate(of: Estimate | None, form: str) -> str:
    """A value, and on a second line its interval."""
    return "{}\n[{},\u00a0{}]".format(*(format(value, form) for value in of)) if of else ""


def short_table(
    scores: Mapping[str, Mapping[str, Estimate]],
    differences: Mapping[str, Mapping[str, Estimate]],
    found: Mapping[str, Retrieval],
    graded: bool,
) -> HTML:
    """The numbers on which `comparison.verdict`, of the same values, rests."""
    by = deciding(next(iter(scores.values()), {}), graded)
    head = [
        "",
        *([by.label, "this encoder is ahead by"] if by else []),
        *["precision at 1"] * bool(found),
    ]
    rows = []
    for who in scores or found:
        of, less = scores.get(who, {}), differences.get(who, {})
        row = [
            who,
            *([_estimate(of[by.name], ".3f"), _estimate(less.get(by.name), "+.3f")] if by else []),
        ]
        rows.append(row + ([f"{found[who].precision[1]:.3f}"] if found else []))
    return HTML(html_table(head, rows) if len(head) > 1 else "")


def retrieval_table(found: Mapping[str, Retrieval]) -> HTML:
    """Precision at k and mean reciprocal rank, beside those of a random and a perfect order."""
    if not found:
        return HTML("No pair is labelled similar: there is nothing to retrieve.")
    any_ = next(iter(found.values()))
    head = ["", *(f"precision at {k}" for k in any_.precision), "mean reciprocal rank"]
    numbers = {who: [*each.precision.values(), each.mean_reciprocal_rank] for who, each in found.items()}
    numbers["a perfect order"] = [*any_.possible.values(), 1.0]
    rows = [[who, *(f"{number:.3f}" for number in row)] for who, row in numbers.items()]
    rows.insert(-1, ["a random order", *[f"{any_.chance:.4f}"] * len(any_.precision), ""])
    words = f"{any_.queries:,} trees with similar ones, each compared with {any_.candidates:,} others."
    return HTML(f"{words}{html_table(head, rows)}")


def group_table(rows: Sequence[RunRow]) -> HTML:
    """The mean of each shared metric over the seeds of a setting, its standard deviation and count."""
    metrics = shared_metrics(rows)
    of_setting = [(text, [row for row in of if row.finished]) for text, of in groups(ranked(rows))]
    found = [(text, ended) for text, ended in of_setting if ended]
    if not metrics or not found:
        return HTML("No run has finished yet: there is no mean.")
    words = ["Mean of the best epochs ± standard deviation (number of seeds), of finished runs."]
    if left := sum(not row.finished for row in rows):
        words.append(f"{left} of {len(rows)} runs have not finished and are left out.")
    cells = [[text, *(_spread(ended, metric) for metric in metrics)] for text, ended in found]
    head = ["setting", *(metric.label for metric in metrics)]
    return HTML(in_html(" ".join(words + caveats(rows))) + html_table(head, cells))


def _spread(rows: Sequence[RunRow], metric: Metric) -> str:
    """Of runs with one seed, which are equal, one counts."""
    of_seed = {row.settings.get("seed"): row.value(metric) for row in rows}
    values = [value for value in of_seed.values() if not np.isnan(value)]
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{deviation} ({len(values)})" if values else ""


def confusion_table(distance: Array, label: Array, threshold: float) -> HTML:
    """How many pairs of each class a threshold calls similar, and its precision and recall."""
    called = distance.astype(np.float64) < threshold
    rows = []
    for kind, name in ((1, "similar"), (0, "dissimilar")):
        counts = [int((called[label == kind] == answer).sum()) for answer in (True, False)]
        rows.append([name, *(f"{count:,}" for count in counts)])
    right, predicted, similar = (int(each.sum()) for each in (called & (label == 1), called, label == 1))
    precision = f"{right / predicted:.3f}" if predicted else "not defined: no pair is called similar"
    words = f"Precision {precision}, recall {right / similar:.3f} at the threshold {threshold:.3f}."
    return HTML(html_table(["pairs labelled", "called similar", "called dissimilar"], rows) + words)


def explanation_table(why: Explanation, label_keys: Sequence[str] = ()) -> HTML:
    """The ten nodes without which a distance changes most, and the ten strongest symbols of the bags,
    below a line with the sums.
    """
    nodes = strongest_nodes(why, label_keys)
    parts = [[readable(name), f"{part:+.3f}"] for name, part in [*why.symbols.items()][:10]]
    tables = [html_table(["tree", "without this subtree", "distance changes"], nodes)] if nodes else []
    tables += [html_table(["symbol of the bags", "part of the distance"], parts)] if parts else []
    said = f"{why.of_trees:+.3f} from the trees, {why.of_bags:+.3f} from the bags of symbols"
    style = "display:flex;gap:2em;align-items:flex-start;flex-wrap:wrap"
    return folded(
        f"Distance {why.distance:.3f}: {said}.", f"<div style='{style}'>{''.join(tables)}</div>"
    )


def strongest_nodes(why: Explanation, label_keys: Sequence[str] = ()) -> list[list[str]]:
    """Of the ten nodes that matter most, the tree, role and name, and the change without it."""
    rows = list[list[str]]()
    for tree, node, change in why.strongest():
        symbols = why.nodes[tree][node]
        role = next((value_of(symbol) for symbol in symbols if symbol.startswith(ROLE)), "")
        name = node_name(symbols, label_keys)[0]
        rows.append([("first", "second")[tree], f"{role}: {name}", f"{change:+.3f}"])
    return rows


def html_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns that begin with a number are aligned to the right, their lines stay whole; other words
    wrap, and a table that is wider than the page scrolls.
    """
    columns = [[str(cell) for cell in column if str(cell)] for column in zip(*rows, strict=True)]
    number = [bool(column) and column[0][0] in "+-0123456789" for column in columns]
    sides = ["text-align:right" if each else "text-align:left" for each in number]
    least = min(12, max(len(name) for name in (head[0], *columns[0])))
    sides[0] += f";overflow-wrap:anywhere;min-width:{least}ch"
    table = f"<div style='overflow-x:auto'><table {AS_WRITTEN} style='font-size:85%;margin:0'>"
    for cells in (head, *rows):
        name, *others = map(in_html, cells)
        name = name.replace("/", "/<wbr/>").replace(",", ",<wbr/>")  # where a line may end
        table += "<tr>"
        for place, (text, side) in enumerate(zip((name, *others), sides, strict=True)):
            scope = "col" if cells is head else "" if place else "row"
            tag, of = ("th", f" scope='{scope}'") if scope and text else ("td", "")
            side += ";white-space:nowrap" * (number[place] and cells is not head)
            side += ";font-weight:normal" * (scope == "row")
            table += f"<{tag}{of} style='{side}'>{text.replace(chr(10), '<br/>')}</{tag}>"
        table += "</tr>"
    return f"{table}</table></div>"


def html_of(*parts: Any) -> str:
    """Texts that are HTML, tables and figures as one piece of HTML."""
    return "".join(
        part if isinstance(part, str) else part.data if isinstance(part, HTML) else part.to_html()
        for part in parts
    )


def headline(verdict: str, about: str, table: HTML) -> HTML:
    """What stands first on a page."""
    return HTML(f"<div {AS_WRITTEN}><b>{in_html(verdict)}</b><br/>{in_html(about)}</div>{table.data}")


def folded(summary: str, *parts: Any) -> HTML:
    """Parts below a line that opens and closes them, by mouse or keys, also in exports."""
    keys = "data-lm-suppress-shortcuts='true'"  # JupyterLab would take Enter for the cell
    line = f"<summary {AS_WRITTEN}>{in_html(summary)}</summary>"
    return HTML(f"<details {keys}>{line}{html_of(*parts)}</details>")
