from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_config
from IPython.core.formatters import DisplayFormatter
from runs import copy

from treelstm import (
    load_checkpoint,
    load_corpus,
    load_encoder,
    load_pairs,
    preflight,
    run_status,
    tables,
    train,
)
from treelstm.checks.directory import output_directory
from treelstm.explanation import explain
from treelstm.history import IN_EVALUATION, IN_HISTORY
from treelstm.run.directory import write_commit
from treelstm.run.lock import only_writer
from treelstm.sealed import CheckpointError, sealed
from treelstm.widgets import checkpoints, monitor, sentences
from treelstm.widgets.checkpoints import CheckpointPicker


@pytest.fixture(scope="session")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("picked") / "run"
    train(tiny_config(tiny, output_dir, epochs=2))
    return output_dir


def verified(picker: CheckpointPicker) -> list[dict[str, Any]]:
    """The table's rows once every file has been read."""
    deadline = time.monotonic() + 30
    while any(row["status"] == "" for row in picker.rows) and time.monotonic() < deadline:
        time.sleep(0.01)
    return picker.rows


def shown(widget: Any) -> dict[str, str]:
    """What a notebook gets to show of a widget."""
    return DisplayFormatter().format(widget)[0]


def test_the_table_is_there_at_once_and_every_file_is_read_in_the_background(finished, tmp_path):
    run = copy(finished, tmp_path / "run")
    (run / "checkpoint_epoch_1.pt").write_bytes(b"<b>")
    first, second = verified(checkpoints.resume_picker(run, "auto"))
    assert first["usable"] is False and "is damaged" in first["status"]
    assert second["usable"] and second["status"] == "verified" and second["best"]
    record = run_status(run).history[1]
    keys = [metric.key for metric in IN_HISTORY if metric.column and metric.key in record]
    assert 2 < len(keys) < len([metric for metric in IN_HISTORY if metric.column])
    assert second["metrics"] == {key: record[key] for key in keys}
    assert first["metrics"] == dict.fromkeys(keys)
    assert "hidden_dim=12" in second["settings"] and "epochs=2" in second["settings"]


def long_run(finished, epochs):
    """The content of a commit of so many epochs; `up_to` makes those of earlier ones."""
    content = load_checkpoint(finished / "checkpoint_epoch_2.pt")
    for key in ("history", "timings"):
        content[key] = [{**content[key][0], "epoch": epoch} for epoch in range(1, epochs + 1)]
    for state in content["optimizer_state_dict"]["state"].values():
        state["step"].fill_(5 * epochs)
    return content


def up_to(content, epoch):
    return {**content, "epoch": epoch} | {k: content[k][:epoch] for k in ("history", "timings")}


@pytest.mark.long
def test_a_thousand_checkpoints_are_shown_at_once(finished, tmp_path):
    content = long_run(finished, 1000)
    for epoch in range(1, 1001):
        path = tmp_path / f"checkpoint_epoch_{epoch}.pt"
        path.write_bytes(b"".join(sealed({**content, "epoch": epoch})))
    began = time.monotonic()
    picker = checkpoints.resume_picker(tmp_path, "auto")
    took = time.monotonic() - began
    picker.close()
    assert len(picker.rows) == 1000 and picker.value.name == "checkpoint_epoch_1000.pt"
    assert [row["status"] for row in picker.rows].count("") > 0  # it did not wait for them
    assert took < 3  # well under 1 s on an idle machine


def test_the_value_is_a_path_and_auto_stays_auto_until_somebody_chooses(finished):
    picker = checkpoints.resume_picker(finished, "auto")
    assert picker.value == finished / "checkpoint_epoch_2.pt" and picker.resume == "auto"
    picker.chosen = str(finished / "checkpoint_epoch_1.pt")  # what a click sends
    assert picker.value == finished / "checkpoint_epoch_1.pt"
    assert picker.resume == str(picker.value)
    given = checkpoints.resume_picker(finished, str(finished / "checkpoint_epoch_1.pt"))
    assert given.value.name == "checkpoint_epoch_1.pt" and given.resume == str(given.value)


@pytest.mark.parametrize("resume", [None, "checkpoint_epoch_9.pt", "damaged"])
def test_a_default_that_is_no_choice_is_refused(finished, tmp_path, resume):
    run = copy(finished, tmp_path / "run")
    (run / "checkpoint_epoch_1.pt").write_bytes(b"")
    if resume == "damaged":
        resume = str(run / "checkpoint_epoch_1.pt")
    with pytest.raises(CheckpointError, match="names no whole checkpoint"):
        checkpoints.resume_picker(run, resume)


