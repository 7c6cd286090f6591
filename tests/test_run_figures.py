"""Figures of many runs: every line has a name or is one of the gray rest, and says what differs."""

from __future__ import annotations

import dataclasses
import math
import sys

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rows import a_run, record

from treelstm.run_figures import curves_figure, effects_figure, importances
from treelstm.runs import RunRow


def runs(count: int, epochs: int = 5) -> list[RunRow]:
    """Runs of several seeds, the last the best: they differ in three settings."""
    found = []
    for n in range(count):
        rate = 10.0 ** -(2 + n % 3)
        schedule = (None, "cosine")[n % 2]
        row = a_run(f"_run{n}", seed=n // 3, learning_rate=rate, lr_schedule=schedule)
        history = [record(e, (0.1 + n / 1000) * (1 - 0.5**e)) for e in range(1, epochs + 1)]
        found.append(dataclasses.replace(row, history=history))
    return found


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


def names(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("count", [1, 12, 40])
def test_the_best_twelve_are_named_by_what_differs_and_the_rest_is_gray(count):
    figure = drawn(curves_figure(runs(count)))
    found = names(figure)
    assert len({*found}) == len(found) == min(count, 13)
    if count > 1:
        assert found[0].startswith("learning_rate=")
        assert not any("hidden_dim" in name or "_run" in name for name in found)
    if count > 3:
        assert f"seed={(count - 1) // 3}" in found[0], "the best is not first"
    lines = figure.axes[0].get_lines()
    styles = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(lines) == count and len(styles) == min(count, 13)
    if count == 40:
        assert found[-1] == "28 more"
    if count == 1:
        assert found == ["_run0"]
    box, frame = figure.legends[0].get_window_extent(), figure.bbox
    assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    assert figure.get_figwidth() <= 14 and figure.get_figheight() <= 10


def test_seeds_together_are_a_mean_in_a_band_of_those_that_have_an_epoch():
    rows = [
        dataclasses.replace(row, history=row.history[:k])
        for row, k in zip(runs(6), (5, 5, 5, 3, 1, 5), strict=True)
    ]
    rows = [dataclasses.replace(row, settings={**row.settings, "lr_schedule": None}) for row in rows]
    figure = curves_figure(rows, together=True)
    assert sorted(names(figure)) == [
        "learning_rate=0.0001 (2 runs)",
        "learning_rate=0.001 (2 runs, fewer from epoch 2 on)",
        "learning_rate=0.01 (2 runs, fewer from epoch 4 on)",
    ]
    last = [rows[n].history[-1].get("validation_average_precision", math.nan) for n in (2, 5)]
    ends = {tuple(line.get_xydata()[-1]) for line in figure.axes[0].get_lines()}
    assert (5.0, pytest.approx(sum(last) / 2)) in [*ends]
    assert len(figure.axes[0].collections) == 3, "a band each"


def test_runs_without_an_epoch_and_of_one_epoch_are_drawn():
    rows = runs(3, epochs=1)
    assert len(curves_figure(rows).axes[0].get_lines()) == 3
    for none in ([], [RunRow("a", rows[0].path)]):
        for figure in (curves_figure(none), curves_figure(none, together=True), effects_figure(none)):
            assert figure.axes[0].get_title()
    assert len(names(drawn(curves_figure([*rows, RunRow("a", rows[0].path)])))) == 3


def test_losses_of_other_objectives_are_not_drawn_together():
    rows = [a_run("a"), a_run("b", margin=2.0)]
    assert [ax.get_ylabel() for ax in curves_figure(rows).axes] == ["average precision"]
    labels = [ax.get_ylabel() for ax in curves_figure([a_run("a"), a_run("b", seed=1)]).axes]
    assert labels == ["average precision", "validation loss"]


def test_each_setting_that_differs_has_a_panel_with_the_scale_of_its_values():
    rows = runs(12)
    rows[0] = dataclasses.replace(rows[0], state="pruned")
    figure = effects_figure(rows)
    panels = {ax.get_xlabel().split(" ")[0]: ax for ax in figure.axes}
    assert {*panels} == {"seed", "learning_rate", "lr_schedule"}
    assert panels["learning_rate"].get_xscale() == "log" and panels["seed"].get_xscale() == "linear"
    assert [t.get_text() for t in panels["lr_schedule"].get_xticklabels()] == ["None", "cosine"]
    assert [t.get_text() for t in panels["learning_rate"].get_xticklabels()] == [
        "0.0001",
        "0.001",
        "0.01",
    ]
    long = [a_run(n, data_dir=f"data/{'x' * 30}{n}{'x' * 30}") for n in "abc"]
    (panel,) = effects_figure(long).axes
    assert [t.get_text() for t in panel.get_xticklabels()] == ["data/xxx…xxxxxxx"] * 3
    points = [len(each.get_offsets()) for each in panels["seed"].collections]
    assert points == [1, 11], "unfinished ones are drawn apart"


def test_shares_need_enough_runs_and_are_the_same_each_time():
    pytest.importorskip("optuna")
    rows = runs(40)
    shares, words = importances(rows)
    assert sum(shares.values()) == pytest.approx(1) and next(iter(shares)) == "seed", shares
    assert importances(rows) == (shares, words)
    assert words == "Shares of the variance of average precision in 40 finished runs."
    assert effects_figure(rows).axes[0].get_xlabel() == "seed (100%)"
    assert importances(rows[:9])[0] == {} and "here are 9 and 3" in importances(rows[:9])[1]
    cut = [dataclasses.replace(row, state="killed") for row in rows]
    assert "here are 0 and 0" in importances(cut)[1]
    nan = [dataclasses.replace(row, history=[record(1, math.nan)]) for row in rows]
    assert importances(nan)[0] == {}
    same = [dataclasses.replace(row, history=rows[0].history) for row in rows]
    assert importances(same)[1] == "No shares: average precision is the same in all 40 finished runs."


def test_without_optuna_the_figure_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    shares, words = importances(runs(12))
    assert shares == {} and 'pip install "treelstm[sweep]"' in words
    title = effects_figure(runs(12)).get_suptitle()
    assert title == words and all(ax.collections for ax in effects_figure(runs(12)).axes)
