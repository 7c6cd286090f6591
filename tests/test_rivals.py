from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import tiny_config
from runs import copy, files

from treelstm import load_corpus, load_encoder, train
from treelstm.rivals import BAG_ALONE, bag_alone, with_rivals
from treelstm.run.lock import only_writer


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A finished run of 2 epochs of our own."""
    return copy(whole, tmp_path / "run")


def kept(run: Path) -> list[Path]:
    return sorted((run / BAG_ALONE).iterdir()) if (run / BAG_ALONE).is_dir() else []


def config_of(tiny, run, **settings):
    return tiny_config(tiny, run, epochs=2, **settings)


def test_the_bag_is_trained_once_for_as_many_epochs_and_says_so_in_one_line(tiny, run, capsys):
    before = files(run)
    bag = bag_alone(load_encoder(run / "best_model.pt"), config_of(tiny, run))
    said = capsys.readouterr().out
    assert said.startswith("training the bag alone in the same way, once: at most 2 epochs, kept in ")
    assert said.count("\n") == 1
    assert bag.settings.hidden_dim == 0 and bag.settings.bag_of_symbols and bag.threshold > 0
    (place,) = kept(run)
    assert len(json.loads((place / "training_history.json").read_text())) == 2
    content = files(place)
    again = bag_alone(load_encoder(run / "best_model.pt"), config_of(tiny, run))
    assert capsys.readouterr().out == "" and files(place) == content
    assert (again.embedding == bag.embedding).all()
    assert files(run) == before  # of the run itself, nothing has changed


def test_other_data_settings_or_epochs_train_another_bag_and_no_file_is_lost(tiny, run, tmp_path):
    data = copy(tiny, tmp_path / "data")
    config = config_of(data, run)
    bag_alone(load_encoder(run / "checkpoint_epoch_2.pt"), config)
    (first,) = kept(run)
    before = files(first)
    train(tiny_config(tiny, run, epochs=3))
    bag_alone(load_encoder(run / "best_model.pt"), config)
    assert len(kept(run)) == 2 and files(first) == before


def test_the_bag_is_validated_as_its_run_was_whatever_the_page_evaluates_on(tiny, run, tmp_path, capsys):
    bag_alone(load_encoder(run / "best_model.pt"), config_of(tiny, run))
    other = config_of(tiny, run, validation_dir=str(tiny / "training"))
    bag_alone(load_encoder(run / "best_model.pt"), other)
    assert len(kept(run)) == 1
    moved = copy(tiny, tmp_path / "moved")
    gone = tiny_config(moved, tmp_path / "second", epochs=1)
    train(gone)
    (moved / "validation").rename(moved / "elsewhere")
    now = tiny_config(moved, tmp_path / "second", validation_dir=str(moved / "elsewhere"))
    assert bag_alone(load_encoder(tmp_path / "second" / "best_model.pt"), now)
    assert f"chooses its epoch on {moved / 'elsewhere'}: " in capsys.readouterr().out


def test_a_directory_that_cannot_be_written_to_or_is_in_use_costs_only_the_copy(tiny, run, capsys):
    config = config_of(tiny, run)
    (run / BAG_ALONE).write_text("in the way")
    assert bag_alone(load_encoder(run / "best_model.pt"), config).settings.hidden_dim == 0
    assert "the bag alone is not kept: " in capsys.readouterr().out
    (run / BAG_ALONE).unlink()
    bag_alone(load_encoder(run / "best_model.pt"), config)
    (place,) = kept(run)
    shutil.rmtree(place)
    with only_writer(place):
        assert bag_alone(load_encoder(run / "best_model.pt"), config)
        assert "is in use by process" in capsys.readouterr().out


def test_a_run_that_is_being_trained_can_be_compared(tiny, run):
    with only_writer(run):
        assert bag_alone(load_encoder(run / "best_model.pt"), config_of(tiny, run))


def test_a_bag_alone_has_no_bag_alone_beside_it(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", epochs=1, hidden_dim=0)
    train(config)
    path, pairs = tmp_path / "run" / "best_model.pt", load_corpus(config).validation
    names = [*with_rivals(load_encoder(path), pairs, config)]
    assert names == ["this encoder", "TF-IDF bag, no training", "untrained encoder"]
    assert not (tmp_path / "run" / BAG_ALONE).exists()


def test_settings_of_one_run_alone_are_not_those_of_its_bag(tiny, run, tmp_path):
    start = str(run / "checkpoint_epoch_2.pt")
    given = {"start_from": start, "patience": 1, "max_hours": 1.0, "lr_schedule": "cosine"}
    config = tiny_config(tiny, tmp_path / "second", epochs=4, **given)
    train(config)
    assert (
        bag_alone(load_encoder(tmp_path / "second" / "best_model.pt"), config).settings.hidden_dim == 0
    )
