"""Every run under a directory is a row, whatever state its files are in, and nothing is written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from runs import copy

from treelstm import list_runs
from treelstm.commands import main
from treelstm.history import metric_named
from treelstm.run.lock import only_writer
from treelstm.runs import NoDirectory, RunRow


def only(directory: Path) -> RunRow:
    (row,) = list_runs(directory)
    return row


def told(run: Path, **changes: object) -> Path:
    """Changes what run.json says."""
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A finished run of our own, below `models`."""
    return copy(whole, tmp_path / "models" / "night" / "run")


def test_a_row_tells_what_the_files_of_a_run_tell(run, tmp_path):
    (run / "notes.md").write_text("# Good\nkeep it")
    (run / "superseded").mkdir()
    (run / "superseded" / "checkpoint_epoch_2.pt").write_bytes(b"x" * 1000)
    row = only(tmp_path / "models")
    summary = json.loads((run / "run.json").read_bytes())
    assert (row.name, row.path, row.says, row.finished) == ("night/run", run, "finished", True)
    assert row.settings == summary["settings"] and row.seconds == summary["seconds"]
    assert row.history == json.loads((run / "training_history.json").read_bytes())
    assert row.best is not None and (row.epochs_done, row.settings["epochs"]) == (2, 2)
    loss = metric_named("validation_loss")
    assert row.value(loss) == row.best["validation_loss"]
    files = [path for path in run.rglob("*") if path.is_file()]
    assert row.size == sum(path.stat().st_size for path in files)
    assert row.note == "# Good\nkeep it"


@pytest.mark.parametrize(
    ("outcome", "why", "says"),
    [
        ("finished early", "", "finished early"),
        ("pruned", "no hope", "pruned: no hope"),
        ("failed", "OSError: the roof", "failed: OSError: the roof"),
        ("stopped by SIGTERM", "", "stopped by SIGTERM"),
        (None, "", "killed"),
    ],
)
def test_a_row_says_how_the_run_ended(run, tmp_path, outcome, why, says):
    told(run, outcome=outcome, why=why)
    assert only(tmp_path / "models").says == says


def test_a_run_that_is_being_trained_says_by_whom(run, tmp_path):
    told(run, outcome=None)
    with only_writer(run):
        row = only(tmp_path / "models")
    assert row.state == "running now" and row.why.startswith(f"by process {os.getpid()} on ")


def test_runs_are_found_at_any_depth_but_not_among_what_belongs_to_another(run, whole, tmp_path):
    models = tmp_path / "models"
    for place in ("superseded/old", "damaged/old", "bag_alone/1a2b"):
        copy(whole, run / place)
    copy(whole, run / "below")  # a run whose directory lies in another's
    copy(whole, models / "superseded")  # a name like any other here
    own = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    rows = list_runs(models)
    assert [row.name for row in rows] == ["night/run", "night/run/below", "superseded"]
    assert [row.size for row in rows] == [4 * own, own, own]
    assert [row.name for row in list_runs(run / "below")] == ["."]
    assert [row.name for row in list_runs(str(run))] == [".", "below"]


def test_links_are_followed_once_and_in_circles_never(run, whole, tmp_path):
    models, elsewhere = tmp_path / "models", copy(whole, tmp_path / "disk" / "far")
    (models / "again").symlink_to(run)
    (run / "up").symlink_to(models)
    (models / "itself").symlink_to(models / "itself")
    (models / "nowhere").symlink_to(tmp_path / "nowhere")
    (models / "disk").symlink_to(elsewhere.parent)
    (elsewhere / "back").symlink_to(models)
    assert [row.name for row in list_runs(models)] == ["disk/far", "night/run"]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def write(data: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data)


RECORD = b'{"epoch": 1, "train_loss": 1, "validation_loss": 1, "learning_rate": 1}'


@pytest.mark.parametrize(
    ("name", "make", "found"),
    [
        ("run.json", write(b'{"outcome": "fin'), "Unterminated string"),
        ("run.json", write(b'{"\xff": 1}'), "can't decode"),
        ("run.json", write(b"[]"), "Expected `object`, got `array`"),
        ("run.json", write(b'{"outcome": 3}'), "got `int`"),
        ("run.json", write(b"[" * 100_000), "recursion"),
        ("run.json", write(b" " * 2_000_000), "larger than 1,000,000 bytes"),
        ("run.json", Path.mkdir, "it is a directory, expected a file"),
        ("run.json", pipe, "it is a named pipe, expected a file"),
        ("training_history.json", write(b""), "Expecting value"),
        ("training_history.json", write(b"[" + RECORD + b"," + RECORD + b"]"), "not 1, 2, 3"),
        ("training_history.json", write(b'[{"epoch": 1}]'), "missing required field"),
        ("training_history.json", write(b"[]"), "has 0 epochs, run.json says 2"),
        ("training_history.json", pipe, "it is a named pipe"),
        ("trial.json", write(b'{"number": "one"}'), "Expected `int`, got `str`"),
    ],
)
def test_a_damaged_file_makes_a_row_that_says_so(run, whole, tmp_path, name, make, found):
    copy(whole, tmp_path / "models" / "good")
    (run / name).unlink(missing_ok=True)
    make(run / name)
    good, row = list_runs(tmp_path / "models")
    assert good.says == "finished"
    assert row.state == "damaged" and row.why.startswith(name) and found in row.why, row.why
    assert row.settings == {**good.settings, **row.settings} and row.size > 0


