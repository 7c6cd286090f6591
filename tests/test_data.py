from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_config

from treelstm import load_corpus, load_pairs, train
from treelstm.config import Config
from treelstm.data.load import pair_files
from treelstm.data.pairs import DataError
from treelstm.errors import UserError


@pytest.fixture
def data(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny corpus that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "data", ignore=lambda *_: [".forest.bin"]))


def edit(path: Path, line: int, change: Any) -> None:
    """Applies `change` to the bytes of one line, counted from 1."""
    lines = path.read_bytes().splitlines()
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"\n".join(lines) + b"\n")


def edit_record(path: Path, line: int, change: Any) -> None:
    def changed(raw: bytes) -> bytes:
        record = json.loads(raw)
        change(record)
        return json.dumps(record).encode()

    edit(path, line, changed)


def without(*path: str) -> Any:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        del record[path[-1]]

    return change


def with_value(value: Any, *path: str) -> Any:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


RECORD_FAULTS = {
    "ast1 missing": (without("ast1"), "ast1 is missing"),
    "ast2 missing": (without("ast2"), "ast2 is missing"),
    "ast missing": (without("ast2", "ast"), r"ast2\.ast is missing"),
    "ast1 a list": (with_value([], "ast1"), "ast1 is not a JSON object"),
    "ast null": (with_value(None, "ast1", "ast"), r"ast1\.ast is null"),
    "ast string": (with_value("hundo", "ast1", "ast"), r"ast1\.ast is a string"),
    "ast empty list": (with_value([], "ast2", "ast"), r"ast2\.ast is an empty list"),
    "ast empty": (with_value({}, "ast2", "ast"), r"ast2\.ast is an empty tree"),
    "label contradicts": (with_value(0, "label"), "label is 0, but the file's name says 1"),
    "label missing": (without("label"), "label is missing"),
    "label boolean": (with_value(True, "label"), "label is true"),
    "similarity text": (with_value("high", "similarity"), "similarity is not a number"),
    "sentence number": (with_value(3, "ast1", "sentence"), r"ast1\.sentence is not a string"),
}


