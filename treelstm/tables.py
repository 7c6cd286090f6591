"""The tables of the notebooks, as HTML."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from IPython.display import HTML

from treelstm.evaluation import Estimate, Retrieval
from treelstm.explanation import Explanation
from treelstm.history import METRICS, Metric
from treelstm.plain import AS_WRITTEN, in_html
from treelstm.run_table import caveats, groups, ranked, shared_metrics
from treelstm.runs import RunRow
from treelstm.tree_figures import node_name
from treelstm.trees.arrays import Array
from treelstm.trees.vocabulary import ROLE, readable, value_of


def score_table(
    scores: Mapping[str, Mapping[str, Estimate]], differences: Mapping[str, Mapping[str, Estimate]]
) -> HTML:
    """Metrics with their 95% intervals, as `evaluation.compared` returns them."""
    given = next(iter(scores.values()), {})
    shown = [metric for metric in METRICS if metric.name in given]
    if not shown:
        return HTML("These pairs have neither both classes nor graded similarities: there is no score.")

    def row(name: str, of: Mapping[str, Estimate], form: str) -> list[str]:
        texts = [[format(value, form) for value in of.get(metric.name, ())] for metric in shown]
        return [name, *("{} [{},\u00a0{}]".format(*text) if text else "" for text in texts)]

    rows = [row(name, each, ".3f") for name, each in scores.items()]
    rows += [row(f"difference to {name}", each, "+.3f") for name, each in differences.items()]
    return HTML(html_table(["", *(metric.label for metric in shown)], rows))


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
    """The ten nodes without which a distance changes most, and the ten strongest symbols of the bags."""
    nodes = list[list[str]]()
    for tree, node, change in why.strongest():
        symbols = why.nodes[tree][node]
        role = next((value_of(symbol) for symbol in symbols if symbol.startswith(ROLE)), "")
        name = node_name(symbols, label_keys)[0]
        nodes.append([("first", "second")[tree], f"{role}: {name}", f"{change:+.3f}"])
    parts = [[readable(name), f"{part:+.3f}"] for name, part in [*why.symbols.items()][:10]]
    tables = [html_table(["tree", "without this subtree", "distance changes"], nodes)] if nodes else []
    tables += [html_table(["symbol of the bags", "part of the distance"], parts)] if parts else []
    said = f"{why.of_trees:+.3f} from the trees, {why.of_bags:+.3f} from the bags of symbols"
    style = "display:flex;gap:2em;align-items:flex-start;flex-wrap:wrap"
    return HTML(f"Distance {why.distance:.3f}: {said}.<div style='{style}'>{''.join(tables)}</div>")


def html_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns whose first row holds a number are aligned to the right; the first one's words wrap."""
    sides = ["right" if str(value)[:1] in set("+-0123456789") else "left" for value in rows[0]]
    least = min(12, max(len(str(row[0])) for row in rows))
    sides[0] += f";overflow-wrap:anywhere;min-width:{least}ch"
    table = f"<table {AS_WRITTEN} style='font-size:85%'>"
    for tag, cells in [("th", head), *(("td", row) for row in rows)]:
        table += "<tr>"
        name, *others = map(in_html, cells)
        name = name.replace("/", "/<wbr/>").replace(",", ",<wbr/>")  # where a line may end
        for text, side in zip((name, *others), sides, strict=True):
            table += f"<{tag} style='text-align:{side}'>{text}</{tag}>"
        table += "</tr>"
    return f"{table}</table>"