def test_a_history_that_is_gone_makes_a_row_that_says_so(run, tmp_path):
    (run / "training_history.json").unlink()
    row = only(tmp_path / "models")
    assert row.says == "damaged: training_history.json has 0 epochs, run.json says 2"
    assert row.settings and row.best is None


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (write(b"\xef\xbb\xbfcaf\xc3\xa9\n"), "caf\xe9\n"),
        (write(b"x" * 100_001), "notes.md cannot be read: it is larger than 100,000 bytes"),
        (write(b"\xff\xfeab"), "notes.md cannot be read: "),
        (Path.mkdir, "notes.md cannot be read: it is a directory"),
        (pipe, "notes.md cannot be read: it is a named pipe"),
    ],
)
def test_a_row_has_the_note_or_why_it_cannot_be_read(run, tmp_path, make, note):
    make(run / "notes.md")
    row = only(tmp_path / "models")
    assert row.state == "finished" and row.note.startswith(note)


def test_a_directory_that_cannot_be_listed_is_a_row_that_says_so(run, tmp_path, monkeypatch):
    (closed := tmp_path / "models" / "closed").mkdir()
    scandir = os.scandir

    def refused(path: Path) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    row, good = list_runs(tmp_path / "models")
    assert row.name == "closed" and row.says == "damaged: it cannot be listed: Permission denied"
    assert good.finished


def test_the_settings_of_a_run_of_an_earlier_version_are_read_from_its_model(run, tmp_path):
    before = only(tmp_path / "models")
    (run / "run.json").unlink()
    row = only(tmp_path / "models")
    assert {**row.settings, "output_dir": 0} == {**before.settings, "output_dir": 0}
    assert (row.state, row.epochs_done, row.best) == ("finished", 2, before.best)
    final = (run / "final_model.pt").read_bytes()
    (run / "final_model.pt").unlink()
    row = only(tmp_path / "models")
    assert row.state == "killed" and row.settings["seed"] == before.settings["seed"]
    (run / "best_model.pt").write_bytes(b"PK")
    assert only(tmp_path / "models").says.startswith(f"damaged: {run / 'best_model.pt'} is damaged: ")
    (run / "best_model.pt").unlink()
    assert only(tmp_path / "models").says == "killed"
    (run / "final_model.pt").write_bytes(final)
    records = json.loads((run / "training_history.json").read_bytes())
    records.append({**records[-1], "epoch": 3})
    (run / "training_history.json").write_text(json.dumps(records))
    assert only(tmp_path / "models").says == "killed", "it has gone on after its final model"
    (run / "training_history.json").unlink()
    found = "damaged: training_history.json has 0 epochs, its model says 2"
    assert only(tmp_path / "models").says == found


def test_a_trial_that_never_became_a_run_is_a_row(run, tmp_path):
    failed = {"number": 3, "name": "a", "settings": {"seed": 7}, "outcome": "failed", "why": "no data"}
    for name, changes in {"a": {}, "b": {"outcome": None, "why": ""}}.items():
        (tmp_path / "models" / name).mkdir()
        (tmp_path / "models" / name / "trial.json").write_text(json.dumps({**failed, **changes}))
    (run / "trial.json").write_text(json.dumps({**failed, "outcome": "finished", "why": ""}))
    rows = list_runs(tmp_path / "models")
    assert [row.says for row in rows] == ["failed: no data", "not begun", "finished"]
    assert rows[0].settings["seed"] == 7
    assert {*rows[0].settings} >= {*rows[2].settings}
    told(run, outcome=None)  # its kernel died again and again
    (run / "trial.json").write_text(json.dumps(failed))
    assert list_runs(tmp_path / "models")[2].says == "failed: no data"


def test_nothing_is_written(run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    list_runs(tmp_path / "models")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_100_runs_of_50_epochs_are_listed_in_less_than_half_a_second(whole, tmp_path):
    history = json.loads((whole / "training_history.json").read_bytes())
    history = [{**history[0], "epoch": epoch} for epoch in range(1, 51)]
    for number in range(100):
        run = tmp_path / f"run{number:03d}"
        (run / "tensorboard").mkdir(parents=True)
        (run / "run.json").write_bytes((whole / "run.json").read_bytes())
        (run / "training_history.json").write_text(json.dumps(history, indent=1))
        for name in [".lock", "final_model.pt", *(f"checkpoint_epoch_{e}.pt" for e in range(1, 51))]:
            os.close(os.open(run / name, os.O_CREAT))
    began = time.process_time()
    rows = list_runs(tmp_path)
    assert time.process_time() - began < 0.4  # 0.08 on an idle core
    assert len(rows) == 100 and {row.says for row in rows} == {"finished"}


def test_the_command_prints_a_table_or_json_without_nan(tiny, run, tmp_path, capsys):
    folder = copy(run, tmp_path / "models" / "other")
    history = json.loads((run / "training_history.json").read_bytes())
    history[-1] |= {"validation_roc_auc": float("nan"), "best": True}
    (folder / "training_history.json").write_text(json.dumps(history))
    told(folder, settings={**tiny_config(tiny, folder, seed=7).to_dict(), "dropout": float("inf")})
    assert main(["runs", str(tmp_path / "models")]) == 0
    out = capsys.readouterr().out
    assert "night/run  finished" in out and "seed" in out.splitlines()[0] and "nan" not in out
    assert main(["runs", str(tmp_path / "models"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert {each["name"] for each in found} == {"night/run", "other"}
    (other,) = (each for each in found if each["name"] == "other")
    assert other["best"]["validation_roc_auc"] is None and other["settings"]["dropout"] is None


def test_the_command_says_what_to_do_where_there_is_no_run(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert f"No run is in {tmp_path}. Train one" in capsys.readouterr().out
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        with pytest.raises(NoDirectory, match=f"{name}: no such directory"):
            list_runs(tmp_path / name)
        assert main(["runs", str(tmp_path / name)]) == 1
