"""Pretrained vectors: read from files, used for known and for new words, kept by every commit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_config
from runs import assert_same_run, through_kills
from vectors import some_vectors

from treelstm import (
    Config,
    export_encoder,
    find_latest_checkpoint,
    import_encoder,
    load_encoder,
    preflight,
    train,
)
from treelstm.commands import main
from treelstm.config import ConfigError, EncoderSettings
from treelstm.data.problems import DataError
from treelstm.model.encoder import TreeEncoder
from treelstm.model.vectors import Vectors, read_vectors
from treelstm.run.state import SettingsChanged
from treelstm.sealed import DamagedCheckpoint, read_sealed, write_sealed
from treelstm.trees.builder import compile_forest
from treelstm.trees.vocabulary import Vocabulary

WORDS = {"cat": [1.0, 0.0, 0.5], "dog": [0.9, 0.1, 0.5], "Bonn": [0.0, -1.0, 0.0]}
TEXT = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in WORDS.items())


def read(path: Path, text: str | bytes) -> Vectors:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_vectors(path)


def as_dict(vectors: Vectors) -> dict[str, list[float]]:
    """The vectors by word, in the scale of the first word's first number."""
    words = vectors.words.numpy().tobytes().decode().split("\n")
    table = vectors.table / vectors.table[0, 0]
    return {word: pytest.approx(row) for word, row in zip(words, table.tolist(), strict=True)}


@pytest.mark.parametrize(
    "text",
    [TEXT, f"3 3\n{TEXT}", TEXT.replace("\n", " \n"), TEXT.replace("\n", "\r\n"), TEXT.rstrip("\n")],
    ids=["GloVe", "word2vec", "spaces at the ends", "CRLF", "no end of line"],
)
def test_every_common_text_form_gives_the_same_vectors(tmp_path, text):
    vectors = read(tmp_path / "v.txt", text)
    assert as_dict(vectors) == WORDS
    assert float(vectors.table.square().mean().sqrt()) == pytest.approx(0.15)


def test_words_with_spaces_and_an_array_beside_its_words(tmp_path):
    assert as_dict(read(tmp_path / "a.txt", "cat 1 2\n. . . 3 4\n")) == {"cat": [1, 2], ". . .": [3, 4]}
    (tmp_path / "b.txt").write_text("kato\nĝardeno\n")
    for order in "CF":  # commits hold tensors of C's order only
        np.save(tmp_path / "b.npy", np.array([[1, 2], [3, 4]], np.float64, order=order))
        vectors = read_vectors(tmp_path / "b.npy")
        assert as_dict(vectors) == {"kato": [1, 2], "ĝardeno": [3, 4]}
        assert vectors.table.is_contiguous()


def test_what_all_words_share_is_taken_out(tmp_path):
    random = np.random.default_rng(0)
    own = random.normal(size=(200, 5))
    shared = np.array([3.0, 0, 0, 0, 0]) + random.normal(size=(200, 1)) * np.array([0, 9.0, 0, 0, 0])
    np.save(tmp_path / "v.npy", own + shared)
    (tmp_path / "v.txt").write_text("".join(f"w{k}\n" for k in range(200)))
    table = read_vectors(tmp_path / "v.npy").table.numpy()
    assert np.abs(table.mean(axis=0)).max() < 1e-3
    _, spread, _ = np.linalg.svd(table)
    assert spread[3] > 0.7 * spread[0] and spread[4] < 1e-3 * spread[0]
    for number in (0, 2, 3, 4):  # what a word has of its own stays
        assert np.corrcoef(table[:, number], own[:, number])[0, 1] > 0.98


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat 1 2\ndog 1\n", r"v\.txt:2: 'dog 1', expected a word and 2 numbers"),
        ("cat 1 2\ndog 1 x\n", r"v\.txt:2: 'dog 1 x', expected a word and 2 numbers"),
        ("cat\n", r"v\.txt:1: 'cat', expected a word and its numbers"),
        ("cat 1 nan\n", "the vector of 'cat' holds a number that is not finite"),
        ("cat 1 1e60\n", "the vector of 'cat' holds a number that is not finite"),
        (b"cat 1 2\nd\xff 1 2\n", r"v\.txt:2: not UTF-8"),
        ("", "expected one vector of floats"),
    ],
    ids=["short", "a text", "a word alone", "NaN", "too large", "Latin-1", "empty"],
)
def test_a_file_that_holds_something_else_is_refused_by_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "v.txt", text)


