from __future__ import annotations

import errno
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_config
from sklearn.metrics import roc_auc_score

from treelstm import load_encoder, load_pairs, train, write_sample
from treelstm.data.sample import LEXICON, SampleExists
from treelstm.evaluation import pair_distances, tfidf_scorer
from treelstm.files import WriteFailed


def roots() -> set[str]:
    return {word.split("-")[0] for entries in LEXICON.values() for names in entries for word in names}


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sentences(directory: Path) -> set[str]:
    pairs = records(directory / "positive_pairs.jsonl") + records(directory / "negative_pairs.jsonl")
    return {pair[side]["sentence"] for pair in pairs for side in ("ast1", "ast2")}


def test_a_sample_is_the_same_bytes_for_the_same_seed_and_others_for_another(tiny, tmp_path):
    for name, seed in (("same", 0), ("other", 2)):
        write_sample(tmp_path / name, positives=24, negatives=48, seed=seed)
    for name in ("positive_pairs.jsonl", "negative_pairs.jsonl", "metadata.json"):
        assert (tmp_path / "same" / name).read_bytes() == (tiny / "training" / name).read_bytes()
    other = (tmp_path / "other" / "positive_pairs.jsonl").read_bytes()
    assert other != (tiny / "training" / "positive_pairs.jsonl").read_bytes()


def test_the_validation_sample_has_no_sentence_of_training(tmp_path):
    write_sample(str(tmp_path / "a"), positives=300, negatives=300)  # paths may be strings
    write_sample(tmp_path / "b", positives=300, negatives=300, unlike=str(tmp_path / "a"))
    assert not sentences(tmp_path / "a") & sentences(tmp_path / "b")


def test_defaults_are_495_and_5000_pairs_from_at_least_400_roots(tmp_path):
    write_sample(tmp_path / "sample")
    assert len(records(tmp_path / "sample" / "positive_pairs.jsonl")) == 495
    assert len(records(tmp_path / "sample" / "negative_pairs.jsonl")) == 5000
    assert len(roots()) >= 400
    pairs = load_pairs(tmp_path / "sample", ("plena_vorto",))
    used = {s for s in pairs.forest.symbols if s.startswith("radiko=")}
    assert len(used) >= 400
    assert {f"kazo={case}" for case in ("nominativo", "akuzativo")} <= set(pairs.forest.symbols)
    assert {"prefikso=mal", "modo=kondiĉa", "tempo=futuro", "nombro=pluralo"} <= set(
        pairs.forest.symbols
    )
    assert {"sufiksoj=ist", "sufiksoj=ant", "sufiksoj=il", "sufiksoj=ig"} <= set(pairs.forest.symbols)


def test_roots_are_plain_esperanto_letters():
    letters = set("abcĉdefgĝhĥijĵklmnoprsŝtuŭvz")
    assert all(set(root) <= letters and len(root) > 1 for root in roots())


def test_words_are_spelled_as_their_morphemes_say(tiny):
    def words(node: Any) -> list[dict[str, Any]]:
        if isinstance(node, list):
            return [word for item in node for word in words(item)]
        if not isinstance(node, dict):
            return []
        return [node] * (node.get("tipo") == "vorto") + words(list(node.values()))

    for record in records(tiny / "training" / "negative_pairs.jsonl"):
        sentence = record["ast1"]["sentence"].lower().rstrip(".").split()
        found = words(record["ast1"]["ast"])
        assert sorted(w for w in sentence if w != "la") == sorted(
            w["plena_vorto"].lower() for w in found
        )
        for word in found:
            stem = (word["prefikso"] or "") + word["radiko"] + "".join(word["sufiksoj"])
            ending = word["plena_vorto"].removeprefix(stem)
            kind = {"substantivo": "o", "adjektivo": "a", "adverbo": "e"}.get(word["vortspeco"])
            if kind is None:
                assert ending in ("as", "is", "os", "us")
            else:
                plural, accusative = word["nombro"] == "pluralo", word["kazo"] == "akuzativo"
                assert ending == kind + "j" * plural + "n" * accusative


def hard(pairs: Any) -> np.ndarray:
    """The positives, and the negatives that share all their roots."""
    return (pairs.label == 1) | (pairs.similarity == 1)


def test_half_of_the_negatives_are_hard_and_a_bag_of_roots_is_no_better_than_chance(tmp_path):
    write_sample(tmp_path / "sample", positives=200, negatives=400)
    pairs = load_pairs(tmp_path / "sample", ("plena_vorto",))
    chosen = pairs[np.flatnonzero(hard(pairs))]
    assert (chosen.label == 0).sum() >= 200
    assert roc_auc_score(chosen.label, -tfidf_scorer(chosen, "radiko").distance) <= 0.5


def test_a_small_encoder_beats_the_bag_on_hard_negatives_of_unseen_sentences(tmp_path):
    write_sample(tmp_path / "training", positives=495, negatives=2000)
    write_sample(tmp_path / "validation", 200, 800, seed=1, unlike=tmp_path / "training")
    sizes = {"embedding_dim": 32, "hidden_dim": 48, "output_dim": 32}
    train(tiny_config(tmp_path, tmp_path / "run", epochs=5, learning_rate=3e-3, **sizes))
    encoder = load_encoder(tmp_path / "run" / "best_model.pt")
    pairs = load_pairs(tmp_path / "validation", encoder.settings.ignored_keys)
    pairs = pairs[np.flatnonzero(hard(pairs))]
    assert roc_auc_score(pairs.label, -pair_distances(encoder, pairs)) >= 0.9


def test_existing_pairs_are_never_overwritten(tiny):
    with pytest.raises(SampleExists, match=r"negative_pairs\.jsonl exists already"):
        write_sample(tiny / "training")


def test_memory_does_not_grow_with_the_pairs(tmp_path):
    """Of each pair only its place is held; 600 pairs have 1.5 MB."""
    tracemalloc.start()
    try:
        write_sample(tmp_path / "sample", 600, 1)
        assert tracemalloc.get_traced_memory()[1] < 0.6e6
    finally:
        tracemalloc.stop()
    assert (tmp_path / "sample" / "positive_pairs.jsonl").stat().st_size > 1.2e6


def test_a_full_disk_leaves_no_part_of_a_sample(tmp_path, monkeypatch):
    """The second file fails: the first is not there either, so that the same command works later."""
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteFailed, match="No space left"):
            write_sample(tmp_path / "sample", 3, 3)
    assert calls and not [*(tmp_path / "sample").iterdir()]
    write_sample(tmp_path / "sample", 3, 3)
