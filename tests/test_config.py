from __future__ import annotations

import dataclasses

import pytest

from treelstm import Config
from treelstm.commands import _parser, _value
from treelstm.config import Comparison, ConfigError, project_root


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"epochs": 2.5}, "epochs is 2.5, expected int"),
        ({"epochs": "many"}, "epochs is 'many', expected int"),
        ({"epochs": True}, "epochs is True, expected int"),
        ({"batch_size": -1}, "batch_size is -1, expected at least 1"),
        ({"learning_rate": 0}, "learning_rate is 0.0, expected more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, expected more than 0"),
        ({"dropout": 1.0}, "dropout is 1.0, expected at least 0 and under 1"),
        ({"resume": "last"}, "resume is 'last', expected \"auto\""),
        ({"lr_schedule": "linear"}, "lr_schedule is 'linear', expected \"cosine\""),
        ({"data_dir": " "}, "data_dir is ' ', expected a path"),
        ({"device": "tpu"}, "device is 'tpu', expected"),
        ({"keep": 0}, "keep is 0, expected"),
        ({"ignored_keys": [1]}, r"ignored_keys is \[1\], expected tuple"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_expected(settings, message):
    with pytest.raises(ConfigError, match=message):
        Config(**settings)


def test_defaults_are_the_contract():
    config = Config()
    assert config.data_dir == "data/training_pairs" and config.output_dir == "models/tree_lstm"
    assert (config.epochs, config.batch_size, config.learning_rate) == (50, 16, 1e-3)
    assert (config.embedding_dim, config.hidden_dim, config.output_dim) == (128, 256, 512)
    assert (config.margin, config.dropout, config.seed) == (1.0, 0.1, 42)
    assert config.resume == "auto" and config.checkpoint == "best" and config.keep == "all"
    assert config.checkpoint_every_seconds == 60 and config.validation_fraction == 0.1


def test_whole_numbers_and_lists_are_taken_where_floats_and_tuples_are_meant():
    config = Config(margin=2, ignored_keys=["a", "b"])
    assert config.margin == 2.0 and isinstance(config.margin, float)
    assert config.ignored_keys == ("a", "b")
    assert Config(label_keys="a, b").label_keys == Config(label_keys=["a", "b"]).label_keys == ("a", "b")


def test_an_unknown_name_is_refused_by_name():
    message = r"epoch: no such setting\. Did you mean epochs\? The settings are accept_weak_disk"
    for refused in (
        lambda: Config.from_parameters({"epoch": 3}),
        lambda: Config(epoch=3),
        lambda: dataclasses.replace(Config(), epoch=3),
    ):
        with pytest.raises(ConfigError, match=message):
            refused()
    with pytest.raises(ConfigError, match=r"learning_rat: .*Did you mean learning_rate"):
        Config(learning_rat=0.1)
    with pytest.raises(ConfigError, match=r"zzz: no such setting\. The settings are"):
        Config(zzz=0)


def test_relative_paths_start_at_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Config().data_path == project_root() / "data" / "training_pairs"
    assert (project_root() / "pyproject.toml").is_file()


def test_none_means_as_in_the_run_where_a_setting_cannot_be_none():
    cells = ["# Parameters of this run\nepochs = None\npatience = None\nvalidation_dir = None"]
    given = {"In": ["", *cells], "epochs": None, "patience": None, "validation_dir": None}
    config = Config.from_notebook(given, {"epochs": 300, "patience": 4, "validation_dir": "v"})
    assert (config.epochs, config.patience, config.validation_dir) == (300, None, None)
    with pytest.raises(ConfigError, match="epochs is None, expected int"):
        Config.from_notebook(given)  # without a run, there is nothing that it could mean


def test_flags_are_the_settings_that_differ_and_the_command_line_reads_them_back():
    assert Config().flags() == []
    assert Config(checkpoint="x.pt").flags() == []  # of the evaluation
    config = Config(epochs=3, ignored_keys=["a", "b"], ignore_preflight=True, validation_dir="/v w")
    words = ["--ignored-keys", "a", "b", "--validation-dir", "/v w", "--epochs", "3"]
    words.append("--ignore-preflight")
    assert config.flags() == words
    options = vars(_parser().parse_args(["train", *words]))
    for name in ("command", "run", "flags"):
        del options[name]
    assert Config.from_parameters({name: _value(name, text) for name, text in options.items()}) == config


def test_one_name_of_a_run_may_hold_commas():
    """The trials of a sweep are called so; several names are a list."""
    one = Comparison(runs="hidden_dim=64,seed=43")
    assert one.runs == ("hidden_dim=64,seed=43",)
    assert Comparison(runs=["a,b", "c"]).runs == ("a,b", "c") and Comparison().runs is None
