"""What a resume may change on purpose, what it must not, and the same data in other files."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config
from runs import StopAfter, assert_same_run, copy, files, identical, rewrite, through_kills

from treelstm import (
    Config,
    list_checkpoints,
    load_checkpoint,
    load_corpus,
    preflight,
    run_status,
    train,
)  # fmt: skip
from treelstm.checks.report import as_text
from treelstm.config import ConfigError
from treelstm.figures import history_figure
from treelstm.history import summary
from treelstm.model.files import model_epoch
from treelstm.run.state import SettingsChanged
from treelstm.widgets import checkpoints

CHANGES: dict[str, dict[str, Any]] = {
    "learning_rate": {"learning_rate": 0.01},
    "lr_schedule, epochs": {"lr_schedule": "cosine"},
    "lr_schedule": {"lr_schedule": "plateau"},
    "warmup_steps": {"warmup_steps": 18},
    "margin": {"margin": 0.8},
    "dropout": {"dropout": 0.0},
    "batch_size": {"batch_size": 7},
    "seed": {"seed": 7},
    "num_threads": {"num_threads": 2},
    "data": {"data_dir": "other"},
    "positive_margin": {"positive_margin": 0.5},
    "objective": {"objective": "graded"},
    "temperature": {"temperature": 0.2},
    "best_by": {"best_by": "validation_loss"},
}


@pytest.fixture(scope="module")
def other(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus with four pairs fewer."""
    data = copy(tiny, tmp_path_factory.mktemp("other") / "data")
    path = data / "training" / "positive_pairs.jsonl"
    path.write_text("".join(path.read_text().splitlines(True)[:-4]))
    return data


@pytest.mark.parametrize("names", CHANGES)
def test_a_named_change_is_made_recorded_and_ends_bit_identical_under_stops(
    tiny, other, run, tmp_path, capsys, names
):
    settings = {"num_threads": 1, "epochs": 6} | CHANGES[names]
    data = other if settings.pop("data_dir", None) else tiny
    config = tiny_config(data, run, **settings)
    before = files(run)
    with pytest.raises(SettingsChanged, match=rf'set changes=".*{names.partition(",")[0]}.*" to go on'):
        train(config)
    assert files(run) == before
    undisturbed = tiny_config(data, copy(run, tmp_path / "whole"), changes=names, **settings)
    assert train(undisturbed).resumed_at == (3, 0)
    said = capsys.readouterr().out
    assert f"changed on purpose: {names.partition(',')[0]}: " in said and "after epoch 3" in said
    changed = dataclasses.replace(config, changes=(names,))
    for steps in (1, 2, 6):  # the second finds the first's commit, with the new settings
        assert train(changed, listeners=[StopAfter(steps)]).outcome == "stopped by SIGINT"
    assert train(config).finished  # from the first new commit on, nothing need be named
    assert_same_run(undisturbed.output_path, run)
    content = load_checkpoint(run / "checkpoint_epoch_6.pt")
    assert [c["name"] for c in content["changes"]] == [names.partition(",")[0]]
    assert (content["changes"][0]["epoch"], content["changes"][0]["step"]) == (3, 0)
    assert f"changed on purpose: {names.partition(',')[0]}: " in str(run_status(run))
    assert content["config"]["changes"] == []
    with pytest.raises(SettingsChanged, match=r"learning_rate=.*, this run asks for 0\.5"):
        train(dataclasses.replace(config, learning_rate=0.5, epochs=7))


def test_a_change_under_real_kills_ends_bit_identical(tiny, run, tmp_path):
    settings = {"epochs": 7, "learning_rate": 0.01, "lr_schedule": "cosine", "batch_size": 5}
    names = "learning_rate lr_schedule batch_size".split()
    settings |= {"num_threads": 1, "changes": names, "checkpoint_every_seconds": 0.0}
    whole = copy(run, tmp_path / "whole")
    train(tiny_config(tiny, whole, **settings))
    kills = [["step", 1], ["rename", "checkpoint_epoch_4_step_3.pt", 1, "before"], ["step", 9]]
    kills += [["rename", "checkpoint_epoch_6.pt", 1, "after"]]
    lives = [{"die": place, "run": "run"} for place in kills] + [{"run": "run"}]
    (tmp_path / "work").mkdir()
    copy(run, tmp_path / "work" / "run")
    reports = through_kills(tiny_config(tiny, tmp_path / "work", **settings), tmp_path, lives=lives)
    assert [report["killed"] for report in reports] == [True] * 4 + [False], reports
    assert_same_run(whole, tmp_path / "work" / "run")


