from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from runs import copy, night_of_runs

from treelstm import list_runs
from treelstm.config import ConfigError
from treelstm.files import WriteFailed
from treelstm.run_table import about
from treelstm.runs import NoteRefused, read_note, write_note
from treelstm.widgets.run_picker import RunPicker, compared


@pytest.fixture(scope="module")
def night(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return night_of_runs(tiny, tmp_path_factory.mktemp("night"))


@pytest.fixture
def run(night: Path, tmp_path: Path) -> Path:
    """One of the runs, alone in `tmp_path`."""
    return copy(night / "learning_rate=0.01,seed=1", tmp_path / "run")


def texts(table: RunPicker) -> dict[str, dict[str, str]]:
    """By run and column."""
    rows = {row["path"]: [text for text, _ in row["cells"]] for row in table.rows}
    return {name: dict(zip(table.columns, cells, strict=True)) for name, cells in rows.items()}


def typed(table: RunPicker, name: str, note: str, was: str) -> dict[str, Any]:
    """The row after the browser has sent a note."""
    table._handle_custom_msg({"path": name, "note": note, "was": was}, [])
    return next(row for row in table.rows if row["path"] == name)


def test_the_table_has_every_run_the_settings_that_differ_and_the_best_of_two_settings(night):
    table = RunPicker(list_runs(night))
    assert len(table.rows) == 7 and [*texts(table)["broken"]] == table.columns
    assert table.columns[2:5] == ["state", "learning_rate", "seed"] and table.order[0] == 1
    rows = texts(table)
    assert rows["learning_rate=0.001,seed=2"]["learning_rate"] == "0.001"
    assert rows["broken"]["state"].startswith("damaged: ") and not rows["broken"]["learning_rate"]
    assert [row.settings["learning_rate"] for row in table.value] in ([0.01, 0.001], [0.001, 0.01])
    by = table.order[0]
    numbers = [row["cells"][by][1] for row in table.rows]
    assert numbers[:-1] == sorted(numbers[:-1], reverse=table.order[1]) and numbers[-1] is None
    assert [row["usable"] for row in table.rows] == [True] * 6 + [False]
    assert "7 runs: 6 finished, 1 damaged" in about(list_runs(night), night)


def test_runs_are_chosen_by_name_and_a_wrong_name_is_refused(night):
    rows = list_runs(night)
    names = ["learning_rate=0.001,seed=3", "learning_rate=0.01,seed=3"]
    assert [row.name for row in RunPicker(rows, names).value] == names
    with pytest.raises(ConfigError, match=r"'learning_rate=0.1,seed=3': no such run\. Did you mean lea"):
        RunPicker(rows, ["learning_rate=0.1,seed=3"])
    with pytest.raises(ConfigError, match="'broken', which has no encoder"):
        RunPicker(rows, ["broken"])


@pytest.mark.parametrize("names", [[], ["learning_rate=0.01,seed=1"]])
def test_fewer_than_two_runs_are_not_compared_and_the_page_says_so(night, capsys, names):
    assert compared(RunPicker(list_runs(night), names).value, None, "cpu") is None
    assert capsys.readouterr().out.startswith(
        "Nothing is compared: two to five encoders can be compared"
    )


def test_a_note_is_written_whole_and_never_over_another_one(run, tmp_path):
    table = RunPicker(list_runs(tmp_path))
    row = typed(table, "run", "good\r\nso far \x1b", "")
    assert row["saved"] and read_note(run) == row["note"] == "good\nso far \ufffd"
    assert texts(table)["run"]["note"] == "good so far \ufffd"
    (run / "notes.md").write_text("by another")
    row = typed(table, "run", "mine", row["note"])
    assert not row["saved"] and "has changed meanwhile and is now: by another" in row["said"]
    assert read_note(run) == row["note"] == "by another"
    (run / "notes.md").unlink()
    row = typed(table, "run", "mine", row["note"])
    assert not row["saved"] and "has been removed meanwhile" in row["said"] and not read_note(run)
    assert typed(table, "run", "mine", row["note"])["saved"] and read_note(run) == "mine"
    with pytest.raises(WriteFailed):
        write_note(tmp_path / "gone", "mine", "")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"x" * 100_001, None], ids=["bytes", "long", "directory"]
)
def test_a_note_that_cannot_be_read_whole_is_left_alone(run, tmp_path, content):
    if content is None:
        (run / "notes.md").mkdir()
    else:
        (run / "notes.md").write_bytes(content)
    table = RunPicker(list_runs(tmp_path))
    note = table.rows[0]["note"]
    assert note.startswith("notes.md cannot be read: ") and texts(table)["run"]["note"]
    row = typed(table, "run", "mine", note)
    assert not row["saved"] and row["said"] == row["note"] == note
    with pytest.raises(NoteRefused):
        write_note(run, "mine", "")
    assert content is None or (run / "notes.md").read_bytes() == content


def test_names_notes_and_errors_are_text_wherever_the_table_is_saved(run, tmp_path):
    name = "<b>$5 and $6<hr> \udcff"
    (tmp_path / "run").rename(tmp_path / name)
    (tmp_path / name / "notes.md").write_text("<script>")
    table = RunPicker(list_runs(tmp_path))
    json.dumps([table.rows, table.chosen], ensure_ascii=False).encode()  # as it is sent
    page = table.night_form()
    page.encode()
    assert "<b>" not in page and "<script>" not in page and "&lt;script&gt;" in page
    assert [row.path for row in table.value] == [tmp_path / name]
    assert typed(table, table.chosen[0], "mine", "<script>")["saved"]


def test_five_hundred_runs_are_a_table_at_once(run, tmp_path):
    record = json.loads((run / "training_history.json").read_text())[-1]
    history = json.dumps([{**record, "epoch": epoch} for epoch in range(1, 51)])
    told = json.loads((run / "run.json").read_text()) | {"epochs_done": 50}
    for number in range(500):
        (many := tmp_path / "many" / f"seed={number}").mkdir(parents=True)
        told["settings"]["seed"] = number
        (many / "run.json").write_text(json.dumps(told))
        (many / "training_history.json").write_text(history)
    began = time.monotonic()
    table = RunPicker(list_runs(tmp_path / "many"))
    table.night_form()
    assert time.monotonic() - began < 6  # 1.3 s on an idle machine
    assert len(table.rows) == 500 and len(table.value) == 2
