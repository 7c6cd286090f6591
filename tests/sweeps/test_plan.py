"""What a sweep is to run: readable names, and every mistake refused by name before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from treelstm import Config, sweep
from treelstm.commands import main
from treelstm.config import ConfigError
from treelstm.sweeps.plan import make_plan


def names(**words: Any) -> list[str]:
    return [*make_plan(words.pop("settings", {}), **words).fixed]


def test_a_grid_is_all_combinations_with_readable_names():
    grid = {"hidden_dim": [128, 256], "learning_rate": [1e-3, 3e-4]}
    found = make_plan({"epochs": 7}, grid=grid, seeds=3)
    assert len(found.fixed) == 12
    config = found.fixed["hidden_dim=128,learning_rate=0.0003,seed=43"]
    assert (config.hidden_dim, config.learning_rate, config.seed, config.epochs) == (128, 3e-4, 43, 7)
    assert names(seeds=2, settings={"seed": 5}) == ["seed=5", "seed=6"]


def test_runs_are_named_by_the_plan_and_combined_with_the_rest():
    runs = {"bag alone": {"hidden_dim": 0}}
    with pytest.raises(ConfigError, match="letters, digits"):
        names(runs=runs)
    runs = {"bag_alone": {"hidden_dim": 0}, "tree": {"bag_of_symbols": False}}
    assert names(runs=runs, grid={"margin": [1, 2.5]}) == [
        "bag_alone,margin=1", "bag_alone,margin=2.5", "tree,margin=1", "tree,margin=2.5"
    ]  # fmt: skip


def test_settings_that_fit_only_together_are_accepted():
    assert names(settings={"margin": 0.5}, grid={"positive_margin": [0.1, 0.2]})
    words = {"search": {"positive_margin": "0:2"}, "trials": 3}
    assert make_plan({"margin": 3}, **words).trials == 3


def test_paths_and_lists_have_short_names():
    assert names(grid={"data_dir": ["/a/one", "/b/two"]}) == ["data_dir=one", "data_dir=two"]
    both = names(grid={"data_dir": ["/a/one", "/b/one"]})
    assert both == ["data_dir=_a_one", "data_dir=_b_one"]
    assert names(grid={"ignored_keys": [["a", "b"], "ud"]}) == ["ignored_keys=a+b", "ignored_keys=ud"]


@pytest.mark.parametrize(
    "words, says",
    [
        ({"grid": {"learning_rat": [1]}}, "learning_rat: no such setting. Did you mean learning_rate"),
        ({"settings": {"epoch": 3}, "seeds": 2}, "epoch: no such setting. Did you mean epochs"),
        ({"grid": {"learning_rate": ["fast"]}}, "learning_rate is 'fast', expected float"),
        ({"grid": {"hidden_dim": [12, 1.5]}}, "hidden_dim is 1.5, expected int"),
        ({"grid": {"hidden_dim": []}}, "expected a list of at least one value"),
        ({"grid": {"hidden_dim": 12}}, "expected a list"),
        ({"grid": {"objective": "graded"}}, "expected a list"),
        ({}, "no trials: give a grid"),
        ({"grid": {"dropout": [0.1, 0.1]}}, "dropout=0.1 and dropout=0.1 have the same settings"),
        ({"grid": {"margin": [1, 1.0]}}, "margin=1 and margin=1 have the same settings"),
        ({"grid": {"vectors_frozen": [True, True]}}, "the same settings"),
        ({"settings": {"margin": 2}, "grid": {"margin": [1, 2]}}, "margin is set twice"),
        ({"grid": {"seed": [1, 2]}, "seeds": 2}, "seed is set twice"),
        ({"runs": {"a": {"margin": 2}}, "grid": {"margin": [1, 2]}}, "margin is set twice"),
        ({"runs": {"a": {"margin": 2}, "A": {"margin": 3}}}, "a and A are one directory"),
        ({"runs": {"a": {"margin": 2}, "b": {"margin": 2.0}}}, "a and b have the same settings"),
        ({"runs": {"a": {"marginn": 2}}}, "run a: marginn: no such setting"),
        ({"runs": {".a": {}}}, "letters, digits"),
        ({"runs": {"x" * 201: {}}}, "too long"),
        ({"grid": {"output_dir": ["a"]}}, "cannot hold output_dir"),
        ({"settings": {"resume": None}, "seeds": 2}, "cannot hold resume"),
        ({"grid": {"max_hours": [1, 2]}}, "cannot hold max_hours. Each trial"),
        ({"grid": {"margin": [0.5, 2]}}, "trial margin=0.5: positive_margin is 0.75, margin 0.5"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": 2, "parallel": 0}, "parallel is 0"),
        ({"seeds": 2, "parallel": True}, "parallel is True"),
        ({"seeds": 2, "trials": 5}, "trials counts"),
        ({"seeds": 2, "prune": "mean"}, "prune is 'mean', expected median or hyperband"),
        ({"search": {"dropout": "0:0.5"}}, "set trials"),
        ({"search": {"dropout": "0:0.5"}, "trials": 0}, "trials is 0"),
        ({"search": {"dropout": "0:0.5"}, "trials": 3, "seeds": 2}, "cannot be combined"),
        ({"search": {"dropout": "0:0.5:log:1"}, "trials": 3}, "low:high:log"),
        ({"search": {"drop": "0:0.5"}, "trials": 3}, "drop: no such setting. Did you mean dropout"),
        ({"search": {"dropout": "0.5:0"}, "trials": 3}, "the lower end first"),
        ({"search": {"dropout": "0:0.5:log"}, "trials": 3}, "above 0 for log"),
        ({"search": {"dropout": "0:0.5:lin"}, "trials": 3}, "low:high:log"),
        ({"search": {"dropout": "0:2"}, "trials": 3}, "dropout is 2.0, expected"),
        ({"search": {"dropout": "a:b"}, "trials": 3}, "low:high"),
        ({"search": {"hidden_dim": "4:16.5"}, "trials": 3}, "low:high"),
        ({"search": {"objective": "1:2"}, "trials": 3}, "a setting that is a number"),
        ({"search": {"dropout": [0.1]}, "trials": 3}, "at least two"),
        ({"search": {"dropout": [0.1, 0.1]}, "trials": 3}, "none twice"),
        ({"search": {"ignored_keys": ["ud", "estree"]}, "trials": 3}, "only a grid can try"),
        ({"search": {"margin": "0.5:2"}, "trials": 3}, "positive_margin is 0.75"),
        ({"settings": {"dropout": 0.2}, "search": {"dropout": "0:0.5"}, "trials": 3}, "Keep one"),
        ({"grid": {"objective": ["contrastive", "ranking"]}, "prune": "median"}, "Set best_by"),
        ({"grid": {"best_by": ["train_loss", "validation_loss"]}, "prune": "median"}, "Set best_by"),
        (
            {
                "settings": {"best_by": "validation_loss"},
                "search": {"margin": "1:2"},
                "trials": 2,
            },
            "margin: with other values, validation_loss means something else",
        ),
        ({"settings": {"best_by": "loss"}, "seeds": 2, "prune": "median"}, "no such number"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(words, says):
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        make_plan(words.pop("settings", {}), **words)


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--grid", "learning_rat=1"], "Did you mean learning_rate"),
        (["--grid", "hidden_dim="], "at least one value"),
        (["--grid", "hidden_dim"], "name=value,value"),
        (["--grid", "margin=1", "--grid", "margin=2"], "each setting once"),
        (["--grid", "margin=1,2", "--margin", "2"], "margin is set twice"),
        (["--grid", "bag_of_symbols=true,maybe"], "bag_of_symbols is 'maybe', expected bool"),
        ([], "no trials"),
    ],
)
def test_the_command_refuses_with_status_2_and_makes_nothing(flags, says, tmp_path, capsys):
    assert main(["sweep", "--sweep-dir", str(tmp_path / "night"), *flags]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "night").exists()


@pytest.mark.parametrize(
    "text, says",
    [
        ("seeds = 2\nsettings = 3", "Expected `object`, got `int` - at `$.settings`"),
        ("seeds = '2'", "Expected `int | null`, got `str` - at `$.seeds`"),
        ("epochs = 2", "unknown field `epochs`. It can hold settings, grid,"),
        ("seeds = 0", "seeds is 0"),
        ("[grid]\nmargin = 1", "Expected `array`, got `int`"),
        ("[[run]]\nmargin = 2", "needs a name of its own"),
        ("[[run]]\nname = 'a'\n[[run]]\nname = 'a'", "needs a name of its own"),
        ("seeds =", "is no plan"),
        ("seeds = 2\n[settings]\nepochs = 1.5", "epochs is 1.5, expected int"),
        ("seeds = 2\nparallel = 2", "parallel stands in"),
        ("seeds = 2\n[settings]\nepochs = 2", "epochs stands in"),
    ],
)
def test_a_wrong_plan_file_is_refused_by_name(text, says, tmp_path, capsys):
    (tmp_path / "night.toml").write_text(text)
    flags = ["--sweep-dir", str(tmp_path / "night"), "--parallel", "1", "--epochs", "3"]
    flags = flags if "stands" in says else flags[:2]
    assert main(["sweep", "--plan", str(tmp_path / "night.toml"), *flags]) == 2
    assert says in capsys.readouterr().err
    assert main(["sweep", "--plan", str(tmp_path / "none.toml")]) == 2


def test_a_config_of_one_run_is_no_config_of_a_sweep(tmp_path):
    for settings in ({"output_dir": "x"}, {"resume": None}, {"changes": "margin"}):
        with pytest.raises(ConfigError, match="its own directory"):
            sweep(Config(**settings), seeds=2, sweep_dir=tmp_path)
    assert not [*Path(tmp_path).iterdir()]