def test_the_optimizer_and_the_history_go_on_and_the_rate_counts_from_the_next_step(tiny, run):
    before = load_checkpoint(run / "checkpoint_epoch_3.pt")
    config = tiny_config(tiny, run, epochs=4, learning_rate=0.01, changes="learning_rate")
    train(config, listeners=[StopAfter(1)])
    content = load_checkpoint(run / "checkpoint_epoch_4_step_1.pt")
    steps = [state["step"] for state in content["optimizer_state_dict"]["state"].values()]
    assert {float(step) for step in steps} == {16.0}
    assert content["history"] == before["history"]
    assert content["optimizer_state_dict"]["param_groups"][0]["lr"] == 0.01


def test_a_schedule_that_was_changed_goes_on_as_if_it_had_been_so_from_the_start(tiny, run, tmp_path):
    settings = {"epochs": 8, "lr_schedule": "cosine", "warmup_steps": 20, "learning_rate": 0.01}
    whole = train(tiny_config(tiny, tmp_path / "whole", **settings))
    names = "lr_schedule, warmup_steps, learning_rate, epochs"
    changed = train(tiny_config(tiny, run, **settings, changes=names))
    rates = [[record["learning_rate"] for record in each.epochs[3:]] for each in (whole, changed)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-12)


def test_a_warm_up_goes_on_where_it_was_when_the_batch_size_changes(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", epochs=1, warmup_steps=12)
    train(config)
    more = dataclasses.replace(config, epochs=3, batch_size=6, changes=("batch_size",))
    assert train(more).epochs[-1]["learning_rate"] == pytest.approx(config.learning_rate)


def test_after_a_change_of_what_the_loss_means_the_best_epoch_is_sought_anew(tiny, run, capsys):
    config = tiny_config(tiny, run, epochs=5, margin=9.0, changes="margin", patience=1, keep=1)
    history = train(config)
    assert "the best epoch is sought anew" in capsys.readouterr().out
    content = load_checkpoint(list_checkpoints(run)[-1].path)
    best = content["best"]["epoch"]
    assert best >= 4
    assert min(content["history"], key=lambda r: r["validation_loss"])["epoch"] <= 3
    assert load_checkpoint(run / f"checkpoint_epoch_{best}.pt")
    assert history.best["epoch"] == best  # as is every mark of it
    assert f"best: epoch {best}, " in summary(history.epochs)
    assert f"best epoch {best}" in marks(history_figure(history.epochs))
    status = run_status(run)
    assert f"best epoch {best}" in marks(history_figure(status.history))
    for picker in (checkpoints.resume_picker(run, "auto"), checkpoints.model_picker(run, "best")):
        assert {row["epoch"] for row in picker.rows if row["best"]} == {best}


@pytest.mark.parametrize("names", ["best_by", "positive_margin", "objective"])
def test_after_a_change_of_how_epochs_are_compared_the_best_is_sought_anew(tiny, run, capsys, names):
    config = tiny_config(tiny, run, epochs=5, changes=names, **CHANGES[names])
    history = train(config)
    assert "the best epoch is sought anew" in capsys.readouterr().out
    assert history.best["epoch"] >= 4
    assert not any(record["best"] for record in history.epochs[:3])
    key = {"best_by": "validation_loss", "objective": "validation_loss"}.get(
        names, "validation_average_precision"
    )
    sign = -1 if key == "validation_loss" else 1
    assert history.best == max(history.epochs[3:], key=lambda record: sign * record[key])
    assert model_epoch(run / "best_model.pt") == history.best["epoch"]


def test_another_best_by_changes_nothing_that_is_computed(tiny, tmp_path):
    settings = {"lr_schedule": "plateau", "learning_rate": 0.08, "num_threads": 1}
    train(tiny_config(tiny, tmp_path / "whole", epochs=7, **settings))
    train(tiny_config(tiny, tmp_path / "run", epochs=6, **settings))
    settings |= {"best_by": "validation_loss", "changes": "best_by"}
    train(tiny_config(tiny, tmp_path / "run", epochs=7, **settings))
    ends = [load_checkpoint(tmp_path / name / "checkpoint_epoch_7.pt") for name in ("whole", "run")]
    for part in ("model_state_dict", "optimizer_state_dict", "scheduler_state_dict"):
        assert identical(ends[0][part], ends[1][part]), part
    assert ends[0]["scheduler_state_dict"]["num_bad_epochs"] > 0  # it counts from before the change


def test_a_refusal_names_every_setting_to_set_as_before(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", epochs=1, bag_of_symbols=False, positive_margin=0.0)
    train(config)
    with pytest.raises(SettingsChanged) as error:
        train(tiny_config(tiny, tmp_path / "run"))
    remedy = (
        "Another bag_of_symbols makes another model. Set bag_of_symbols=False, positive_margin=0.0 as"
    )
    assert str(error.value).count(remedy) == 1 and "set changes=" not in str(error.value)


def marks(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_before_an_epoch_has_ended_after_such_a_change_there_is_no_best(tiny, run):
    config = tiny_config(tiny, run, epochs=5, margin=9.0, changes="margin")
    history = train(config, listeners=[StopAfter(1)])
    assert load_checkpoint(list_checkpoints(run)[-1].path)["best"] is None and history.best is None
    assert summary(history.epochs) == "3 epochs."
    drawn = marks(history_figure(history.epochs))
    assert not any("best" in each for each in drawn)
    assert not any(row["best"] for row in checkpoints.resume_picker(run, "auto").rows)


def test_what_gives_batches_their_pairs_changes_only_where_an_epoch_ends(tiny, run):
    train(tiny_config(tiny, run, epochs=5), listeners=[StopAfter(2)])
    before = files(run)
    for names in ("objective", "batch_size", "seed"):
        config = tiny_config(tiny, run, epochs=5, changes=names, **CHANGES[names])
        message = rf'{names} can change only .*\n?.*Set resume=".*checkpoint_epoch_3\.pt"'
        with pytest.raises(SettingsChanged, match=rf"(?s){message}"):
            train(config)
        assert "can change only where an epoch ends" in as_text(preflight(config), "utf-8")
    assert files(run) == before
    back = dataclasses.replace(config, resume=str(run / "checkpoint_epoch_3.pt"))
    assert train(back).resumed_at == (3, 0)


def test_a_change_that_needs_no_whole_epoch_is_made_in_the_middle_of_one(tiny, run):
    train(tiny_config(tiny, run, epochs=5), listeners=[StopAfter(2)])
    train(tiny_config(tiny, run, epochs=5, changes="dropout", dropout=0.3))
    (change,) = load_checkpoint(run / "checkpoint_epoch_5.pt")["changes"]
    assert (change["epoch"], change["step"], change["now"]) == (4, 2, 0.3)


@pytest.mark.parametrize("name", ["hidden_dim", "embedding_dim", "precision", "ignored_keys"])
def test_what_makes_another_model_cannot_be_named(name):
    with pytest.raises(ConfigError, match=f"changes names {name}.*another model.*new output_dir"):
        Config(changes=name)


def test_names_that_are_no_settings_are_refused_and_lists_and_texts_mean_the_same():
    with pytest.raises(ConfigError, match=r"learning_rat: no such setting\. Did you mean learning_rate"):
        Config(changes="data, learning_rat")
    expected = ("learning_rate", "data")
    for given in ("learning_rate, data", ["learning_rate", "data"], ["learning_rate,", "data"]):
        assert Config(changes=given).changes == expected
    assert Config(changes="").changes == ()


def test_preflight_tells_of_the_changes_and_refuses_those_that_are_not_named(tiny, run):
    config = tiny_config(tiny, run, epochs=5, learning_rate=0.01)
    report = preflight(config)
    assert report.verdict == "no-go" and 'changes="learning_rate"' in as_text(report, "utf-8")
    said = as_text(preflight(dataclasses.replace(config, changes=("learning_rate",))), "utf-8")
    assert "changed on purpose: learning_rate: 0.001 became 0.01 after epoch 3" in said


# --- the same data in other files --------------------------------------------------------------


def wrap(data: Path, how: str) -> None:
    for path in data.glob("*/*_pairs.jsonl"):
        raw = path.read_bytes()
        if how == "gzip":
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(raw))
            path.unlink()
        elif how == "CRLF":
            path.write_bytes(raw.replace(b"\n", b"\r\n"))
        elif how == "blank lines":
            path.write_bytes(raw.replace(b"\n", b"\n\n"))
        else:
            records = [
                json.loads(line, object_pairs_hook=lambda p: dict(p[::-1])) for line in raw.splitlines()
            ]
            path.write_text("".join(f"{json.dumps(record, indent=None)}\n" for record in records))


@pytest.mark.parametrize("how", ["gzip", "CRLF", "blank lines", "order of keys"])
@pytest.mark.parametrize("split", [False, True])
def test_the_same_pairs_in_other_files_resume_and_end_bit_identical(tiny, tmp_path, capsys, how, split):
    data, own = copy(tiny, tmp_path / "data"), {"validation_dir": None} if split else {}
    for name, epochs in (("whole", 3), ("run", 2)):
        train(tiny_config(data, tmp_path / name, epochs=epochs, **own))
    wrap(data, how)
    capsys.readouterr()
    assert train(tiny_config(data, tmp_path / "run", **own)).resumed_at == (2, 0)
    assert "not the same bytes as before, but hold the same pairs: allowed" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("how", ["order of pairs", "similarity", "a tree"])
def test_other_pairs_have_another_digest_and_are_refused(tiny, run, tmp_path, how):
    data = copy(tiny, tmp_path / "data")
    path = data / "training" / "positive_pairs.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    if how == "order of pairs":
        records = records[::-1]
    elif how == "similarity":
        records[3]["similarity"] = 0.123
    else:
        records[3]["ast1"]["ast"] = records[4]["ast1"]["ast"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(SettingsChanged, match=r"training/positive_pairs\.jsonl with SHA-256"):
        train(tiny_config(data, run, epochs=5))


def test_a_commit_that_knows_only_bytes_says_so(tiny, run, tmp_path):
    for checkpoint in list_checkpoints(run):
        rewrite(checkpoint.path, lambda content: [content.pop(k) for k in ("content_digest", "changes")])
    data = copy(tiny, tmp_path / "data")
    wrap(data, "CRLF")
    with pytest.raises(SettingsChanged, match=r"older version .* knows the files' bytes only"):
        train(tiny_config(data, run, epochs=5))
    assert train(tiny_config(tiny, run, epochs=4)).resumed_at == (3, 0)


def test_the_digest_is_of_the_content_and_not_of_its_place(tiny, tmp_path):
    data = copy(tiny, tmp_path / "elsewhere")
    wrap(data, "gzip")
    corpora = [load_corpus(tiny_config(each, tmp_path / "run")) for each in (tiny, data)]
    assert corpora[0].content_digest == corpora[1].content_digest
    assert corpora[0].fingerprint != corpora[1].fingerprint


# --- how far, with what, and where from --------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "steps", "state"), [(2, 0, "has 3 epochs done"), (3, 2, "is in epoch 4")]
)
def test_fewer_epochs_than_are_done_or_begun_are_refused_and_nothing_is_written(
    tiny, run, epochs, steps, state
):
    if steps:
        train(tiny_config(tiny, run, epochs=5), listeners=[StopAfter(steps)])
    (run / "final_model.pt").unlink(missing_ok=True)
    before, config = files(run), tiny_config(tiny, run, epochs=epochs)
    with pytest.raises(
        SettingsChanged, match=rf"epochs={epochs}, but .* {state}\. Set epochs to at least"
    ):
        train(config)
    assert files(run) == before
    report = preflight(config)
    assert report.verdict == "no-go" and f"epochs={epochs}, but " in as_text(report, "utf-8")
    assert f"epochs {epochs + 1} to" not in as_text(report, "utf-8")


def test_fewer_threads_are_allowed_and_said_where_the_cores_are_fewer(
    tiny, tmp_path, monkeypatch, capsys
):
    config = tiny_config(tiny, tmp_path / "run", epochs=1, num_threads=2)
    train(config)
    fewer = dataclasses.replace(config, epochs=2, num_threads=1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    with pytest.raises(SettingsChanged, match="num_threads=2, this run asks for 1"):
        train(fewer)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert train(fewer).resumed_at == (1, 0)
    assert "num_threads was 2, is 1 now: allowed, but the result may differ" in capsys.readouterr().out


@pytest.mark.parametrize("gone", ["data_dir", "validation_dir"])
def test_data_that_have_moved_are_one_line_that_names_the_setting(tiny, run, tmp_path, gone):
    config = dataclasses.replace(tiny_config(tiny, run, epochs=4), **{gone: str(tmp_path / "gone")})
    with pytest.raises(ValueError, match=rf"gone: no such directory\. Set {gone} to where") as error:
        train(config)
    assert "\n" not in str(error.value)
    assert f"Set {gone} to where its pairs are now" in as_text(preflight(config, quick=True), "utf-8")
