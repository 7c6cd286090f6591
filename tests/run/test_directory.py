from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections import Counter

import pytest
import torch
from conftest import tiny_config
from runs import copy, files, recorded_calls, through_kills

from treelstm import (
    find_latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_encoder,
    preflight,
    run_status,
    train,
)
from treelstm.errors import UserError
from treelstm.run.directory import SUPERSEDED, NoUsableCheckpoint, set_aside
from treelstm.sealed import CheckpointError, DamagedCheckpoint, write_sealed


def test_checkpoints_are_listed_by_position_not_by_name_or_time(tmp_path):
    names = [
        "checkpoint_epoch_2.pt",
        "checkpoint_epoch_10.pt",
        "checkpoint_epoch_3_step_2.pt",
        "checkpoint_epoch_3_step_10.pt",
        "checkpoint_epoch_1_step_7.pt",
        "checkpoint_epoch_3.pt",
    ]
    strangers = ["checkpoint_epoch_0.pt", "checkpoint_epoch_4.pt.bak", "my_checkpoint_epoch_5.pt"]
    for name in (*names, *strangers, "checkpoint_epoch_x.pt"):
        (tmp_path / name).touch()
    assert [c.path.name for c in list_checkpoints(tmp_path)] == [
        "checkpoint_epoch_1_step_7.pt",
        "checkpoint_epoch_2.pt",
        "checkpoint_epoch_3_step_2.pt",
        "checkpoint_epoch_3_step_10.pt",
        "checkpoint_epoch_3.pt",
        "checkpoint_epoch_10.pt",
    ]


def test_no_checkpoint_at_all_is_none(tmp_path):
    assert find_latest_checkpoint(tmp_path) is None
    assert find_latest_checkpoint(tmp_path / "nowhere") is None


def test_the_latest_is_the_newest_that_verifies(whole, tmp_path):
    for name in ("checkpoint_epoch_1.pt", "checkpoint_epoch_2.pt"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    newest = tmp_path / "checkpoint_epoch_2.pt"
    assert find_latest_checkpoint(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:1000])
    assert find_latest_checkpoint(tmp_path) == tmp_path / "checkpoint_epoch_1.pt"
    (tmp_path / "checkpoint_epoch_1.pt").write_bytes(b"")
    with pytest.raises(NoUsableCheckpoint, match=r"2 checkpoint\(s\), and all are damaged"):
        find_latest_checkpoint(tmp_path)


def test_a_model_file_is_not_a_checkpoint_of_a_run(whole):
    with pytest.raises(DamagedCheckpoint, match=r"holds an encoder, not the state .* start_from"):
        load_checkpoint(whole / "final_model.pt")


def test_a_checkpoint_under_another_epochs_name_is_refused(path):
    other = path.rename(path.with_name("checkpoint_epoch_7.pt"))
    with pytest.raises(DamagedCheckpoint, match=r"belongs under the name checkpoint_epoch_2\.pt"):
        load_checkpoint(other)


def test_weights_of_another_model_are_a_clear_error(path, tiny):
    content = load_checkpoint(path)
    content["model_state_dict"]["strange.weight"] = torch.zeros(2)
    write_sealed(path, content)
    message = r"holds the weights of another model \(Unexpected key.*strange\.weight.*Use the version"
    with pytest.raises(CheckpointError, match=message):
        load_encoder(path)
    with pytest.raises(CheckpointError, match=message):
        train(tiny_config(tiny, path.parent, epochs=3))


def test_an_encoder_is_the_same_from_its_checkpoint_and_from_the_final_model(whole):
    ast = {"tipo": "frazo", "verbo": {"radiko": "vid"}}
    final = load_encoder(whole / "final_model.pt")
    same = load_encoder(whole / "checkpoint_epoch_2.pt")
    assert torch.equal(final.encode([ast]), same.encode([ast]))
    assert final.threshold == same.threshold > 0
    assert (whole / "final_model.pt").stat().st_size < 0.5 * (
        whole / "checkpoint_epoch_2.pt"
    ).stat().st_size


def test_a_missing_encoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"best_model\.pt: no such file"):
        load_encoder(tmp_path / "best_model.pt")


def test_superseded_names_never_collide(tmp_path):
    for expected in ("a.pt", "a.2.pt", "a.3.pt"):
        (tmp_path / "a.pt").write_text(expected)
        set_aside([tmp_path / "a.pt"], SUPERSEDED)
        assert (tmp_path / SUPERSEDED / expected).read_text() == expected


