"""Many runs compared: what differs, what can be compared, and the words for what cannot."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from rows import a_run

from treelstm.config import completed, project_root
from treelstm.history import metric_named
from treelstm.run_table import (
    as_text,
    caveats,
    differing,
    groups,
    labels,
    main_metric,
    ranked,
    shared_metrics,
    table,
)
from treelstm.runs import RunRow
from treelstm.tables import group_table


def test_only_settings_that_decide_something_differ():
    rows = [
        a_run("a", learning_rate=0.01, keep=1, resume=None, vectors_keys=("x",), vectors="v.txt"),
        a_run("b", patience=3, max_hours=1.0, vectors_keys=("x", "y"), vectors="v.txt"),
    ]
    assert differing(rows) == ["vectors_keys", "learning_rate", "patience"]
    assert differing(rows[:1]) == differing([]) == []
    absolute = project_root() / "data" / "validation_pairs"
    same = a_run("a"), a_run("b", validation_dir=str(absolute)), a_run("c", validation_dir="~/a")
    assert differing(same[:2]) == [] and differing(same) == ["validation_dir"]
    nan = [RunRow(name, Path(name), settings={"dropout": math.nan}) for name in "ab"]
    assert differing([*nan, RunRow("damaged", Path("c"))]) == []


def test_a_run_of_an_earlier_version_differs_in_what_it_did_only():
    now = a_run("now", bag_of_symbols=False, positive_margin=0.0, best_by="validation_loss")
    added = ("objective", "temperature", "vectors", "bag_of_symbols", "positive_margin", "best_by")
    old = {name: value for name, value in now.settings.items() if name not in added}
    assert differing([now, RunRow("old", Path("old"), settings=completed(old))]) == []


def test_labels_name_what_differs_and_are_distinct():
    rows = [a_run("a", seed=1), a_run("b", seed=2), a_run("c", seed=2), RunRow("d", Path("d"))]
    assert labels(rows) == ["seed=1", "b seed=2", "c seed=2", "d"]
    assert labels(rows[1:3]) == ["b", "c"]


def test_runs_are_ranked_by_what_they_all_chose_their_best_epoch_by():
    rows = [a_run("a", 0.3), a_run("b", math.nan), a_run("c", 0.9), RunRow("0", Path("0"))]
    assert [row.name for row in ranked(rows)] == ["c", "a", "0", "b"]
    by_loss = [a_run(name, best_by="validation_loss") for name in "ab"]
    assert main_metric(by_loss) is metric_named("validation_loss")
    assert main_metric([*by_loss, *rows]) is metric_named("validation_average_precision")
    assert main_metric([]) is None and "run  state" in as_text([])


def test_only_numbers_that_all_have_and_that_mean_the_same_are_compared():
    other = a_run("b", margin=2.0)
    other.history[0]["validation_pearson"] = 0.1
    rows = [a_run("a"), other]
    assert [metric.label for metric in shared_metrics(rows)] == ["average precision"]
    assert caveats(rows) == [
        "Losses are not compared: they depend on margin.",
        "Left out, since not every run has them: Pearson correlation.",
    ]


def test_it_is_said_that_runs_were_measured_on_other_pairs():
    named = [a_run(name, validation_dir=name) for name in "ab"]
    assert caveats(named) == ["The runs are measured on other pairs: validation_dir differs."]
    seeds = [a_run(str(seed), validation_dir=None, seed=seed) for seed in (1, 2)]
    (text,) = caveats(seeds)
    assert text.startswith("Which pairs a run holds out depends on seed, as validation_dir is None: ")
    assert text in group_table(seeds).data and text[:60] in as_text(seeds)
    assert caveats([a_run("a", seed=1), a_run("b", seed=2)]) == []


def test_the_table_of_groups_has_mean_spread_and_count_of_finished_runs():
    rows = [a_run(f"{dim}-{seed}", 0.1 * seed + dim / 1000, seed=seed, hidden_dim=dim)
            for dim in (100, 200) for seed in (1, 2, 3)]  # fmt: skip
    rows += [a_run("again", 0.3, seed=1, hidden_dim=200)]  # the same run twice is one
    rows += [a_run("cut", 0.9, "killed", seed=4, hidden_dim=200)]
    assert [(text, len(of)) for text, of in groups(rows)] == [
        ("hidden_dim=100", 3),
        ("hidden_dim=200", 5),
    ]
    text = group_table(rows).data
    assert "1 of 8 runs have not finished and are left out." in text
    assert "0.4000 ± 0.1000 (3)" in text and "0.3000 ± 0.1000 (3)" in text
    assert text.index("hidden_dim=200") < text.index("hidden_dim=100"), "the best is not first"
    assert group_table(rows[-1:]).data == "No run has finished yet: there is no mean."
    assert "0.3000 (1)" in group_table(rows[-2:-1]).data, "one run has no spread"


@pytest.mark.parametrize("count", [1, 12, 500])
@pytest.mark.parametrize("long", [False, True])
def test_a_terminal_shows_runs_in_100_columns(count, long):
    rows = []
    for number in range(count):
        settings = {"learning_rate": 10 ** -(1 + number % 4 + number / 1000), "seed": number}
        if long:
            settings |= {name: 2 + number % 3 for name in ("hidden_dim", "output_dim", "batch_size")}
            settings |= {"data_dir": f"data/{'x' * 80}{number}", "dropout": number / 501}
        rows.append(a_run(f"night/{'long' * 20 * long}{number}", number / 500, **settings))
    rows.append(RunRow("broken\n\x1b[2J", Path("b"), why="run.json: " + "no such thing " * 30))
    rows += [RunRow(f"f{n}", Path("b"), state="failed", why="no data") for n in range(20)]
    lines = as_text(rows).splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.endswith(" …") for line in lines), "a reason of many lines is not cut"
    assert sum(line.count(" finished ") for line in lines) == count
    assert any(re.match(r"f1 +failed", line) for line in lines)
    assert "\x1b" not in "".join(lines) and "f0: failed: no data" in lines
    assert "... and 11 more, which --json has" in lines
    if long and count > 1:
        assert any(line.startswith("These settings differ too, and --json has them") for line in lines)
    elif count > 1:
        assert lines[0].split()[:4] == ["run", "state", "learning", "seed"]


def test_the_table_of_a_page_has_state_settings_metrics_and_note():
    rows = [a_run("a", 0.25, dropout=0.0, epochs=7), RunRow("b", Path("b"), "failed", "no\ndata")]
    rows += [a_run("c", dropout=0.5)]
    head, lines = table(rows, shared_metrics(rows))
    first, second, _ = [[text for text, _ in line] for line in lines]
    assert head[:6] == ["run", "state", *differing(rows), "epochs done", "best epoch"]
    assert differing(rows) == ["epochs", "dropout"]
    assert first == ["a", "finished", "7", "0", "1/7", "1", "0.5000", "0.2500", "0.2", "1.0", ""]
    assert second == ["b", "failed: no\ndata", "", "", "0", "", "", "", "", "0.0", ""]