def test_by_day_training_waits_for_a_decision_and_a_choice_counts_once(
    finished, tiny, tmp_path, monkeypatch, capsys
):
    run = copy(finished, tmp_path / "run")
    config, first = tiny_config(tiny, run, epochs=2), str(run / "checkpoint_epoch_1.pt")
    assert checkpoints.resume_picker(run, "auto").start(config) == "auto"  # by night
    monkeypatch.setattr(checkpoints, "is_interactive", lambda: True)
    more = dataclasses.replace(config, epochs=3)
    assert checkpoints.resume_picker(run, "auto").start(more) == "auto"  # `epochs` was set
    assert checkpoints.resume_picker(run, first).start(config) == first  # as was `resume`
    capsys.readouterr()
    picker = checkpoints.resume_picker(run, "auto")
    assert picker.start(config) is None
    assert "The run has its 2 epochs: set a larger" in capsys.readouterr().out
    assert picker.start(config) == "auto"  # the cell was run once more
    picker.chosen = picker.rows[0]["path"]
    assert picker.start(config) == first and picker.start(config) == first  # training was refused
    train(dataclasses.replace(config, resume=first, epochs=2))
    assert capsys.readouterr().out and picker.start(config) == "auto"
    assert "The choice has been used" in capsys.readouterr().out
    picker = checkpoints.resume_picker(run, "auto")
    train(more)
    picker.chosen = picker.rows[0]["path"]
    assert picker.start(more) is None and "run its cell again" in capsys.readouterr().out
    assert checkpoints.resume_picker(run, "auto").start(more) is None


def test_models_are_picked_by_name_or_path_and_nothing_is_set_aside_for_them(finished, tmp_path):
    picker = checkpoints.model_picker(finished, "best")
    rows = {row["name"]: row for row in verified(picker)}
    assert picker.value == finished / "best_model.pt" and not picker.resuming
    assert rows["best_model.pt"]["epoch"] == 2 and rows["final_model.pt"]["status"] == "verified"
    elsewhere = tmp_path / "mine.pt"
    elsewhere.write_bytes((finished / "final_model.pt").read_bytes())
    assert checkpoints.model_picker(tmp_path / "no_run", str(elsewhere)).value == elsewhere
    with pytest.raises(CheckpointError, match=r"best_model\.pt: no such file, and no checkpoint"):
        checkpoints.model_picker(tmp_path / "no_run", "best")


