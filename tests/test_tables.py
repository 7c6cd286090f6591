from __future__ import annotations

import math

import numpy as np
from IPython.display import HTML

from treelstm import tables
from treelstm.comparison import verdict
from treelstm.drawing import new_figure
from treelstm.evaluation import Retrieval


def test_a_page_ends_in_a_short_table_and_in_all_of_its_results_for_programs(monkeypatch):
    shown = list[dict[str, object]]()
    monkeypatch.setattr(tables, "display", lambda data, raw: shown.append(data))
    scores = {f"encoder {i}": {"roc_auc": (0.5, 0.4, 0.6), "f1": (0.1, 0.2, 0.3)} for i in range(9)}
    best = {"epoch": 2, "validation_loss": 0.123456, "f1": math.nan}
    tables.results({"outcome": "<b>$x$", "best": best, "scores": scores, "errors": []})
    page, program = shown
    rows = ["outcome: <b>$x$", "best: epoch 2, validation loss 0.1235, f1 none"]
    assert page["text/plain"] == "\n".join([*rows, "scores: 9 entries", "errors: none"])
    html = str(page["text/html"])
    assert "<b>" not in html and html.count("<td") + html.count("<th") == 10
    assert "&quot;validation_loss&quot;: 0.123456" in html
    assert html.index("<table") < html.index("<details>") < html.index("0.123456")
    assert program["application/json"]["best"]["f1"] is None
    assert program["application/json"]["scores"]["encoder 8"]["f1"] == [0.1, 0.2, 0.3]


def test_a_table_heads_its_columns_and_rows_and_breaks_no_number():
    html = tables.html_table(["", "score"], [["a/b", "0.5\n[0.4,\u00a00.6]"], ["<b>", ""]])
    assert html.count("<th scope='col'") == 1 and html.count("<th scope='row'") == 2
    assert "white-space:nowrap'>0.5<br/>[0.4,\u00a00.6]</td>" in html
    assert ">a/<wbr/>b</th>" in html and "&lt;b&gt;" in html and "overflow-x:auto" in html
    assert "nowrap" not in html[: html.index("0.5")].partition("</tr>")[0]  # of a heading


def test_the_short_table_holds_the_numbers_of_the_verdict_and_no_others():
    scores = {
        who: {"average_precision": (0.5, 0.4, 0.6), "f1": (0.123, 0, 1)} for who in ("mine", "bag")
    }
    differences = {"bag": {"average_precision": (0.25, 0.125, 0.375)}}
    right = {1: 0.75}
    found = {who: Retrieval(9, 9, right, right, 0.1, 0.5, np.ones(9, bool)) for who in scores}
    html = tables.short_table(scores, differences, found, graded=False).data
    assert html.count("0.500<br/>[0.400,\u00a00.600]") == 2 and "0.123" not in html
    assert html.count("+0.250<br/>[+0.125,\u00a0+0.375]") == 1 and html.count(">0.750<") == 2
    assert "0.500" in verdict(scores, differences, found, False)
    assert "0.750" in tables.short_table({}, {}, found, graded=False).data
    assert tables.short_table({}, {}, {}, graded=False).data == ""


def test_what_is_folded_is_whole_and_its_line_is_text():
    figure, _ = new_figure(1)
    html = tables.folded("<b>$x$", HTML("<table></table>"), figure, "<i></i>").data
    assert html.startswith("<details ") and ">&lt;b&gt;$x$</summary>" in html
    assert "<table></table>" in html and "<svg" in html and "<i></i></details>" in html
