"""Trees to search in: encoded once, nearest first; encodings as files."""

from __future__ import annotations

import json
import random
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asts import encoder_for

import treelstm
from treelstm import Collection, Config, load_collection
from treelstm.collection import NotATree, write_vectors
from treelstm.data.problems import DataError
from treelstm.data.readers.formats import iterate_trees
from treelstm.evaluation import distinct_trees
from treelstm.model import encoder as encoder_module
from treelstm.model.encoder import TreeEncoder
from treelstm.trees.vocabulary import Vocabulary

WORDS = "hundo kato birdo arbo domo".split()
ASTS = [{"kind": "n", "who": {"root": a}, "whom": {"root": b}} for a, b in product(WORDS, WORDS)]
TWICE = [*ASTS, ASTS[3], ASTS[3]]


@pytest.fixture(scope="module")
def encoder() -> TreeEncoder:
    return encoder_for(ASTS, torch.float32)


def write(path: Path, asts: list[Any]) -> Path:
    rows = [{"id": f"t{n}", "sentence": f"sentence {n}", "ast": ast} for n, ast in enumerate(asts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "trees.jsonl", TWICE)


def kept(path: Path) -> Path:
    return path.with_name(f".{path.name}.vectors.pt")


def test_the_nearest_trees_are_those_of_the_smallest_distance_and_equal_ones_have_none(path, encoder):
    found = load_collection(path, encoder)
    assert len(found) == 27 and torch.equal(found.vectors, encoder.encode(TWICE))
    near = found.nearest("t3", 10)
    assert [each.id for each in near[:2]] == ["t25", "t26"], "equal ones, in the order of the file"
    assert [each.distance for each in near[:2]] == [0, 0]
    other = [(encoder.distance(ASTS[3], ast), n) for n, ast in enumerate(ASTS) if n != 3]
    assert [each.number for each in near[2:]] == [n for _, n in sorted(other)[:8]]
    assert near[2].distance == pytest.approx(min(other)[0], abs=1e-6)
    assert near[2].sentence == f"sentence {near[2].number}"
    assert found.nearest(3, 10) == near, "a position says the same as an id"
    new = found.nearest(dict(reversed(ASTS[3].items())), 3)
    assert [(each.id, each.distance) for each in new] == [("t3", 0), ("t25", 0), ("t26", 0)]
    assert found.ast(7) == ASTS[7]


@pytest.mark.parametrize("wrong", ["t99", 27, -1, "27", ""])
def test_an_id_or_position_that_is_not_there_is_refused(path, encoder, wrong):
    with pytest.raises(NotATree, match=r"no tree has the id or position .* 't0' to 't26'"):
        load_collection(path, encoder).nearest(wrong)


def counted(encoder, monkeypatch) -> list[int]:
    calls: list[int] = []
    encode_trees = TreeEncoder.encode_trees

    def counting(self, forest, trees, *rest):
        calls.append(len(trees))
        return encode_trees(self, forest, trees, *rest)

    monkeypatch.setattr(TreeEncoder, "encode_trees", counting)
    return calls


def test_trees_are_encoded_once_until_file_or_encoder_change(path, encoder, monkeypatch):
    first, calls = load_collection(path, encoder), counted(encoder, monkeypatch)
    again = load_collection(str(path), encoder)
    assert calls == [] and torch.equal(again.vectors, first.vectors) and again.ids == first.ids
    assert again.nearest(0) == first.nearest(0) and ".trees.jsonl.vectors.pt" in again.about
    write(path, ASTS[:5])
    assert len(load_collection(path, encoder)) == 5 and calls == [5]
    other = encoder_for(ASTS, torch.float32)
    with torch.no_grad():
        other.output_weight[0, 0] += 1
    assert not torch.equal(load_collection(path, other).vectors, first.vectors[:5])
    assert len([*path.parent.iterdir()]) == 2, "one file is kept, whatever has changed"


@pytest.mark.parametrize("damage", [b"", b"nothing", "middle"])
def test_what_is_kept_and_damaged_is_made_again(path, encoder, damage):
    first = load_collection(path, encoder)
    raw = bytearray(kept(path).read_bytes())
    raw[len(raw) // 2] ^= 1
    kept(path).write_bytes(raw if damage == "middle" else damage)
    assert torch.equal(load_collection(path, encoder).vectors, first.vectors)
    assert len(kept(path).read_bytes()) == len(raw)


def test_where_nothing_can_be_kept_it_works_and_says_so(path, encoder):
    kept(path).mkdir()
    found = load_collection(path, encoder)
    assert len(found.nearest(0)) == 5
    assert "cannot be kept beside them" in found.about and "Is a directory" in found.about
    assert len([*path.parent.iterdir()]) == 2


def test_an_ast_that_is_no_tree_is_named_by_file_and_line(path, encoder, monkeypatch):
    monkeypatch.setattr(encoder_module, "TREES_AT_ONCE", 10)  # it is in the second part of the file
    write(path, [*ASTS[:12], {"whom": [{"none": None}], "who": {}}, {"plena_vorto": None}])
    with pytest.raises(DataError, match=r"trees.jsonl:14: the tree is an empty tree: no symbols"):
        load_collection(path, encoder)
    with pytest.raises(DataError, match=r"nowhere.jsonl: cannot be read \(No such file"):
        load_collection(path.with_name("nowhere.jsonl"), encoder)


def test_the_trees_of_pairs_are_a_collection_too(tiny, whole):
    encoder = treelstm.load_encoder(whole / "best_model.pt")
    pairs = treelstm.load_pairs(tiny / "validation")
    found = Collection.of_pairs(pairs, encoder)
    assert len(found) == len(distinct_trees(pairs)[0])
    (same, *_) = found.nearest(found.ast(4), 1)
    assert (same.number, same.distance) == (4, 0), "a tree written as JSON is found again"
    assert all(each.distance > 0 for each in found.nearest(4))


def test_encodings_in_parts_are_those_of_encode_to_the_bit(path, encoder, monkeypatch, tmp_path):
    monkeypatch.setattr(encoder_module, "TREES_AT_ONCE", 10)
    count, beside = write_vectors(tmp_path / "v.npy", encoder, iterate_trees([path]))
    vectors = np.load(tmp_path / "v.npy")
    assert count == 27 and vectors.dtype == np.float32
    assert np.array_equal(vectors, encoder.encode(TWICE).numpy())
    lines = [json.loads(line) for line in beside.read_text().splitlines()]
    assert lines[26] == {"id": "t26", "sentence": "sentence 26"} and len(lines) == 27
    assert encoder.encode([]).shape == (0, 4) and encoder.encode(iter(ASTS[:10])).shape == (10, 4)


@pytest.mark.long
def test_a_hundred_thousand_real_trees_are_encoded_within_a_minute(real, tmp_path):
    """Varied, so that distinct subtrees grow as in a larger corpus."""
    pairs = treelstm.load_pairs(real / "training")
    encoder = TreeEncoder(Vocabulary.of(pairs.forest, pairs.trees), Config())
    found, draw = Collection.of_pairs(pairs, encoder), random.Random(0)
    asts = [found.ast(number) for number in range(len(found))]
    roots = sorted({s for s in pairs.forest.symbols if s.startswith("radiko=")})

    def varied(value: Any) -> Any:
        if isinstance(value, list):
            return [varied(each) for each in value]
        if not isinstance(value, dict):
            return value
        new = {key: varied(each) for key, each in value.items()}
        change = "radiko" in new and draw.random() < 0.25
        return new | {"radiko": draw.choice(roots)[7:]} if change else new

    path = write(tmp_path / "trees.jsonl", [varied(asts[n % len(asts)]) for n in range(100_000)])
    began = time.process_time()  # of all threads; other processes may be busy
    assert write_vectors(tmp_path / "v.npy", encoder, iterate_trees([path]))[0] == 100_000
    assert time.process_time() - began < 60