def test_history_in_the_json_file_is_the_commits(whole):
    history = json.loads((whole / "training_history.json").read_text())
    assert history == load_checkpoint(whole / "checkpoint_epoch_2.pt")["history"]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_whatever_cannot_be_read_at_the_start_auto_resumes_the_newest_commit_or_changes_nothing(
    tiny, finished, tmp_path
):
    base = tmp_path / "runs"
    config = tiny_config(tiny, base, num_threads=1)

    def paths(run):
        names = ["", *(path.name for path in finished.glob("*.pt")), "training_history.json"]
        return [str(base / run / name).rstrip("/") for name in names]

    copy(finished, base / "record")
    counts = recorded_calls(config, tmp_path, run="record", paths=paths("record"))
    assert counts["getdents64"] >= 2 and counts["openat"] >= 4 and counts["read"] >= 4
    lives = []
    for call, count in counts.items():
        errors = ["EIO", "ESTALE"] + (["EMFILE", "EACCES"] if call == "openat" else [])
        errors += (
            ["ENOENT"] if call in ("getdents64", "openat") else []
        )  # NFS; libc takes it for the end
        for nth in range(1, count + 1):
            for error in errors if call in ("getdents64", "openat") else [errors[nth % 2]]:
                run = f"{call}-{nth}-{error}"
                fault = f"{call}:error={error}:when={nth}"
                lives.append({"inject": fault, "run": run, "paths": paths(run)})
                copy(base / "record", base / run)
    before = {name: data for name, (data, _) in files(base / "record").items()}
    ends: Counter[str] = Counter()
    for life in through_kills(config, tmp_path, lives=lives):
        run = base / life["plan"]["run"]
        assert {name: data for name, (data, _) in files(run).items()} == before, life
        assert not (run / "superseded").exists() and not (run / "damaged").exists(), life
        assert life["code"] in (0, 1), life
        if life["code"] == 0:
            assert f"resuming {run}/checkpoint_epoch_3.pt: epoch 3" in life["output"], life
        ends["went on" if life["code"] == 0 else "error"] += 1
    assert ends["error"] >= 10


@pytest.mark.parametrize("resume", ["auto", "first"])
def test_a_checkpoint_that_vanished_between_two_listings_is_no_reason_to_start_over(
    tiny, run, monkeypatch, resume
):
    """The first listings (one is for leftovers) are empty: a server has lost and found the directory."""
    real, calls = os.listdir, []

    def once_empty(path):
        if str(path) != str(run):
            return real(path)
        calls.append(path)
        return [] if len(calls) <= (3 if resume == "auto" else 2) else real(path)

    before = files(run)
    chosen = "auto" if resume == "auto" else str(run / "checkpoint_epoch_1.pt")
    monkeypatch.setattr(os, "listdir", once_empty)
    with pytest.raises(CheckpointError, match=r"two listings|is not a checkpoint of"):
        train(tiny_config(tiny, run, resume=chosen))
    monkeypatch.undo()
    assert files(run) == before


@pytest.mark.parametrize("newest", ["a link to nowhere", "a link to itself", "a pipe", "a directory"])
def test_what_is_no_file_is_damaged_and_passed_over(tiny, run, newest):
    path = run / "checkpoint_epoch_3.pt"
    path.unlink()
    if newest == "a pipe":
        os.mkfifo(path)
    elif newest == "a directory":
        path.mkdir()
    else:
        path.symlink_to("gone.pt" if newest == "a link to nowhere" else path)
    assert find_latest_checkpoint(run) == run / "checkpoint_epoch_2.pt"
    with pytest.raises(DamagedCheckpoint, match=r"checkpoint_epoch_3\.pt is damaged: it is"):
        load_checkpoint(path)
    assert train(tiny_config(tiny, run)).resumed_at == (2, 0)
    assert os.path.lexists(run / "damaged" / "checkpoint_epoch_3.pt")


def test_what_is_set_aside_never_replaces_what_was_set_aside_before(tiny, run, monkeypatch):
    """Not even where the file system denies, in error, that there is anything."""
    (run / "superseded").mkdir()
    (run / "superseded" / "checkpoint_epoch_3.pt").write_text("of an earlier night")
    real = os.stat

    def stat(path, *args, **kwargs):
        if isinstance(path, str | os.PathLike) and "superseded" in os.fspath(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path, *args, **kwargs)

    paths = [run / "checkpoint_epoch_3.pt"]
    monkeypatch.setattr(os, "stat", stat)
    with contextlib.suppress(UserError, OSError):
        set_aside(paths, SUPERSEDED)
    monkeypatch.undo()
    assert (run / "superseded" / "checkpoint_epoch_3.pt").read_text() == "of an earlier night"
    assert len(list(run.rglob("checkpoint_epoch_3*.pt"))) == 2


def test_ten_thousand_checkpoints_and_a_log_with_wrong_bytes_cost_seconds(tiny, run):
    for number in range(10_000):
        os.link(run / "checkpoint_epoch_1.pt", run / f"checkpoint_epoch_1_step_{number + 9}.pt")
    with (run / "training.log").open("ab") as log:
        log.write(
            b"2026-01-01 00:00:00  \xff\xfe" + b"x" * 200_000 + b"\n2026-01-01 00:00:01  last \xff\n"
        )
    began = time.monotonic()
    assert run_status(run).last_line.startswith("2026-01-01 00:00:01  last")
    assert time.monotonic() - began < 10
    report = preflight(tiny_config(tiny, run, epochs=4, num_threads=1))
    found = " ".join(f.found for f in report.findings["Output directory"])
    assert "resumes from checkpoint_epoch_3.pt" in found
    assert train(tiny_config(tiny, run, epochs=4, num_threads=1)).resumed_at == (3, 0)
    assert time.monotonic() - began < 90
