from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from conftest import tiny_config
from runs import copy, files

from treelstm import load_checkpoint, load_encoder, train
from treelstm.run import training
from treelstm.run.state import SettingsChanged, versions
from treelstm.sealed import write_sealed


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


def test_another_version_of_torch_or_of_the_kernel_is_allowed_and_said(tiny, run, capsys):
    path = run / "checkpoint_epoch_3.pt"
    content = load_checkpoint(path)
    versions = content["versions"] | {"torch": "2.0.0", "treelstm's arithmetic": "1"}
    write_sealed(path, content | {"versions": versions})
    assert train(tiny_config(tiny, run, epochs=4)).finished
    said = capsys.readouterr().out
    assert "torch was 2.0.0, is " in said and "treelstm's arithmetic was 1, is 2 now" in said
    assert train(tiny_config(tiny, run, epochs=5)).finished
    assert "now: allowed" not in capsys.readouterr().out


def test_another_gpu_is_said_when_a_run_goes_on(tiny, run, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    gpu = versions(torch.device("cuda:1"))
    assert (gpu["GPU"], gpu["CUDA"]) == ("GPU of cuda:1", "13.0")
    assert gpu.keys() - versions(torch.device("cpu")).keys() == {"GPU", "CUDA"}
    path = run / "checkpoint_epoch_3.pt"
    content = load_checkpoint(path)
    was = {**content["versions"], "GPU": "an older one", "CUDA": "12.8"}
    write_sealed(path, content | {"versions": was})
    monkeypatch.setattr(training, "versions", lambda device: gpu)
    assert train(tiny_config(tiny, run, epochs=4)).finished
    said = capsys.readouterr().out
    assert "GPU was an older one, is GPU of cuda:1 now: allowed, but the result may differ" in said
    assert "CUDA was 12.8, is 13.0 now" in said and said.count("now: allowed") == 2


def test_starting_from_weights_of_another_size_is_refused(tiny, finished, tmp_path):
    config = tiny_config(
        tiny, tmp_path / "new", hidden_dim=20, start_from=str(finished / "best_model.pt")
    )
    with pytest.raises(SettingsChanged, match=r"has hidden_dim=12, this run asks for hidden_dim=20"):
        train(config)


def test_a_forgotten_validation_dir_is_named_as_the_setting_that_it_is(tiny, run):
    config = dataclasses.replace(tiny_config(tiny, run, epochs=5), validation_dir=None)
    with pytest.raises(
        SettingsChanged, match=r"validation_dir='.*/validation', this run asks for None"
    ) as e:
        train(config)
    assert "SHA-256" not in str(e.value)


def test_what_else_decides_bits_is_recorded_and_said_where_it_differs(tiny, run):
    config = tiny_config(tiny, run, epochs=4)
    recorded = load_checkpoint(run / "checkpoint_epoch_3.pt")["versions"]
    assert recorded["torch's CPU capability"] == torch.backends.cpu.get_cpu_capability()
    words = [sys.executable, "-m", "treelstm", "train", *config.flags()]
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    said = [line for line in done.stdout.splitlines() if "allowed, but the result may differ" in line]
    was = recorded["MKL and oneDNN in the environment"]
    assert f"torch's CPU capability was {torch.backends.cpu.get_cpu_capability()}, is " in said[0]
    assert f"environment was {was}, is ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE now" in said[1]


def test_nothing_is_said_of_what_an_earlier_version_did_not_record(tiny, run, capsys):
    path = run / "checkpoint_epoch_3.pt"
    content = load_checkpoint(path)
    known = ("python", "torch", "treelstm's arithmetic")
    write_sealed(path, content | {"versions": {name: content["versions"][name] for name in known}})
    assert train(tiny_config(tiny, run, epochs=4)).finished
    assert "allowed, but the result may differ" not in capsys.readouterr().out
