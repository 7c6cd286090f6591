from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_config
from runs import OnStep, StopAfter, assert_same_run, copy, files

from treelstm import Config, Listener, load_checkpoint, load_corpus, load_encoder, preflight, train
from treelstm.checks.report import as_text
from treelstm.commands import main
from treelstm.model.files import model_part
from treelstm.run.directory import NoUsableCheckpoint, list_checkpoints
from treelstm.run.state import SettingsChanged
from treelstm.sealed import CheckpointError, DamagedCheckpoint, write_sealed

# --- a run from scratch ------------------------------------------------------------------------


def test_a_run_leaves_the_files_of_the_contract(finished):
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert names == {
        "checkpoint_epoch_1.pt",
        "checkpoint_epoch_2.pt",
        "checkpoint_epoch_3.pt",
        "best_model.pt",
        "final_model.pt",
        "run.json",
        "training_history.json",
        "training.log",
        "tensorboard",
    }
    history = json.loads((finished / "training_history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert list(history[0]) == [
        "epoch",
        "train_loss",
        "train_acc",
        "validation_loss",
        "validation_acc",
        "validation_roc_auc",
        "validation_average_precision",
        "learning_rate",
        "best",
    ]
    checkpoint = load_checkpoint(finished / "checkpoint_epoch_3.pt")
    assert checkpoint["history"] == history and checkpoint["epoch"] == 3
    assert checkpoint["train_loss"] == history[2]["train_loss"]
    assert {"model_state_dict", "optimizer_state_dict", "vocabulary"} <= checkpoint.keys()


def test_best_model_is_the_epoch_with_the_highest_average_precision(finished):
    history = json.loads((finished / "training_history.json").read_text())
    best = max(history, key=lambda record: record["validation_average_precision"])["epoch"]
    ours = load_encoder(finished / "best_model.pt").state_dict()
    theirs = load_checkpoint(finished / f"checkpoint_epoch_{best}.pt")["model_state_dict"]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_two_equal_runs_end_identical_to_the_last_bit(finished, config):
    train(config)
    assert_same_run(finished, config.output_path)


def test_global_random_state_neither_disturbs_a_run_nor_is_disturbed(finished, config):
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    train(config)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert_same_run(finished, config.output_path)


def test_training_learns(tiny, tmp_path):
    history = train(tiny_config(tiny, tmp_path / "run", epochs=12, learning_rate=0.01))
    assert history.finished and history.epochs[-1]["train_loss"] < 0.5 * history.epochs[0]["train_loss"]


def test_thread_count_is_taken_recorded_and_put_back(tiny, tmp_path):
    before = torch.get_num_threads()
    train(tiny_config(tiny, tmp_path / "run", epochs=1, num_threads=before + 1))
    assert torch.get_num_threads() == before
    assert load_checkpoint(tmp_path / "run" / "checkpoint_epoch_1.pt")["num_threads"] == before + 1


# --- resuming ----------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_step_by_step_and_then_is_what_it_would_have_been(tiny, tmp_path):
    class Rates(Listener):
        """The learning rate before each step."""

        def on_start(self, run):
            self.run, self.before = run, [run.learning_rate]

        def on_step(self, run):
            self.before.append(run.learning_rate)

        def on_epoch(self, record):
            self.before[-1] = self.run.learning_rate

    def rates(name: str, **settings: Any) -> list[float]:
        heard = Rates()
        train(tiny_config(tiny, tmp_path / name, epochs=4, **settings), listeners=[heard])
        return heard.before[:-1]

    for schedule in (None, "cosine", "plateau"):
        warm = rates(f"warm {schedule}", lr_schedule=schedule, warmup_steps=8)
        cold = rates(f"cold {schedule}", lr_schedule=schedule)
        factors = [min(1.0, (k + 1) / 8) for k in range(20)]
        assert warm == pytest.approx([r * f for r, f in zip(cold, factors, strict=True)], rel=1e-12)


@pytest.mark.parametrize("schedule", [None, "cosine", "plateau"])
def test_a_run_stopped_inside_its_warm_up_ends_bit_identical(tiny, tmp_path, schedule):
    settings = {"lr_schedule": schedule, "warmup_steps": 12, "epochs": 4}
    train(tiny_config(tiny, tmp_path / "whole", **settings))
    config = tiny_config(tiny, tmp_path / "stopped", **settings)
    for steps in (3, 4, 6):
        assert train(config, listeners=[StopAfter(steps)]).outcome == "stopped by SIGINT"
    assert train(config).finished
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(("threads", "schedule"), [(1, None), (2, None), (1, "plateau")])
@pytest.mark.parametrize("parts", [(3, 6), (2, 4, 6)])
def test_a_run_resumed_between_epochs_ends_bit_identical(tiny, tmp_path, parts, threads, schedule):
    settings = {"lr_schedule": schedule, "checkpoint_every_seconds": 0, "num_threads": threads}
    train(tiny_config(tiny, tmp_path / "whole", epochs=6, **settings))
    for epochs in parts:
        train(tiny_config(tiny, tmp_path / "parts", epochs=epochs, **settings))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_stopped_seven_times_inside_epochs_ends_bit_identical(tiny, tmp_path, threads):
    train(tiny_config(tiny, tmp_path / "whole", epochs=6, num_threads=threads))
    config = tiny_config(tiny, tmp_path / "stopped", epochs=6, num_threads=threads)
    for steps in (1, 3, 4, 2, 6, 5, 1):
        assert train(config, listeners=[StopAfter(steps)]).outcome == "stopped by SIGINT"
    assert train(config).finished
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_cosine_schedule_resumes_bit_identical_and_counts_epochs_among_what_is_computed(
    tiny, tmp_path, monkeypatch
):
    config = tiny_config(tiny, tmp_path / "whole", lr_schedule="cosine")
    train(config)
    stopped = dataclasses.replace(config, output_dir=str(tmp_path / "stopped"))
    train(stopped, listeners=[StopAfter(7)])
    with pytest.raises(SettingsChanged, match="epochs=3, this run asks for 4"):
        train(dataclasses.replace(stopped, epochs=4))
    train(stopped)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert train(config).epochs[2]["learning_rate"] < 0.3e-3


STOP_SIGNALS = [signal.Signals[f"SIG{name}"] for name in "INT TERM HUP USR1 USR2 XCPU".split()]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_commits_and_stops_and_gives_the_handlers_back(tiny, tmp_path, number):
    handlers = [*map(signal.getsignal, STOP_SIGNALS)]
    config = tiny_config(tiny, tmp_path / "run")
    history = train(config, listeners=[StopAfter(7, number)])
    assert history.outcome == f"stopped by {number.name}" and len(history.epochs) == 1
    assert history.outcome.exit_status == 128 + number
    assert list_checkpoints(tmp_path / "run")[-1].path.name == "checkpoint_epoch_2_step_2.pt"
    assert handlers == [*map(signal.getsignal, STOP_SIGNALS)]


def test_a_signal_that_is_ignored_stays_ignored(config):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        assert train(config, listeners=[StopAfter(7, signal.SIGUSR1)]).finished
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_second_signal_during_the_commit_does_not_tear_it(tiny, tmp_path, monkeypatch):
    config = tiny_config(tiny, tmp_path / "run")
    stop, fsync = StopAfter(7), os.fsync

    def interrupted(descriptor):
        if stop.done >= 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        assert train(config, listeners=[stop]).outcome == "stopped by SIGINT"
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert load_checkpoint(newest.path)["step"] == newest.steps_into_next


def test_training_outside_the_main_thread_works_without_signal_handlers(tiny, tmp_path):
    outcomes = []
    config = tiny_config(tiny, tmp_path / "run", epochs=1)
    thread = threading.Thread(target=lambda: outcomes.append(train(config).outcome))
    thread.start()
    thread.join()
    assert outcomes == ["finished"]


def test_checkpoints_inside_an_epoch_come_by_time_and_the_epoch_removes_them(
    tiny, tmp_path, monkeypatch
):
    seen: list[set[str]] = []

    class Watches(Listener):
        def on_commit(self, commit):
            seen.append({c.path.name for c in list_checkpoints(tmp_path / "run")})

    config = tiny_config(tiny, tmp_path / "run", epochs=1, checkpoint_every_seconds=0)
    train(config, listeners=[Watches()])
    steps = [f"checkpoint_epoch_1_step_{k}.pt" for k in range(1, 6)]
    assert seen == [
        {steps[0]},
        {*steps[:2]},
        {*steps[1:3]},
        {*steps[2:4]},
        {*steps[3:]},
        {"checkpoint_epoch_1.pt"},
    ]


def test_auto_on_a_finished_run_says_so_and_leaves_everything_as_it_was(tiny, run, capsys):
    before = files(run)
    history = train(tiny_config(tiny, run))
    assert history.finished and len(history.epochs) == 3
    assert files(run) == before
    assert (
        "the run is finished: nothing to do. Raise epochs (now 3) to train on" in capsys.readouterr().out
    )


def test_resuming_says_what_it_took_and_what_will_run(tiny, run, capsys):
    train(tiny_config(tiny, run, epochs=5))
    said = capsys.readouterr().out
    loss = load_checkpoint(run / "checkpoint_epoch_3.pt")["train_loss"]
    assert "checkpoint_epoch_3.pt: epoch 3, step 5 of 5" in said
    assert f"train loss {loss:.4f}, 3 epochs of history; epochs 4 to 5 will run" in said


def test_derived_files_are_made_again_from_the_commit(tiny, finished, run):
    for name in ("best_model.pt", "final_model.pt", "training_history.json"):
        (run / name).unlink()
    train(tiny_config(tiny, run))
    assert_same_run(finished, run)


def test_a_best_model_that_cannot_be_made_again_is_said_and_does_not_end_the_night(tiny, run, capsys):
    best = load_checkpoint(run / "checkpoint_epoch_3.pt")["best"]["epoch"]
    assert best == 3
    for name in ("checkpoint_epoch_3.pt", "best_model.pt"):
        (run / name).unlink()
    (run / "checkpoint_epoch_1.pt").write_bytes(b"")
    content = load_checkpoint(run / "checkpoint_epoch_2.pt")
    write_sealed(run / "checkpoint_epoch_2.pt", content | {"best": {"epoch": 1, "validation_loss": 0.0}})
    assert train(tiny_config(tiny, run)).finished
    said = capsys.readouterr().out
    assert "best_model.pt is not of epoch 1 and cannot be made again: " in said
    assert "checkpoint_epoch_1.pt is damaged" in said


def test_a_path_to_an_earlier_epoch_sets_later_commits_aside(tiny, finished, run, capsys):
    config = tiny_config(tiny, run)
    history = train(dataclasses.replace(config, resume=str(run / "checkpoint_epoch_1.pt")))
    aside = {path.name for path in (run / "superseded").iterdir()}
    assert {"checkpoint_epoch_2.pt", "checkpoint_epoch_3.pt", "best_model.pt"} <= aside
    assert {"final_model.pt", "training_history.json"} <= aside
    assert "set aside in" in capsys.readouterr().out
    assert history.resumed_at == (1, 0) and len(history.epochs) == 3
    assert_same_run(finished, run)
    train(dataclasses.replace(config, resume=str(run / "checkpoint_epoch_1.pt")))
    assert (run / "superseded" / "checkpoint_epoch_3.2.pt").is_file()


def test_resume_none_sets_a_whole_run_aside_and_starts_afresh(tiny, finished, run):
    history = train(tiny_config(tiny, run, epochs=1, resume=None))
    assert history.resumed_at is None and len(history.epochs) == 1
    assert (run / "superseded" / "checkpoint_epoch_3.pt").is_file()
    assert [c.path.name for c in list_checkpoints(run)] == ["checkpoint_epoch_1.pt"]


def test_a_missing_or_damaged_path_is_an_error_and_never_a_fresh_start(tiny, run):
    before = files(run)
    config = tiny_config(tiny, run, epochs=5)
    with pytest.raises(FileNotFoundError, match=r"checkpoint_epoch_9\.pt: no such file"):
        train(dataclasses.replace(config, resume=str(run / "checkpoint_epoch_9.pt")))
    damaged = run / "checkpoint_epoch_2.pt"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    before = files(run)
    with pytest.raises(DamagedCheckpoint, match=r"checkpoint_epoch_2\.pt is damaged"):
        train(dataclasses.replace(config, resume=str(damaged)))
    assert files(run) == before


def test_a_path_outside_the_output_directory_is_refused_with_the_way_out(tiny, finished, run):
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of .*set start_from"):
        train(tiny_config(tiny, run, resume=str(finished / "checkpoint_epoch_1.pt")))


def test_auto_passes_over_damaged_checkpoints_names_them_and_ends_identical(tiny, finished, run, capsys):
    for epoch, damage in ((3, b""), (2, b"not a checkpoint at all")):
        (run / f"checkpoint_epoch_{epoch}.pt").write_bytes(damage)
    history = train(tiny_config(tiny, run))
    said = capsys.readouterr().out
    assert history.resumed_at == (1, 0)
    assert "checkpoint_epoch_3.pt is damaged: it is cut short" in said
    assert "checkpoint_epoch_2.pt is damaged: it is cut short, or treelstm did not write it" in said
    assert (run / "damaged" / "checkpoint_epoch_3.pt").is_file()
    assert_same_run(finished, run)


def test_auto_with_only_damaged_checkpoints_stops_instead_of_burying_the_run(tiny, run):
    for checkpoint in list_checkpoints(run):
        checkpoint.path.write_bytes(b"")
    before = files(run)
    with pytest.raises(NoUsableCheckpoint, match=r"3 checkpoint\(s\), and all are damaged"):
        train(tiny_config(tiny, run))
    assert files(run) == before


# --- ending, keeping, starting from weights -----------------------------------------------------


def test_patience_ends_a_run_early_says_what_helps_and_more_patience_goes_on(tiny, tmp_path, capsys):
    config = tiny_config(tiny, tmp_path / "run", patience=2, epochs=9)

    def never_better(run):
        if run.epochs_done:
            run.best = {"epoch": 1, "validation_loss": 0.0}
            run.history[0]["validation_average_precision"] = 1.0

    listeners = [OnStep(never_better)]
    assert train(config, listeners=listeners).outcome == "finished early"
    assert list_checkpoints(tmp_path / "run")[-1].epoch == 3
    assert train(config, listeners=listeners).outcome == "finished early"
    assert train(dataclasses.replace(config, epochs=99), listeners=listeners).finished
    said = capsys.readouterr().out
    assert "finished early: nothing to do. Raise patience (now 2, None waits for ever) to train" in said
    text = as_text(preflight(dataclasses.replace(config, epochs=99)), "utf-8")
    assert "for at most 0 epochs" in text and "epochs 4 to" not in text
    assert "Raise patience (now 2, None waits for ever)" in text
    assert train(dataclasses.replace(config, epochs=3), listeners=listeners).outcome == "finished"
    assert "Raise epochs (now 3) and patience (now 2" in capsys.readouterr().out
    more = dataclasses.replace(config, patience=3)
    assert "epochs 4 to at most 9 will run: patience=3" in as_text(preflight(more), "utf-8")
    assert len(train(more, listeners=listeners).epochs) == 4
    assert (tmp_path / "run" / "final_model.pt").is_file()


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("every", [1e9, 0])
def test_keep_leaves_the_last_ones_and_whatever_was_the_best_by_then(tiny, tmp_path, keep, every):
    config = tiny_config(
        tiny, tmp_path / "run", epochs=7, keep=keep, learning_rate=0.05, checkpoint_every_seconds=every
    )
    history = train(config).epochs

    def best(epoch: int) -> int:
        return max(history[:epoch], key=lambda r: r["validation_average_precision"])["epoch"]

    last = set(range(8 - keep, 8))
    kept = [c.epoch for c in list_checkpoints(tmp_path / "run")]
    assert set(kept) == last | {best(epoch) for epoch in last}
    whole = tmp_path / "whole"
    train(dataclasses.replace(config, output_dir=str(whole), keep="all"))
    for epoch in kept:  # going back to each, and on from there, loses nothing
        for epochs in sorted({epoch, 7}):
            run = copy(tmp_path / "run", tmp_path / f"back to {epoch} until {epochs}")
            path = str(run / f"checkpoint_epoch_{epoch}.pt")
            train(dataclasses.replace(config, output_dir=str(run), resume=path, epochs=epochs))
            weights = load_encoder(run / "best_model.pt").state_dict()
            expected = load_encoder(whole / f"checkpoint_epoch_{best(epochs)}.pt").state_dict()
            assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_best_model_that_stays_the_best_stays_where_it_is(tiny, run):
    """An older version has pruned the checkpoint that it was made from."""
    for epoch in (2, 3):
        content = load_checkpoint(run / f"checkpoint_epoch_{epoch}.pt")
        best = {"best": {"epoch": 1, "validation_loss": 0.0}}
        content["history"][0]["validation_average_precision"] = 1.0
        write_sealed(run / f"checkpoint_epoch_{epoch}.pt", content | best)
    write_sealed(run / "best_model.pt", model_part(load_checkpoint(run / "checkpoint_epoch_1.pt")))
    before = (run / "best_model.pt").read_bytes()
    (run / "checkpoint_epoch_1.pt").unlink()
    train(tiny_config(tiny, run, resume=str(run / "checkpoint_epoch_2.pt")))
    assert (run / "best_model.pt").read_bytes() == before


def test_a_best_epoch_that_was_set_aside_is_found_there_if_it_is_of_this_run(tiny, finished, run):
    config = tiny_config(tiny, run, epochs=5)
    train(config)
    aside = run / "superseded"
    aside.mkdir()
    foreign = load_checkpoint(run / "checkpoint_epoch_3.pt")
    foreign["history"][0]["train_loss"] = 0.0
    write_sealed(aside / "checkpoint_epoch_3.pt", foreign)
    (run / "checkpoint_epoch_3.pt").rename(aside / "checkpoint_epoch_3.2.pt")
    content = load_checkpoint(run / "checkpoint_epoch_4.pt")
    best = {"best": {"epoch": 3, "validation_loss": 0.0}}
    write_sealed(run / "checkpoint_epoch_4.pt", content | best)
    train(dataclasses.replace(config, resume=str(run / "checkpoint_epoch_4.pt"), epochs=4))
    weights = load_encoder(run / "best_model.pt").state_dict()
    expected = load_encoder(finished / "checkpoint_epoch_3.pt").state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_best_model_that_is_lost_is_said_once_and_evaluation_says_what_it_takes(
    tiny, run, capsys, caplog
):
    content = load_checkpoint(run / "checkpoint_epoch_2.pt")
    content["history"][0]["validation_average_precision"] = 1.0
    best = {"best": {"epoch": 1, "validation_loss": 0.0}}
    write_sealed(run / "checkpoint_epoch_2.pt", content | best)
    (run / "checkpoint_epoch_1.pt").unlink()
    train(tiny_config(tiny, run, epochs=5, resume=str(run / "checkpoint_epoch_2.pt")))
    said = capsys.readouterr().out
    assert said.count("best_model.pt is not of epoch 1 and cannot be made again") == 1
    assert not (run / "best_model.pt").exists()
    assert main(["evaluate", "--output-dir", str(run)]) == 0
    assert "checkpoint_epoch_5.pt on 72 pairs" in capsys.readouterr().out
    assert "best_model.pt is missing: checkpoint_epoch_5.pt is taken instead" in caplog.text


def test_keep_does_not_remove_the_only_good_commit_when_the_disk_damages_the_newest(
    tiny, tmp_path, monkeypatch, capsys
):
    """From epoch 3 on, what is written is not what lands on the disk."""
    replace = Path.replace

    def damaging(temporary, path):
        replace(temporary, path)
        if path.name in ("checkpoint_epoch_3.pt", "checkpoint_epoch_4.pt"):
            path.write_bytes(path.read_bytes()[:-1] + b"x")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", damaging)
        train(tiny_config(tiny, tmp_path / "run", epochs=4, keep=1, learning_rate=0.01))
    assert "no older checkpoint is removed: " in capsys.readouterr().out
    history = train(tiny_config(tiny, tmp_path / "run", epochs=6, keep=1, learning_rate=0.01))
    assert history.resumed_at == (2, 0) and history.finished
    assert {c.epoch for c in list_checkpoints(tmp_path / "run")} == {6, history.best["epoch"]}


# --- watching ----------------------------------------------------------------------------------


def test_a_stop_comes_within_a_second_of_the_current_step(tiny, tmp_path, monkeypatch):
    config = tiny_config(tiny, tmp_path / "run", epochs=10_000)
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    began = time.monotonic()
    assert train(config).outcome == "stopped by SIGTERM"
    assert time.monotonic() - began < 2.0


def test_the_corpus_may_be_split_from_one_directory(tiny, tmp_path):
    config = Config.from_parameters(
        tiny_config(tiny, tmp_path / "run", epochs=1).to_dict() | {"validation_dir": None}
    )
    assert len(load_corpus(config).validation) == 7
    assert train(config).finished
