from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_config
from runs import assert_same_run, copy, identical

from treelstm import Config, load_checkpoint, load_corpus, load_encoder, train, training
from treelstm import checkpoint as store
from treelstm.checkpoint import CheckpointError, DamagedCheckpoint, NoUsableCheckpoint, list_checkpoints
from treelstm.training import SettingsChanged, TrainingDiverged


@pytest.fixture(scope="session")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of 3 epochs; copy it before changing anything."""
    output_dir = tmp_path_factory.mktemp("finished") / "run"
    train(tiny_config(tiny, output_dir))
    return output_dir


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return copy(finished, tmp_path / "run")


def files(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
        if path.is_file() and path.suffix in (".pt", ".json") and not path.name.startswith(".")
    }


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, by: signal.Signals = signal.SIGINT) -> None:
    """Sends this process a signal once `train` has done that many steps."""
    step, done = training.train_step, 0

    def counted(*args):
        nonlocal done
        step(*args)
        done += 1
        if done == steps:
            os.kill(os.getpid(), by)

    monkeypatch.setattr(training, "train_step", counted)


# --- a run from scratch ------------------------------------------------------------------------


def test_a_run_leaves_the_files_of_the_contract(finished):
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert names == {
        "checkpoint_epoch_1.pt",
        "checkpoint_epoch_2.pt",
        "checkpoint_epoch_3.pt",
        "best_model.pt",
        "final_model.pt",
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
    ]
    checkpoint = load_checkpoint(finished / "checkpoint_epoch_3.pt")
    assert checkpoint["history"] == history and checkpoint["epoch"] == 3
    assert checkpoint["train_loss"] == history[2]["train_loss"]
    assert {"model_state_dict", "optimizer_state_dict", "vocabulary"} <= checkpoint.keys()


def test_best_model_is_the_epoch_with_the_lowest_validation_loss(finished):
    history = json.loads((finished / "training_history.json").read_text())
    best = min(history, key=lambda record: record["validation_loss"])["epoch"]
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


def test_a_loss_that_is_no_number_stops_the_run_with_the_last_good_commit(tiny, tmp_path, run):
    config = tiny_config(tiny, run, epochs=5)
    step = training.train_step

    def diverging(state, *args):
        step(state, *args)
        if state.step == 2:
            state.running[0] = float("nan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", diverging)
        with pytest.raises(TrainingDiverged, match=r"the loss is nan in epoch 4, .*lower learning_rate"):
            train(config)
    assert list_checkpoints(run)[-1].path.name == "checkpoint_epoch_3.pt"
    load_checkpoint(run / "checkpoint_epoch_3.pt")


@pytest.mark.parametrize(
    ("settings", "what"),
    [({"learning_rate": 1e30}, r"the loss is (nan|inf)"), ({"learning_rate": 1e4}, r"the loss is \d")],
    ids=["not finite", "exploded"],
)
def test_a_diverged_run_names_the_step_the_pairs_and_the_norms_and_keeps_the_last_commit(
    tiny, tmp_path, settings, what
):
    """A good run whose learning rate is raised by force in epoch 3, as only a fault could."""
    config = tiny_config(tiny, tmp_path / "run", epochs=6, checkpoint_every_seconds=1e9)
    step = training.train_step

    def forced(state, *args):
        if state.epochs_done == 2 and state.step == 2:
            state.optimizer.param_groups[0]["lr"] = settings["learning_rate"]
        step(state, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", forced)
        with pytest.raises(TrainingDiverged, match=what) as caught:
            train(config)
    said = str(caught.value)
    assert re.search(r"norm of the gradient \S+, of the weights \S+ before and \S+ after", said)
    number = int(re.search(r"It went wrong in epoch 3, step (\d)", said)[1])
    assert number == 3
    corpus = load_corpus(config)
    order = training.epoch_order(config.seed, 3, len(corpus.training))
    expected = {corpus.training.where(k) for k in order[16 * (number - 1) : 16 * number].tolist()}
    found = re.findall(r"(\S+pairs\.jsonl) line ([\d, ]+)", said)
    assert {f"{path}:{line}" for path, lines in found for line in lines.split(", ")} == expected
    assert list_checkpoints(tmp_path / "run")[-1].position == (2, 0)
    assert said in (tmp_path / "run" / "training.log").read_text()
    assert train(config).finished  # the cause gone, the same command goes on


def test_a_fault_that_a_replay_does_not_repeat_is_laid_to_the_machine(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run")
    step, faults = training.train_step, [1]

    def faulty(state, *args):
        step(state, *args)
        if state.epochs_done == 1 and faults:
            faults.pop()
            state.encoder.embedding.data[3] = float("nan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", faulty)
        with pytest.raises(TrainingDiverged, match=r"A replay of the same steps .* suspect the memory"):
            train(config)


def test_weights_that_explode_in_an_epochs_last_step_are_not_committed(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run")
    step = training.train_step

    def last(state, *args):
        if state.steps_done == 9:
            state.optimizer.param_groups[0]["lr"] = 1e6
        step(state, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", last)
        with pytest.raises(TrainingDiverged, match="It went wrong in epoch 2, step 5: loss 0"):
            train(config)
    assert list_checkpoints(tmp_path / "run")[-1].position == (1, 0)


def test_weights_that_went_bad_in_the_last_step_before_a_commit_are_not_committed(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", checkpoint_every_seconds=0)
    step = training.train_step

    def last(state, *args):
        step(state, *args)
        if state.steps_done == 8:  # its loss was fine, only the weights after it are not
            state.encoder.sum_weight.data[0, 0] = float("inf")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", last)
        with pytest.raises(TrainingDiverged, match=r"epoch 2, step 3: loss 0.* and inf after"):
            train(config)
    assert list_checkpoints(tmp_path / "run")[-1].position == (1, 2)


@pytest.mark.parametrize("learning_rate", [1e-4, 1e-2, 0.1, 1.0])
def test_a_rate_that_is_merely_too_high_is_no_divergence(tiny, tmp_path, learning_rate):
    settings = {"learning_rate": learning_rate, "checkpoint_every_seconds": 0, "epochs": 4}
    assert train(tiny_config(tiny, tmp_path / "run", **settings)).finished


# --- resuming ----------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_step_by_step_and_then_is_what_it_would_have_been(tiny, tmp_path):
    rates: list[float] = []
    step = training.train_step

    def noting(state, *args):
        rates.append(state.optimizer.param_groups[0]["lr"])
        step(state, *args)

    for schedule in (None, "cosine", "plateau"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "train_step", noting)
            settings = {"lr_schedule": schedule, "epochs": 4}
            train(tiny_config(tiny, tmp_path / f"warm {schedule}", warmup_steps=8, **settings))
            warm, rates = rates, []
            train(tiny_config(tiny, tmp_path / f"cold {schedule}", **settings))
            cold, rates = rates, []
        factors = [min(1.0, (k + 1) / 8) for k in range(20)]
        assert warm == pytest.approx([r * f for r, f in zip(cold, factors, strict=True)], rel=1e-12)


@pytest.mark.parametrize("schedule", [None, "cosine", "plateau"])
def test_a_run_stopped_inside_its_warm_up_ends_bit_identical(tiny, tmp_path, monkeypatch, schedule):
    settings = {"lr_schedule": schedule, "warmup_steps": 12, "epochs": 4}
    train(tiny_config(tiny, tmp_path / "whole", **settings))
    config = tiny_config(tiny, tmp_path / "stopped", **settings)
    for steps in (3, 4, 6):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            assert train(config).outcome == "stopped by SIGINT"
    assert train(config).finished
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_checkpoint_from_before_warm_up_timings_and_first_loss_resumes(tiny, finished, run):
    path = run / "checkpoint_epoch_2.pt"
    content = load_checkpoint(path)
    for name in ("warmup_state_dict", "timings", "seconds", "first_loss"):
        del content[name]
    for name in ("warmup_steps", "max_restarts"):
        del content["config"][name]
    store.write_sealed(path, content | {"format": 1})
    with pytest.raises(SettingsChanged, match="warmup_steps=0, this run asks for 5"):
        train(tiny_config(tiny, run, warmup_steps=5), str(path))
    train(tiny_config(tiny, run), str(path))
    ours, theirs = (load_checkpoint(each / "checkpoint_epoch_3.pt") for each in (run, finished))
    assert identical(ours["model_state_dict"], theirs["model_state_dict"])
    assert identical(ours["optimizer_state_dict"], theirs["optimizer_state_dict"])
    assert ours["history"] == theirs["history"]


@pytest.mark.parametrize(("threads", "schedule"), [(1, None), (2, None), (1, "plateau")])
@pytest.mark.parametrize("parts", [(3, 6), (2, 4, 6)])
def test_a_run_resumed_between_epochs_ends_bit_identical(tiny, tmp_path, parts, threads, schedule):
    settings = {"lr_schedule": schedule, "checkpoint_every_seconds": 0, "num_threads": threads}
    train(tiny_config(tiny, tmp_path / "whole", epochs=6, **settings))
    for epochs in parts:
        train(tiny_config(tiny, tmp_path / "parts", epochs=epochs, **settings))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_stopped_seven_times_inside_epochs_ends_bit_identical(
    tiny, tmp_path, monkeypatch, threads
):
    train(tiny_config(tiny, tmp_path / "whole", epochs=6, num_threads=threads))
    config = tiny_config(tiny, tmp_path / "stopped", epochs=6, num_threads=threads)
    for steps in (1, 3, 4, 2, 6, 5, 1):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            assert train(config).outcome == "stopped by SIGINT"
    assert train(config).finished
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_cosine_schedule_resumes_bit_identical_and_counts_epochs_among_what_is_computed(
    tiny, tmp_path, monkeypatch
):
    config = tiny_config(tiny, tmp_path / "whole", lr_schedule="cosine")
    train(config)
    stopped = dataclasses.replace(config, output_dir=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        train(stopped)
    with pytest.raises(SettingsChanged, match="epochs=3, this run asks for 4"):
        train(dataclasses.replace(stopped, epochs=4))
    train(stopped)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert train(config).epochs[2]["learning_rate"] < 0.3e-3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_commits_and_stops_and_gives_the_handlers_back(tiny, tmp_path, monkeypatch, number):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    config = tiny_config(tiny, tmp_path / "run")
    stop_after(monkeypatch, 7, number)
    history = train(config)
    assert history.outcome == f"stopped by {number.name}" and len(history.epochs) == 1
    assert list_checkpoints(tmp_path / "run")[-1].path.name == "checkpoint_epoch_2_step_2.pt"
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_second_signal_during_the_commit_does_not_tear_it(tiny, tmp_path, monkeypatch):
    config = tiny_config(tiny, tmp_path / "run")
    stop_after(monkeypatch, 7)
    fsync = os.fsync

    def interrupted(descriptor):
        if isinstance(signal.getsignal(signal.SIGINT), training.StopRequest):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        assert train(config).outcome.startswith("stopped by")
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
    commit = training.commit

    def watched(state):
        content = commit(state)
        seen.append({c.path.name for c in list_checkpoints(state.config.output_path)})
        return content

    monkeypatch.setattr(training, "commit", watched)
    train(tiny_config(tiny, tmp_path / "run", epochs=1, checkpoint_every_seconds=0))
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
    assert "the run is finished: nothing to do. Raise epochs (now 3) to go on" in capsys.readouterr().out


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
    store.write_sealed(
        run / "checkpoint_epoch_2.pt", content | {"best": {"epoch": 1, "validation_loss": 0.0}}
    )
    assert train(tiny_config(tiny, run)).finished
    said = capsys.readouterr().out
    assert "best_model.pt is not of epoch 1 and cannot be made again: " in said
    assert "checkpoint_epoch_1.pt is damaged" in said


def test_a_path_to_an_earlier_epoch_sets_later_commits_aside(tiny, finished, run, capsys):
    config = tiny_config(tiny, run)
    history = train(config, str(run / "checkpoint_epoch_1.pt"))
    aside = {path.name for path in (run / "superseded").iterdir()}
    assert {"checkpoint_epoch_2.pt", "checkpoint_epoch_3.pt", "best_model.pt"} <= aside
    assert {"final_model.pt", "training_history.json"} <= aside
    assert "set aside in" in capsys.readouterr().out
    assert history.resumed_at == (1, 0) and len(history.epochs) == 3
    assert_same_run(finished, run)
    train(config, str(run / "checkpoint_epoch_1.pt"))
    assert (run / "superseded" / "checkpoint_epoch_3.2.pt").is_file()


def test_resume_none_sets_a_whole_run_aside_and_starts_afresh(tiny, finished, run):
    history = train(tiny_config(tiny, run, epochs=1), None)
    assert history.resumed_at is None and len(history.epochs) == 1
    assert (run / "superseded" / "checkpoint_epoch_3.pt").is_file()
    assert [c.path.name for c in list_checkpoints(run)] == ["checkpoint_epoch_1.pt"]


def test_a_missing_or_damaged_path_is_an_error_and_never_a_fresh_start(tiny, run):
    before = files(run)
    config = tiny_config(tiny, run, epochs=5)
    with pytest.raises(FileNotFoundError, match=r"checkpoint_epoch_9\.pt: no such file"):
        train(config, str(run / "checkpoint_epoch_9.pt"))
    damaged = run / "checkpoint_epoch_2.pt"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    before = files(run)
    with pytest.raises(DamagedCheckpoint, match=r"checkpoint_epoch_2\.pt is damaged"):
        train(config, str(damaged))
    assert files(run) == before


def test_a_path_outside_the_output_directory_is_refused_with_the_way_out(tiny, finished, run):
    with pytest.raises(CheckpointError, match=r"is no checkpoint of .*set start_from"):
        train(tiny_config(tiny, run), str(finished / "checkpoint_epoch_1.pt"))


def test_auto_passes_over_damaged_checkpoints_names_them_and_ends_identical(tiny, finished, run, capsys):
    for epoch, damage in ((3, b""), (2, b"not a checkpoint at all")):
        (run / f"checkpoint_epoch_{epoch}.pt").write_bytes(damage)
    history = train(tiny_config(tiny, run))
    said = capsys.readouterr().out
    assert history.resumed_at == (1, 0)
    assert "checkpoint_epoch_3.pt is damaged: it holds no bytes" in said
    assert "checkpoint_epoch_2.pt is damaged: it is cut short, or treelstm did not write it" in said
    assert (run / "damaged" / "checkpoint_epoch_3.pt").is_file()
    assert_same_run(finished, run)


def test_auto_with_only_damaged_checkpoints_stops_instead_of_burying_the_run(tiny, run):
    for checkpoint in list_checkpoints(run):
        checkpoint.path.write_bytes(b"")
    before = files(run)
    with pytest.raises(NoUsableCheckpoint, match=r"3 checkpoint\(s\), none of them whole"):
        train(tiny_config(tiny, run))
    assert files(run) == before


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("seed", 1, "seed=42, this run asks for 1"),
        ("batch_size", 8, "batch_size=16, this run asks for 8"),
        ("embedding_dim", 9, "embedding_dim=8, this run asks for 9"),
        ("hidden_dim", 13, "hidden_dim=12, this run asks for 13"),
        ("output_dim", 7, "output_dim=6, this run asks for 7"),
        ("margin", 2.0, r"margin=1\.0, this run asks for 2\.0"),
        ("learning_rate", 0.01, r"learning_rate=0\.001, this run asks for 0\.01"),
        ("dropout", 0.2, r"dropout=0\.1, this run asks for 0\.2"),
        ("warmup_steps", 10, "warmup_steps=0, this run asks for 10"),
        ("precision", "bfloat16", "precision='float32', this run asks for 'bfloat16'"),
        ("lr_schedule", "plateau", "lr_schedule=None, this run asks for 'plateau'"),
        ("ignored_keys", ("nombro",), r"ignored_keys=\['plena_vorto'"),
        ("num_threads", 7, r"num_threads=\d, this run asks for 7"),
    ],
)
def test_a_setting_that_changes_what_is_computed_is_refused_with_both_values(
    tiny, run, setting, value, message
):
    before = files(run)
    with pytest.raises(SettingsChanged, match=rf"(?s){message}.*choose a new output_dir"):
        train(tiny_config(tiny, run, epochs=5, **{setting: value}))
    assert files(run) == before


def test_changed_data_is_refused_and_says_which_file(tiny, run, tmp_path):
    data = copy(tiny, tmp_path / "data")
    path = data / "training" / "negative_pairs.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines()[0] + b"\n")
    with pytest.raises(
        SettingsChanged, match=r"training/negative_pairs\.jsonl with SHA-256 \w{12}, the file"
    ):
        train(tiny_config(data, run, epochs=5))


def test_how_long_and_how_it_is_watched_may_change_on_resume(tiny, run):
    settings = {"checkpoint_every_seconds": 5, "patience": 40, "keep": 2, "epochs": 4}
    assert train(tiny_config(tiny, run, **settings)).finished


def test_moved_data_and_a_moved_run_resume(tiny, finished, tmp_path):
    data = copy(tiny, tmp_path / "elsewhere")
    moved = copy(finished, tmp_path / "moved")
    assert train(tiny_config(data, moved, epochs=4)).resumed_at == (3, 0)


# --- ending, keeping, starting from weights -----------------------------------------------------


def test_patience_ends_a_run_early_and_more_patience_goes_on(tiny, tmp_path):
    settings = {"learning_rate": 1e-9, "epochs": 9, "dropout": 0.0}
    config = tiny_config(tiny, tmp_path / "run", patience=2, **settings)
    step = training.finish_epoch

    def worse(state):  # the validation loss of a run that learns nothing, rising
        record = step(state)
        record["validation_loss"] += record["epoch"]
        state.best = {"epoch": 1, "validation_loss": 0.0}
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "finish_epoch", worse)
        assert train(config).outcome == "finished early"
        assert list_checkpoints(tmp_path / "run")[-1].epoch == 3
        assert train(config).outcome == "finished early"
        assert len(train(dataclasses.replace(config, patience=3)).epochs) == 4
    assert (tmp_path / "run" / "final_model.pt").is_file()


def test_keep_leaves_the_last_ones_and_the_best(tiny, tmp_path):
    history = train(tiny_config(tiny, tmp_path / "run", epochs=6, keep=2, learning_rate=0.01))
    kept = {c.epoch for c in list_checkpoints(tmp_path / "run")}
    assert kept == {5, 6, history.best["epoch"]}


def test_keep_does_not_remove_the_only_good_commit_when_the_disk_damages_the_newest(
    tiny, tmp_path, monkeypatch, capsys
):
    """From epoch 3 on, what is written is not what lands on the disk."""
    write = store.write_sealed

    def damaging(path, content):
        write(path, content)
        if path.name in ("checkpoint_epoch_3.pt", "checkpoint_epoch_4.pt"):
            path.write_bytes(path.read_bytes()[:-1] + b"x")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_sealed", damaging)
        train(tiny_config(tiny, tmp_path / "run", epochs=4, keep=1, learning_rate=0.01))
    assert "no older checkpoint is removed: " in capsys.readouterr().out
    history = train(tiny_config(tiny, tmp_path / "run", epochs=6, keep=1, learning_rate=0.01))
    assert history.resumed_at == (2, 0) and history.finished
    assert {c.epoch for c in list_checkpoints(tmp_path / "run")} == {6, history.best["epoch"]}


def test_a_new_run_may_start_from_the_weights_of_another(tiny, finished, tmp_path):
    source = finished / "checkpoint_epoch_2.pt"
    config = tiny_config(tiny, tmp_path / "new", epochs=1, start_from=str(source), learning_rate=1e-12)
    train(config)
    ours = load_encoder(tmp_path / "new" / "final_model.pt")
    theirs = load_encoder(source)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=1e-9)
    gone = dataclasses.replace(config, epochs=2, start_from=str(tmp_path / "gone.pt"))
    assert train(gone).resumed_at == (1, 0)
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such file"):
        train(dataclasses.replace(gone, output_dir=str(tmp_path / "newer")))


def test_a_vocabulary_that_it_started_from_stays_with_the_run(tiny, finished, tmp_path):
    data = copy(tiny, tmp_path / "data")
    lines = (data / "training" / "positive_pairs.jsonl").read_text().splitlines(True)
    (data / "training" / "positive_pairs.jsonl").write_text("".join(lines[:-4]))
    source = finished / "final_model.pt"
    config = tiny_config(data, tmp_path / "new", epochs=1, start_from=str(source))
    train(config)
    resumed = dataclasses.replace(config, epochs=2, start_from=None)
    assert train(resumed).resumed_at == (1, 0)
    symbols = load_encoder(source).vocabulary.symbols
    assert load_encoder(tmp_path / "new" / "final_model.pt").vocabulary.symbols == symbols


def test_a_commit_from_before_a_setting_existed_resumes_with_its_default(tiny, finished, run):
    for path in run.glob("*.pt"):
        content = store.read_sealed(path)
        del content["config"]["precision"]
        store.write_sealed(path, content)
    (run / "checkpoint_epoch_3.pt").unlink()
    train(tiny_config(tiny, run))
    assert_same_run(finished, run)
    with pytest.raises(SettingsChanged, match="precision='float32', this run asks for 'bfloat16'"):
        train(tiny_config(tiny, run, precision="bfloat16"))
    assert load_encoder(run / "best_model.pt").precision == "float32"


def test_another_version_of_torch_or_of_the_kernel_is_allowed_and_said(tiny, run, capsys):
    path = run / "checkpoint_epoch_3.pt"
    content = load_checkpoint(path)
    versions = content["versions"] | {"torch": "2.0.0"}
    del versions["treelstm's arithmetic"]  # a commit from before it was counted
    store.write_sealed(path, content | {"versions": versions})
    assert train(tiny_config(tiny, run, epochs=4)).finished
    said = capsys.readouterr().out
    assert "torch was 2.0.0, is " in said and "treelstm's arithmetic was 1, is 2 now" in said
    assert train(tiny_config(tiny, run, epochs=5)).finished
    assert "now: allowed" not in capsys.readouterr().out


def test_starting_from_weights_of_another_size_is_refused(tiny, finished, tmp_path):
    config = tiny_config(
        tiny, tmp_path / "new", hidden_dim=20, start_from=str(finished / "best_model.pt")
    )
    with pytest.raises(SettingsChanged, match=r"= \(8, 12, 6\), this run asks for \(8, 20, 6\)"):
        train(config)


# --- watching ----------------------------------------------------------------------------------


def test_a_headless_run_writes_plain_lines_with_an_eta_and_no_bar(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("treelstm.progress._SECONDS_BETWEEN_LINES", 0.0)
    train(tiny_config(tiny, tmp_path / "run"))
    out, err = capsys.readouterr()
    assert "\r" not in out + err
    assert "epoch 2/3  train 0." in out
    assert re.search(r"epoch 3/3  train 0\.\d{4} \| [\d,]+ pairs/s, 0 s left, \d\.\d\d GB", out)
    log = (tmp_path / "run" / "training.log").read_text()
    assert all(line[:4].isdigit() for line in log.splitlines())
    assert out.splitlines() == [line.split("  ", 1)[1] for line in log.splitlines()]


def test_a_watched_run_leaves_its_lines_in_the_log_and_not_beside_the_bar(
    tiny, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("treelstm.progress._SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("treelstm.progress.watched", lambda: True)
    train(tiny_config(tiny, tmp_path / "run"))
    line = re.compile(r"epoch 2/3  train 0\.\d{4} \| .* left, .* GB")
    assert line.search((tmp_path / "run" / "training.log").read_text())
    assert not line.search(capsys.readouterr().out)


def test_logs_rotate_and_the_status_is_right_just_after(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("treelstm.progress._LOG_BYTES", 700)
    config = tiny_config(tiny, tmp_path / "run", epochs=20)
    stop_after(monkeypatch, 70)
    train(config)
    names = sorted(path.name for path in (tmp_path / "run").glob("training.log*"))
    assert names == ["training.log", "training.log.1", "training.log.2", "training.log.3"]
    assert all((tmp_path / "run" / name).stat().st_size <= 700 for name in names)
    (tmp_path / "run" / "training.log").replace(tmp_path / "run" / "training.log.1")
    status = store.run_status(tmp_path / "run")
    assert "stopped by SIGINT" in status.last_words and "stopped by SIGINT; newest" in str(status)


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
