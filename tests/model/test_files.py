from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_config
from safetensors.torch import load_file

from treelstm import export_encoder, import_encoder, load_encoder, train
from treelstm.config import ConfigError, EncoderSettings
from treelstm.sealed import CheckpointError, DamagedCheckpoint

AST = {"tipo": "frazo", "verbo": {"radiko": "vid"}}


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("exported") / "run"
    train(tiny_config(tiny, run, epochs=1))
    return run / "best_model.pt"


@pytest.fixture
def exported(model: Path, tmp_path: Path) -> Path:
    export_encoder(load_encoder(model), tmp_path / "out")
    return tmp_path / "out"


def test_what_is_exported_comes_back_byte_for_byte(model, exported, tmp_path):
    encoder, back = load_encoder(model), import_encoder(exported)
    assert torch.equal(encoder.encode([AST]), back.encode([AST]))
    assert back.threshold == encoder.threshold and back.settings == encoder.settings
    export_encoder(back, tmp_path / "again")
    for name in ("encoder.safetensors", "encoder.json"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_setting_of_an_encoder_survives_each_kind_of_file(tiny, tmp_path, precision):
    """Whatever an encoder is: one that comes back with another setting gives other encodings."""
    settings = {"precision": precision, "ignored_keys": ["tempo", "kazo"], "seed": 3, "epochs": 1}
    train(tiny_config(tiny, tmp_path / "run", **settings))
    encoder = load_encoder(tmp_path / "run" / "final_model.pt")
    export_encoder(encoder, tmp_path / "out")
    others = [load_encoder(tmp_path / "run" / "checkpoint_epoch_1.pt"), import_encoder(tmp_path / "out")]
    for other in others:
        for setting in dataclasses.fields(EncoderSettings):
            assert getattr(other.settings, setting.name) == getattr(encoder.settings, setting.name)
        assert torch.equal(other.encode([AST]), encoder.encode([AST]))
    assert encoder.settings.precision == precision and encoder.settings.ignored_keys == ("tempo", "kazo")


def test_an_encoder_goes_to_the_device_of_a_setting_and_says_where_there_is_none(model, exported):
    for load in (lambda device: load_encoder(model, device), lambda d: import_encoder(exported, d)):
        expected = "cuda" if torch.cuda.is_available() else "cpu"
        assert load("auto").embedding.device.type == expected
        with pytest.raises(ConfigError, match=r'device is "cuda:99", but torch sees .* GPU'):
            load("cuda:99")


def test_other_tools_read_the_weights_and_the_settings(model, exported):
    weights = load_file(exported / "encoder.safetensors")
    assert set(weights) == set(load_encoder(model).state_dict())
    settings = json.loads((exported / "encoder.json").read_text())
    assert settings["hidden_dim"] == 12 and "radiko=?" in settings["vocabulary"]


def test_an_encoder_is_used_from_another_directory_and_process(model, exported, tmp_path):
    code = (
        "import sys, treelstm; ast = {'tipo': 'frazo', 'verbo': {'radiko': 'vid'}}\n"
        "for e in (treelstm.load_encoder(sys.argv[1]), treelstm.import_encoder(sys.argv[2])):\n"
        "    print(e.encode([ast]).double().sum().item())"
    )
    command = [sys.executable, "-c", code, str(model), str(exported)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = load_encoder(model).encode([AST]).double().sum().item()
    assert [float(line) for line in done.stdout.split()] == [expected, expected]


def test_damage_and_mismatch_are_named(exported):
    weights, settings = exported / "encoder.safetensors", exported / "encoder.json"
    good = settings.read_text()
    settings.write_text(good.replace('"hidden_dim": 12', '"hidden_dim": 13'))
    found = r"input_weight is a float32 tensor of shape \[48, 8\], expected .* of shape \[52, 8\]"
    with pytest.raises(CheckpointError, match=found):
        import_encoder(exported)
    settings.write_text(good.replace('"format": 3', '"format": 4'))
    with pytest.raises(CheckpointError, match=r"is not an export of format 2 or 3, which this version"):
        import_encoder(exported)
    settings.write_text(good.replace('"format": 3,', ""))
    with pytest.raises(CheckpointError, match="is not an export of format 2 or 3"):
        import_encoder(exported)
    settings.write_text("[]")
    with pytest.raises(CheckpointError, match=r"encoder\.json is not an export of format 2 or 3"):
        import_encoder(exported)
    settings.write_text(json.dumps({k: v for k, v in json.loads(good).items() if k != "precision"}))
    with pytest.raises(DamagedCheckpoint, match="lacks a setting: 'precision'"):
        import_encoder(exported)
    settings.write_text(good)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedCheckpoint, match="is damaged"):
        import_encoder(exported)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"encoder\.safetensors: no such file"):
        import_encoder(exported)