def test_missing_files_pipes_and_arrays_of_another_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt:1: cannot be read after line 0 \(No such file"):
        read_vectors(tmp_path / "none.txt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="a named pipe, expected a file"):
        read_vectors(tmp_path / "pipe")
    (tmp_path / "b.txt").write_text("a\nb\n")
    for array in (np.zeros((3, 2)), np.zeros(2), np.zeros((2, 2), int), np.array([{}, {}])):
        np.save(tmp_path / "b.npy", array, allow_pickle=True)
        with pytest.raises(DataError, match=r"b\.npy: (holds .*expected one vector|cannot be read)"):
            read_vectors(tmp_path / "b.npy")


def encoder_with(vectors: Vectors, **settings: Any) -> TreeEncoder:
    forest = compile_forest([{"kind": "n", "word": word} for word in ("cat", "house")])
    small = {"embedding_dim": 3, "hidden_dim": 6, "output_dim": 8, "vectors_keys": "word"}
    settings = EncoderSettings(ignored_keys=(), **(small | settings))
    return TreeEncoder(Vocabulary.of(forest, np.arange(2)), settings, vectors=vectors)


@pytest.mark.parametrize("bag", [True, False])
@pytest.mark.parametrize("size", [3, 5], ids=["of its size", "projected"])
def test_a_word_that_training_did_not_know_is_near_to_one_of_a_similar_vector(tmp_path, bag, size):
    encoder = encoder_with(read(tmp_path / "v.txt", TEXT), bag_of_symbols=bag, embedding_dim=size)
    assert hasattr(encoder, "vector_weight") == (size == 5)
    cat, dog, bonn = ({"kind": "n", "word": word} for word in ("cat", "dog", "Bonn"))
    assert encoder.distance(cat, dog) < 0.5 * encoder.distance(cat, bonn)
    assert encoder.distance(dog, {"kind": "n", "word": "DOG"}) == pytest.approx(0, abs=1e-6)
    other = {"kind": "Bonn", "word": "cat"}  # of a key that is not among vectors_keys
    assert encoder.distance(other, {"kind": "bonn", "word": "cat"}) == encoder.distance(
        other, {"kind": "bonn", "word": "cat"}
    )


@pytest.fixture(scope="module")
def roots(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_vectors(tiny, tmp_path_factory.mktemp("vectors") / "roots.txt")


def with_vectors(tiny: Path, output_dir: Path, roots: Path, **settings: Any) -> Config:
    more = {"vectors": str(roots), "vectors_keys": "radiko", "num_threads": 1, "epochs": 2}
    return tiny_config(tiny, output_dir, **(more | settings))


def test_training_tunes_vectors_and_leaves_frozen_ones_alone(tiny, roots, tmp_path):
    known = {}
    for frozen in (False, True):
        run = tmp_path / f"run{frozen}"
        train(with_vectors(tiny, run, roots, vectors_frozen=frozen))
        encoder = load_encoder(run / "final_model.pt")
        known[frozen] = encoder.vector_row >= 0
        assert bool(known[frozen].any())
        assert encoder.vector_table.equal(read_vectors(roots).table)
        tuned = float(encoder.embedding.detach()[known[frozen]].abs().sum())
        assert tuned == 0.0 if frozen else tuned > 0.0


def test_vectors_travel_in_every_file_and_the_run_goes_on_without_theirs(tiny, roots, tmp_path):
    own = Path(tmp_path / "own.txt")
    own.write_bytes(roots.read_bytes())
    run = tmp_path / "run"
    train(with_vectors(tiny, run, own, epochs=1))
    own.unlink()
    assert train(with_vectors(tiny, run, own)).finished
    train(with_vectors(tiny, tmp_path / "other", roots))
    ast = {"tipo": "frazo", "verbo": {"radiko": "arb"}, "objekto": {"radiko": "nova"}}
    found = load_encoder(run / "best_model.pt")
    export_encoder(found, tmp_path / "export")
    for other in (import_encoder(tmp_path / "export"), load_encoder(tmp_path / "other/best_model.pt")):
        assert torch.equal(other.encode([ast]), found.encode([ast]))
    with pytest.raises(SettingsChanged, match="vectors"):
        train(with_vectors(tiny, run, roots, epochs=3))


def test_a_run_with_vectors_ends_bit_identical_after_kills(tiny, roots, tmp_path):
    often = {"checkpoint_every_seconds": 0.02, "epochs": 3}
    train(with_vectors(tiny, tmp_path / "undisturbed", roots, **often))
    config = with_vectors(tiny, tmp_path / "killed", roots, **often)
    report = through_kills(config, tmp_path, random={"kills": 5, "seed": 1})
    assert not report["failures"] and sum(report["kills"].values()) == 5
    for each in report["runs"]:
        assert_same_run(tmp_path / "undisturbed", Path(each["directory"]))


def test_start_from_brings_the_vectors_of_its_model(tiny, roots, tmp_path):
    train(with_vectors(tiny, tmp_path / "first", roots, epochs=1))
    model = str(tmp_path / "first" / "final_model.pt")
    more = {"vectors": None, "start_from": model, "epochs": 1}
    train(with_vectors(tiny, tmp_path / "second", roots, **more))
    assert load_encoder(tmp_path / "second" / "final_model.pt").vectors is not None
    with pytest.raises(ConfigError, match=r"start_from brings the vectors of its model: set vectors"):
        with_vectors(tiny, tmp_path / "third", roots, start_from=model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vectors": "v.txt"}, "Set vectors_keys to the keys whose values are words"),
        ({"vectors_keys": "word"}, r"vectors_keys is \('word',\).* needs vectors"),
        ({"vectors": "v.txt", "vectors_keys": "word", "changes": "vectors"}, "makes another model"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Config(**settings)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("vector_table", lambda t: t * torch.nan, "vector_table has numbers"),
        ("vector_table", lambda t: t[1:].clone(), r"vector_table is .* expected a float32 tensor"),
        (
            "vector_table",
            lambda t: torch.cat((t, t), 1),
            "another model .Unexpected .*vector_weight",
        ),
        ("vector_table", lambda t: t[:0].clone(), "its vectors are no table of words"),
        ("vector_words", lambda t: t.fill_(255), "expected|no text"),
        ("vector_words", lambda t: t.float(), "its vectors are no table of words"),
        ("vector_words", None, r"Missing key\(s\): vector_words"),
    ],
)
def test_senseless_vectors_in_a_sealed_commit_are_refused_by_name(
    tiny, roots, tmp_path, name, damage, message
):
    run = tmp_path / "run"
    train(with_vectors(tiny, run, roots, epochs=1))
    path = find_latest_checkpoint(run)
    content = read_sealed(path)
    found = content["model_state_dict"].pop(name)
    if damage is not None:
        content["model_state_dict"][name] = damage(found)
    write_sealed(path, content)
    with pytest.raises(DamagedCheckpoint, match=message):
        load_encoder(path)


@pytest.mark.parametrize(
    ("settings", "level", "text"),
    [
        ({}, "ok", r"\d+ of the \d+ values of radiko in training have one of the \d+ vectors"),
        ({"vectors_keys": "tipo"}, "warning", "0 of the .* values of tipo in training"),
        ({"vectors_keys": "nothing"}, "warning", "0 of the 0 values of nothing"),
        ({"vectors": "none.txt"}, "error", r"none\.txt:1: cannot be read"),
    ],
)
def test_preflight_tells_how_many_words_have_a_vector(tiny, roots, tmp_path, settings, level, text):
    report = preflight(with_vectors(tiny, tmp_path / "run", roots, **settings))
    found = [each for part in report.findings.values() for each in part if re.search(text, each.found)]
    assert [each.level for each in found] == [level], report.findings


def test_the_shell_takes_the_same_names(tiny, roots, tmp_path):
    words = f"train --data-dir {tiny}/training --validation-dir {tiny}/validation --epochs 1"
    words += f" --output-dir {tmp_path}/run --vectors {roots} --vectors-keys radiko --hidden-dim 8"
    assert main(words.split()) == 0
    assert load_encoder(tmp_path / "run" / "final_model.pt").settings.vectors_keys == ("radiko",)
