from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_config
from safetensors.torch import load_file

from treelstm import (
    evaluate,
    export_encoder,
    import_encoder,
    load_checkpoint,
    load_corpus,
    load_encoder,
    load_pairs,
    train,
)
from treelstm.config import ConfigError, EncoderSettings
from treelstm.model.encoder import TreeEncoder
from treelstm.sealed import CheckpointError, DamagedCheckpoint, write_sealed

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
    with pytest.raises(CheckpointError, match=r"json has format 4, this .* reads 2 and 3\. A newer one"):
        import_encoder(exported)
    settings.write_text(good.replace('"format": 3,', ""))
    with pytest.raises(CheckpointError, match="has format none, this version of treelstm reads 2 and 3"):
        import_encoder(exported)
    settings.write_text("[]")
    with pytest.raises(CheckpointError, match=r"encoder\.json has format none"):
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


# --- files of newer versions ---------------------------------------------------------------------


def test_an_export_with_a_setting_that_this_version_does_not_know_is_refused_by_name(exported):
    path = exported / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"heads": 4}))
    with pytest.raises(CheckpointError, match=r"encoder\.json has the setting\(s\) heads, which this"):
        import_encoder(exported)


def test_a_commit_of_a_newer_version_is_never_passed_over_as_damaged(model, tiny, tmp_path):
    """Else an older version would resume from an older commit, and set the newer one aside."""
    run = shutil.copytree(model.parent, tmp_path / "run")
    config = tiny_config(tiny, run, epochs=2)
    train(config)
    newest = run / "checkpoint_epoch_2.pt"
    content = load_checkpoint(newest)
    write_sealed(newest, {**content, "config": {**content["config"], "heads": 4}})
    before = sorted(path.name for path in run.iterdir())
    for look in (load_encoder, load_checkpoint):
        with pytest.raises(CheckpointError, match=r"_2\.pt has the setting\(s\) heads.*update treelstm"):
            look(newest)
    with pytest.raises(CheckpointError, match="has the setting") as refused:
        train(dataclasses.replace(config, epochs=3))
    assert not isinstance(refused.value, DamagedCheckpoint)
    assert sorted(path.name for path in run.iterdir()) == before


# --- the card ------------------------------------------------------------------------------------


def test_the_card_counts_the_data_and_measures_with_intervals(model, exported):
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: treelstm\n") and "treelstm.import_encoder" in card
    encoder = load_encoder(model)
    pairs = load_corpus(encoder.origin.config).validation
    found = evaluate(encoder, pairs)
    assert re.search(rf"^- ROC-AUC: {found.roc_auc:.3f} \[[\d.]+, [\d.]+\]$", card, re.MULTILINE)
    assert (
        "- training: `" in card and f", {len(pairs):,} pairs, {int(pairs.label.sum())} similar" in card
    )
    assert f"digest of their content `{pairs.content_digest}`" in card
    assert "- hidden_dim: `12`" in card and "- margin" not in card  # which is the default
    assert f"- torch: `{torch.__version__}`" in card
    assert f"threshold {encoder.threshold:.4g}, calibrated" in card
    assert "plena_vorto" in card and "nor the order of siblings" in card


def test_the_card_says_what_is_not_known_once_data_or_run_have_moved(tiny, tmp_path):
    data = shutil.copytree(tiny, tmp_path / "da`ta")
    run = tmp_path / "run"
    history = train(tiny_config(data, run, epochs=1))
    encoder = load_encoder(run / "best_model.pt")
    positive = data / "validation" / "positive_pairs.jsonl"
    lines = positive.read_text().splitlines(True)

    def card(encoder: TreeEncoder = encoder) -> str:
        export_encoder(encoder, tmp_path / "out")
        return (tmp_path / "out" / "README.md").read_text()

    assert "with 95% intervals" in card() and "'" in card() and "`da`ta" not in card()
    positive.write_text("".join(lines[1:]))
    load_pairs(data / "validation")  # compiled again
    text = card()
    assert "the pairs that lie there now are not those of the run" in text
    assert f"- ROC-AUC: {history.epochs[0]['validation_roc_auc']:.4f}\n" in text
    assert "without intervals" in text and "digest of their content `not known`" not in text
    shutil.rmtree(data)
    assert "no such directory" in card() and "without intervals" in card()
    for path in run.glob("checkpoint_*"):
        path.unlink()
    assert "digest of their content `not known`" in card()
    assert "Quality on unseen pairs\n\n- not known" in card()
    shutil.rmtree(run)
    assert "not known" in card()
    again = import_encoder(tmp_path / "out")
    assert "the encoder does not come from a run's file" in card(again)
    (tmp_path / "out" / "README.md").write_text("anything")
    assert torch.equal(import_encoder(tmp_path / "out").encode([AST]), encoder.encode([AST]))


def test_the_card_of_another_objective_has_its_numbers(tiny, tmp_path):
    train(tiny_config(tiny, tmp_path / "run", epochs=1, objective="ranking"))
    export_encoder(load_encoder(tmp_path / "run" / "final_model.pt"), tmp_path / "out")
    assert "- objective: `ranking`" in (tmp_path / "out" / "README.md").read_text()
