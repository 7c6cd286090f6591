from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_config

from treelstm import find_latest_checkpoint, list_checkpoints, load_checkpoint, load_encoder, train
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