@pytest.fixture(scope="session")
def other(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with another seed, to be read only."""
    output_dir = tmp_path_factory.mktemp("other") / "run"
    train(tiny_config(tiny, output_dir, epochs=2, seed=7))
    return output_dir


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("there", "best_model.pt"),
        ("copied", "checkpoint_epoch_2.pt"),
        ("renamed", "checkpoint_epoch_1.pt"),
        ("linked", "best_model.pt"),
        ("superseded", "best_model.pt"),
        ("nested", "checkpoint_epoch_1.pt"),
    ],
)
def test_a_file_of_another_run_gets_its_own_numbers_and_no_mark_on_this_runs_curve(
    finished, other, tmp_path, place, name
):
    run, model = copy(finished, tmp_path / "run"), other / name
    targets = {"copied": run / "mine.pt", "linked": run / name, "renamed": run / name}
    target = targets.get(place, run / ("superseded" if place == "superseded" else "a/run") / name)
    if place != "there":
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(model) if place == "linked" else target.write_bytes(model.read_bytes())
        model = target
    picker = checkpoints.model_picker(run, model)
    row = next(row for row in verified(picker) if row["path"] == picker.chosen)
    assert row["usable"] and row["place"] is None and not row["best"]
    theirs, ours = (run_status(of).history[(row["epoch"] or 0) - 1] for of in (other, run))
    numbers = {key: number for key, number in row["metrics"].items() if number is not None}
    assert numbers.items() <= theirs.items()
    assert all(ours[key] != number for key, number in numbers.items())
    assert bool(numbers) == (place == "there" or (name.startswith("checkpoint") and place != "copied"))
    assert load_encoder(picker.value).origin.config.seed == 7


def test_a_set_aside_checkpoint_is_marked_where_its_numbers_are_those_of_the_curve(
    finished, tiny, tmp_path
):
    run = copy(finished, tmp_path / "run")
    first = str(run / "checkpoint_epoch_1.pt")
    change = {"resume": first, "learning_rate": 0.1, "changes": ("learning_rate",)}
    train(tiny_config(tiny, run, epochs=2, **change))
    aside = run / "superseded" / "checkpoint_epoch_2.pt"
    (run / "superseded" / "checkpoint_epoch_1.pt").write_bytes(Path(first).read_bytes())
    marks = {}
    for path in (aside, aside.with_name("checkpoint_epoch_1.pt"), run / "best_model.pt", Path(first)):
        picker = checkpoints.model_picker(run, path)
        row = next(row for row in verified(picker) if row["path"] == picker.chosen)
        marks[path] = row["place"]
        record = (
            load_checkpoint(path)["history"][-1] if path.name[0] == "c" else run_status(run).history[1]
        )
        assert row["metrics"]["train_loss"] == record["train_loss"]
    assert [*marks.values()] == [None, 1, 2, 1]


def test_the_epoch_of_a_damaged_model_is_left_empty(finished, tmp_path):
    run = copy(finished, tmp_path / "run")
    (run / "final_model.pt").write_bytes(b"torn")
    page = shown(checkpoints.model_picker(run, "best"))["text/html"]
    assert ">final_model.pt<" in page and "is damaged" in page and ">None<" not in page


def test_paths_may_be_strings(finished):
    name = str(finished / "checkpoint_epoch_1.pt")
    for picker in (
        checkpoints.resume_picker(str(finished), name),
        checkpoints.resume_picker(str(finished), Path(name)),
        checkpoints.model_picker(str(finished), name),
        CheckpointPicker([name], name, []),
    ):
        assert picker.value == Path(name)
        assert load_encoder(picker.value).origin.path == Path(name)
    assert "is finished" in shown(monitor.RunMonitor(str(finished)))["text/html"]


def test_a_score_table_has_a_column_for_each_metric_and_its_interval():
    row = {metric.field: (0.5, 0.25, 0.75) for metric in IN_EVALUATION}
    table = tables.score_table({"mine": row}, {"rival": {"f1": (0.1, -0.05, 0.2)}}).data
    for metric in IN_EVALUATION:
        assert f">{metric.label}<" in table
    assert table.count("0.500<br/>[0.250,\u00a00.750]") == len(IN_EVALUATION)
    assert ">difference to rival<" in table and table.count("+0.100<br/>[-0.050,\u00a0+0.200]") == 1
    assert "there is no score" in tables.score_table({"mine": {}}, {}).data
    assert "nothing to retrieve" in tables.retrieval_table({}).data


def test_the_confusion_table_counts_each_class_and_gives_precision_and_recall():
    distance, label = np.array([0.1, 0.2, 0.3, 0.9, 0.8]), np.array([1, 0, 1, 1, 0])
    words = re.sub("<.*?>", " ", tables.confusion_table(distance, label, 0.5).data).split()
    assert " ".join(words) == (
        "pairs labelled called similar called dissimilar similar 2 1 dissimilar 1 1 "
        "Precision 0.667, recall 0.667 at the threshold 0.500."
    )
    assert "not defined" in tables.confusion_table(distance, label, 0.0).data


def test_an_explanation_is_told_in_two_tables(finished, tiny):
    encoder, pairs = load_encoder(finished / "best_model.pt"), load_pairs(tiny / "validation")
    why = explain(encoder, pairs.forest, [int(pairs.first[0]), int(pairs.second[0])])
    table = tables.explanation_table(why, ["radiko", "tipo"]).data
    assert table.count("<tr>") == 22 and f"Distance {why.distance:.3f}: " in table
    assert "subjekto: " in table and ">radiko=" in table


def test_the_marks_on_the_curve_lie_where_the_epochs_are(finished):
    curve = checkpoints.resume_picker(finished, "auto").curve
    assert len(curve["axes"]) == 2
    for place in curve["axes"]:
        assert place["low"] < 1 and place["high"] > 2
        assert 0 < place["left"] < place["left"] + place["width"] <= 1
        assert 0 <= place["top"] < place["top"] + place["height"] <= 1


def test_unattended_every_widget_is_plain_html(finished, tiny):
    pairs = load_pairs(tiny / "validation")
    for widget, words in (
        (checkpoints.resume_picker(finished, "auto"), "checkpoint_epoch_1.pt"),
        (monitor.RunMonitor(finished), "is finished: epoch 2"),
        (sentences.TreeChoice(pairs), "chosen: "),
    ):
        bundle = shown(widget)
        assert set(bundle) == {"text/html", "text/plain"} and words in bundle["text/html"]


def test_a_live_figure_spends_little_of_the_training_on_itself(finished, capsys):
    live, history = monitor.TrainingMonitor(), run_status(finished).history
    history, drawing, began = [{**history[0], "epoch": n} for n in range(1, 301)], 0.0, time.monotonic()
    while time.monotonic() - began < 2.0:
        time.sleep(0.002)
        if live.may_draw():
            drawing -= time.process_time()
            live.show(history, {1: 0.5})
            drawing += time.process_time()
    assert drawing < 0.04
    assert capsys.readouterr().out.count("HTML object") >= 2  # outside of IPython it is printed


def test_status_tells_finished_running_stopped_and_killed_apart(finished, tiny, tmp_path):
    run = copy(finished, tmp_path / "run")
    assert str(run_status(run)) == f"{run} is finished: epoch 2"
    (run / "final_model.pt").unlink()
    (run / "training.log").write_text("2026-01-01 00:00:00  epoch 2/9  train 0.1\n")
    says = "(killed, or an error); its log says: epoch 2/9  train 0.1; newest commit: epoch 2"
    assert str(run_status(run)) == f"{run} is not running and not finished {says}"
    (run / "training.log").write_text("2026-01-01 00:00:00  DataError: one\n  two\n")
    assert "; its log says: DataError: one; newest" in str(run_status(run))
    (run / "training.log").write_text("2026-01-01 00:00:00  stopped by SIGTERM: epoch 2\n")
    assert "is stopped by SIGTERM; newest commit: epoch 2" in str(run_status(run))
    code = (
        "import sys, time; from pathlib import Path; from treelstm.run.lock import only_writer\n"
        "with only_writer(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert f"being trained by process {process.pid} on " in str(run_status(run))
        shown_run = monitor.RunMonitor(run)
        assert f"process {process.pid}" in shown(shown_run)["text/html"]
        process.kill()


def test_a_run_without_a_commit_yet_says_who_trains_it(tmp_path):
    with only_writer(tmp_path / "run"), pytest.raises(CheckpointError, match="has no commit yet"):
        monitor.RunMonitor(tmp_path / "run")


def test_pages_on_a_run_that_commits_and_prunes_as_fast_as_it_can_show_no_error(
    finished, tiny, tmp_path
):
    run = copy(finished, tmp_path / "run")
    content, over, epoch = long_run(finished, 5_000), threading.Event(), 2

    def commit():
        nonlocal epoch
        while not over.is_set():
            epoch += 1
            write_commit(run, up_to(content, epoch), keep=2)

    writer = threading.Thread(target=commit)
    writer.start()
    try:
        config = tiny_config(tiny, run, epochs=100_000, num_threads=1)
        corpus = load_corpus(config)
        for _ in range(11):
            assert str(run) in str(run_status(run))
            pickers = checkpoints.resume_picker(run, "auto"), checkpoints.model_picker(run, "best")
            findings = [found for check in output_directory(config, corpus) for found in check()]
            assert {finding.level for finding in findings} == {"ok"}, findings
            assert "resumes from checkpoint_epoch_" in findings[-1].found
            for picker in pickers:
                states = {(row["status"], row["usable"]) for row in verified(picker)}
                assert states <= {("verified", True), ("replaced", False)}
    finally:
        over.set()
        writer.join()
    assert epoch > 30


NAMES = ("\udcff", "<b>$5 and $6<hr>", "a\nb", "\x1b[2J", "\u6f22\u5b57 \U0001f642")


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_any_characters_is_shown_as_text_and_leads_to_its_file(finished, tmp_path, name):
    run = copy(finished, tmp_path / f"run {name}")
    mine = run / f"{name}.pt"
    mine.write_bytes((run / "final_model.pt").read_bytes())
    picker = checkpoints.model_picker(run, mine)
    json.dumps([verified(picker), picker.chosen], ensure_ascii=False).encode()  # as it is sent
    assert picker.value == mine and load_encoder(mine).origin.path == mine
    pages = [shown(each)["text/html"] for each in (picker, monitor.RunMonitor(run))]
    pages += [str(run_status(run)), str(preflight(tiny_config(tmp_path / name, run), quick=True))]
    for page in pages:
        page.encode()  # as a notebook is saved
        assert "\x1b" not in page
    assert "<b>" not in pages[0] + pages[1]
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(run / name / "missing.pt")
    str(refused.value).encode()


def test_of_ten_thousand_checkpoints_the_newest_are_listed_and_the_chosen_one(finished, tmp_path):
    content = long_run(finished, 10_000)
    for epoch in range(1, 10_001):
        (tmp_path / f"checkpoint_epoch_{epoch}.pt").touch()
    for epoch in (7, 10_000):
        path = tmp_path / f"checkpoint_epoch_{epoch}.pt"
        path.write_bytes(b"".join(sealed(up_to(content, epoch))))
    picker = checkpoints.resume_picker(tmp_path, tmp_path / "checkpoint_epoch_7.pt")
    page = shown(picker)["text/html"]
    picker.close()
    assert [row["epoch"] for row in picker.rows] == [7, *range(9_001, 10_001)]
    assert picker.left_out.startswith("The newest 1,000 of 10,000 are listed.")
    assert len(json.dumps(picker.rows)) < 1_000_000
    assert page.count("<tr>") == 1 + 101 and "The newest 100 of 10,000 are listed." in page


def test_models_have_their_names_and_stand_beside_the_epoch_that_they_hold(finished):
    rows = verified(checkpoints.model_picker(finished, "best"))
    found = {row["cells"][0][0]: row["cells"][0][1] for row in rows}
    best = run_status(finished).history[1]["best"]
    names = {"1", "2 ★", "2 ★ best_model.pt", "2 ★ final_model.pt"}
    assert best and found == {name: int(name[0]) for name in names}