@pytest.mark.parametrize("fault", RECORD_FAULTS)
def test_a_faulty_record_is_named_by_file_and_line_and_nothing_is_written(data, tmp_path, fault):
    change, message = RECORD_FAULTS[fault]
    path = data / "training" / "positive_pairs.jsonl"
    edit_record(path, 3, change)
    with pytest.raises(DataError, match=rf"positive_pairs\.jsonl:3: {message}.*\. [A-Z].*\.$"):
        train(tiny_config(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert not (data / "training" / ".forest.bin").exists()


DEEP = b'{"label": 1, "ast1": {"ast": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001 + b"}"
LINE_FAULTS = {
    "broken JSON": (lambda raw: raw[:40], r"not JSON \("),
    "not UTF-8": (lambda raw: b"\xff" + raw, r"not UTF-8 \(byte 1 of the line is 0xff\)"),
    "a list": (lambda raw: b"[1]", "not a JSON object"),
    "too deep": (lambda raw: DEEP, "nested deeper than Python's JSON parser can read"),
}


@pytest.mark.parametrize("fault", LINE_FAULTS)
def test_an_unreadable_line_is_named_by_file_and_line(data, fault):
    change, message = LINE_FAULTS[fault]
    edit(data / "training" / "negative_pairs.jsonl", 7, change)
    with pytest.raises(DataError, match=rf"negative_pairs\.jsonl:7: {message}"):
        load_pairs(data / "training")


def test_all_problems_are_reported_together_the_first_20_and_the_count(data):
    for line in range(1, 31):
        edit_record(data / "training" / "negative_pairs.jsonl", line, without("ast1"))
    edit_record(data / "training" / "positive_pairs.jsonl", 5, with_value(None, "ast1", "ast"))
    with pytest.raises(DataError) as caught:
        load_pairs(data / "training")
    lines = str(caught.value).splitlines()
    assert "positive_pairs.jsonl:5: ast1.ast is null" in lines[0]
    assert "negative_pairs.jsonl:19: ast1 is missing" in lines[19]
    assert lines[20] == "... and 11 more"
    assert caught.value.problems.count == 31


@pytest.mark.parametrize("name", ["positive_pairs", "negative_pairs"])
def test_a_missing_or_empty_class_is_named(data, name):
    path = data / "training" / f"{name}.jsonl"
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match=rf"{name}\.jsonl: holds no pairs"):
        load_pairs(data / "training")
    path.unlink()
    with pytest.raises(DataError, match=rf"{name}\.jsonl: no such file"):
        load_pairs(data / "training")


def test_a_missing_directory_says_how_to_get_a_sample(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such directory\. .*treelstm sample"):
        load_pairs(tmp_path / "nowhere")


def test_a_directory_may_be_a_string(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    assert same(load_pairs("training"), load_pairs(tiny / "training"))
    assert pair_files("training")[1] == Path("training", "positive_pairs.jsonl")
    with pytest.raises(DataError, match="nowhere: no such directory"):
        pair_files("nowhere")


def test_plain_and_gzipped_files_of_one_class_are_ambiguous(data):
    (data / "training" / "positive_pairs.jsonl.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"positive_pairs\.jsonl\.gz is there too"):
        load_pairs(data / "training")


def zipped(path: Path) -> Path:
    target = path.with_suffix(".jsonl.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return target


def test_gzipped_pairs_equal_plain_ones(tiny, data):
    for name in ("positive_pairs", "negative_pairs"):
        zipped(data / "training" / f"{name}.jsonl")
    plain, packed = load_pairs(tiny / "training"), load_pairs(data / "training")
    assert np.array_equal(plain.forest.tree_digest, packed.forest.tree_digest)
    assert np.array_equal(plain.label, packed.label) and plain.sentences == packed.sentences


def test_a_truncated_gzip_is_named(data):
    path = zipped(data / "training" / "positive_pairs.jsonl")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"positive_pairs\.jsonl\.gz:\d+: cannot be read after line"):
        load_pairs(data / "training")


def test_a_plain_file_named_gz_is_named(data):
    path = zipped(data / "training" / "positive_pairs.jsonl")
    path.write_bytes(b"plain text\n")
    with pytest.raises(DataError, match="cannot be read after line 0"):
        load_pairs(data / "training")


def same(first: Any, second: Any) -> bool:
    return all(
        np.array_equal(getattr(first.forest, name), getattr(second.forest, name))
        for name in ("symbol", "child", "root", "tree_subtrees", "tree_digest")
    ) and np.array_equal(first.label, second.label)


def sealed_again(cache: Path, change: Any = lambda raw: raw) -> None:
    """Changes what follows the digest in a cache file, and corrects the digest."""
    raw = cache.read_bytes()
    body = change(raw[48:])
    cache.write_bytes(raw[:16] + hashlib.sha256(body).digest() + body)


def mark(cache: Path) -> None:
    """Changes a sentence in a cache file, which shows whether pairs come from there."""
    sealed_again(cache, lambda body: re.sub(rb'("sentences": \["[^ "]+) ', rb"\1_", body, count=1))


def test_the_cache_equals_the_compiled_pairs_and_is_read_while_nothing_changes(data):
    compiled = load_pairs(data / "training", ("plena_vorto",))
    mark(data / "training" / ".forest.bin")
    cached = load_pairs(data / "training", ("plena_vorto",))
    assert cached.sentences == (compiled.sentences[0].replace(" ", "_", 1), *compiled.sentences[1:])
    assert same(compiled, cached) and cached.forest.symbols == compiled.forest.symbols


def test_the_cache_is_rebuilt_when_files_or_settings_change(data):
    before = load_pairs(data / "training", ("plena_vorto",))
    fewer = load_pairs(data / "training", ("plena_vorto", "nombro"))
    assert len(fewer.forest.symbols) < len(before.forest.symbols)
    edit_record(
        data / "training" / "positive_pairs.jsonl", 1, with_value({"nova": "vorto"}, "ast1", "ast")
    )
    assert "nova=vorto" in load_pairs(data / "training", ("plena_vorto",)).forest.symbols


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:100], lambda raw: raw[:-50]])
def test_a_damaged_cache_is_reported_and_built_again(data, caplog, damage):
    whole = load_pairs(data / "training")
    cache = data / "training" / ".forest.bin"
    cache.write_bytes(damage(cache.read_bytes()))
    assert same(whole, load_pairs(data / "training"))
    assert ".forest.bin is damaged" in caplog.text
    assert same(whole, load_pairs(data / "training"))


def test_the_pairs_of_a_read_only_directory_are_cached_elsewhere(data, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = data / "training"
    directory.chmod(0o555)
    whole = load_pairs(directory)
    assert not (directory / ".forest.bin").exists()
    mark(next(tmp_path.glob("treelstm/*.bin")))
    cached = load_pairs(directory)
    assert same(whole, cached) and "_" in cached.sentences[0]


def test_validation_dir_gives_unseen_pairs_and_says_the_overlap(tiny, tmp_path):
    assert load_corpus(tiny_config(tiny, tmp_path)).overlap == 0.0
    twice = Config(data_dir=str(tiny / "training"), validation_dir=str(tiny / "training"))
    assert load_corpus(twice).overlap == 1.0


def test_the_split_is_stratified_and_depends_on_the_seed_alone(tiny):
    def split(seed: int) -> tuple[list[int], list[int]]:
        corpus = load_corpus(
            Config(data_dir=str(tiny / "training"), validation_fraction=0.25, seed=seed)
        )
        assert corpus.validation.label.sum() == 6 and len(corpus.validation) == 18
        return corpus.training.first.tolist(), corpus.validation.first.tolist()

    training, validation = split(1)
    assert not set(training) & set(validation) and len(training) == 54
    assert split(1) == (training, validation) != split(2)


def test_too_few_pairs_to_split_are_refused(data):
    path = data / "training" / "positive_pairs.jsonl"
    path.write_bytes(path.read_bytes().splitlines()[0])
    with pytest.raises(DataError, match=r"holds 1 pair\(s\), too few to hold out"):
        load_corpus(Config(data_dir=str(data / "training")))


def test_vocabulary_comes_from_training_trees_only(data, tmp_path):
    edit_record(
        data / "validation" / "positive_pairs.jsonl", 1, with_value({"nova": "vorto"}, "ast1", "ast")
    )
    corpus = load_corpus(tiny_config(data, tmp_path))
    assert not any(symbol.startswith("nova") for symbol in corpus.vocabulary.symbols)
    assert corpus.unknown_share > 0


def test_the_unknown_share_counts_the_symbols_of_each_distinct_tree(data, tmp_path):
    corpus = load_corpus(tiny_config(data, tmp_path))
    forest, known = corpus.validation.forest, set(corpus.vocabulary.symbols)
    symbols = [
        symbol
        for tree in set(corpus.validation.trees.tolist())
        for subtree in set(forest.graph(tree).subtree.tolist())
        for symbol in forest.symbols_of(subtree)
    ]
    unknown = [symbol not in known for symbol in symbols]
    assert any(unknown) and corpus.unknown_share == sum(unknown) / len(unknown)


def test_the_real_corpus_shares_its_subtrees_twelve_times(real):
    pairs = load_pairs(real / "training", Config().ignored_keys)
    assert len(pairs) == 5_495 and int(pairs.label.sum()) == 495
    assert int(pairs.forest.tree_nodes.sum()) == 237_262
    assert len(pairs.forest.height) == pytest.approx(19_904, abs=5)
