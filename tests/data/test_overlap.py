"""Pairs of trees that share words: all that are similar, none twice, split so that no copy crosses."""

from __future__ import annotations

import gzip
import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_config

import treelstm
from treelstm import figures
from treelstm.commands import main
from treelstm.data.judgements import PairingError


def write_trees(path: Path, words: list[list[str]], order: list[int] | None = None) -> Path:
    """A file of trees, one of each list of words, in this order."""
    texts = []
    for number, each in enumerate(words):
        ast = {"kind": "s", "parts": [{"word": word, "place": str(n)} for n, word in enumerate(each)]}
        texts.append(json.dumps({"id": f"t{number}", "sentence": " ".join(each), "ast": ast}) + "\n")
    path.write_text("".join(texts[n] for n in order or range(len(texts))))
    return path


def drawn(count: int, words: int = 40, seed: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    return [draw.sample([f"w{n}" for n in range(words)], draw.randint(2, 7)) for _ in range(count)]


def overlap(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


def found(directory: Path) -> list[tuple[int, float, set[str], set[str]]]:
    rows, ids = list[tuple[int, float, set[str], set[str]]](), set[frozenset[str]]()
    for name in ("positive_pairs", "negative_pairs"):
        for line in gzip.decompress((directory / f"{name}.jsonl.gz").read_bytes()).splitlines():
            record: dict[str, Any] = json.loads(line)
            sets = [set(record[side]["sentence"].split()) for side in ("ast1", "ast2")]
            rows.append((record["label"], record["similarity"], *sets))
            ids.add(frozenset(record[side]["sentence_id"] for side in ("ast1", "ast2")))
    assert len(ids) == len(rows) and {len(pair) for pair in ids} <= {2}, "a pair twice, or with itself"
    return rows


def expected(words: list[list[str]], similar: float) -> int:
    """Similar pairs, counted one by one."""
    sets = [set(each) for each in {" ".join(each): each for each in words}.values()]
    return sum(overlap(a, b) >= similar for a, b in combinations(sets, 2))


@pytest.mark.parametrize("similar", [0.2, 0.3, 0.5, 1.0])
def test_all_similar_pairs_are_found_and_their_overlap_is_exact(tmp_path, similar):
    words = drawn(400)
    words += [words[0][::-1], words[1]]  # equal sets; an equal tree, which is taken once
    trees, count = write_trees(tmp_path / "trees.jsonl", words), expected(words, similar)
    (made,) = treelstm.make_pairs(
        trees,
        tmp_path / "to",
        keys="word",
        similar=similar,
        positives=count,
        negatives=500,
        validation=0,
    ).values()
    rows = found(tmp_path / "to")
    assert [label for label, *_ in rows] == [1] * count + [0] * 500
    for label, said, first, second in rows:
        assert said == overlap(first, second)
        assert said >= similar if label else said <= 0.1
    assert json.loads((tmp_path / "to" / "metadata.json").read_text()) == made
    assert made["left out: trees equal to another"] == len(words) - len({*map(tuple, words)})
    with pytest.raises(PairingError, match=f"{count + 1:,} similar pairs were asked for, {count:,} are"):
        treelstm.make_pairs(
            trees, tmp_path / "no", keys="word", similar=similar, positives=count + 1, validation=0
        )
    assert not (tmp_path / "no").exists()


def test_a_tree_with_more_partners_than_are_kept_is_looked_at_again(tmp_path):
    words = [["a", "b", f"x{n}"] for n in range(150)]  # each is similar to each
    trees = write_trees(tmp_path / "trees.jsonl", words + drawn(20))
    count = 150 * 149 // 2
    treelstm.make_pairs(
        trees, tmp_path / "to", keys="word", similar=0.5, positives=count, negatives=10, validation=0
    )
    assert sum(label for label, *_ in found(tmp_path / "to")) == count


def test_similar_pairs_are_drawn_from_all_alike(tmp_path):
    """Every tree has as many partners of overlap 1/2 as every other: chance decides, not the place."""
    words = [["a", "b", f"x{n}"] for n in range(200)]
    trees = write_trees(tmp_path / "trees.jsonl", words + drawn(5))
    times = np.zeros(200)
    for seed in range(10):
        to = tmp_path / f"{seed}"
        treelstm.make_pairs(
            trees, to, keys="word", similar=0.5, positives=1000, negatives=1, seed=seed, validation=0
        )
        for label, _, *sets in found(to):
            for each in sets if label else ():
                times[int(next(word for word in each if word.startswith("x"))[1:])] += 1
    assert times.sum() == 20_000 and times.min() > 60 and times.max() < 145  # 100 each, 10 of deviation


def test_near_copies_are_never_on_both_sides(tmp_path):
    words = []
    for number, base in enumerate(drawn(150, words=60, seed=3)):
        whole = [*dict.fromkeys([*base, *(f"z{number}{n}" for n in range(6))])]
        words += [whole, [*whole, "more"]]
    trees = write_trees(tmp_path / "trees.jsonl", words)
    made = treelstm.make_pairs(trees, tmp_path / "to", keys="word", similar=0.3, validation=0.3)
    sides = [{frozenset(s) for row in found(directory) for s in row[2:]} for directory in made]
    assert all(len(side) > 20 for side in sides)
    assert max(overlap(set(a), set(b)) for a in sides[0] for b in sides[1]) < 0.8


def test_trees_that_similar_pairs_connect_stay_together_so_that_few_pairs_are_lost(tmp_path):
    words = [[f"a{n}", f"b{n}", f"c{n}{m}"] for n in range(60) for m in range(3)]
    trees = write_trees(tmp_path / "trees.jsonl", words)
    made = treelstm.make_pairs(trees, tmp_path / "to", keys="word", validation=0.2, positives=180)
    assert [about["num_positive_pairs"] for about in made.values()] == [144, 36]


def test_neither_the_order_of_trees_nor_a_second_time_changes_a_byte(tmp_path):
    words, order = drawn(120), [*range(120)]
    random.Random(1).shuffle(order)
    results = []
    for name, of in (("a", None), ("b", None), ("c", order)):
        (tmp_path / name).mkdir()
        trees = write_trees(tmp_path / name / "trees.jsonl", words, of)
        treelstm.make_pairs(trees, tmp_path / name, keys="word", similar=0.2)
        for file in ("positive_pairs.jsonl.gz", "negative_pairs.jsonl.gz"):
            results.append((file, (tmp_path / name / file).read_bytes()))
    assert len({*results}) == 2


def test_dissimilar_pairs_of_many_trees_are_drawn(tmp_path):
    words = drawn(2_000, words=3_000, seed=5)  # two million pairs: too many to look at each
    trees = write_trees(tmp_path / "trees.jsonl", words + [[*w, "more"] for w in words[:50]])
    treelstm.make_pairs(trees, tmp_path / "to", keys="word", positives=20, negatives=5_000, validation=0)
    rows = [row for row in found(tmp_path / "to") if not row[0]]
    assert len(rows) == 5_000
    assert all(said == overlap(first, second) <= 0.1 for _, said, first, second in rows)


REFUSED = {
    "unknown key": (["--key", "wrod"], "no tree has this key. Did you mean word"),
    "bounds that cross": (["--key", "word", "--similar", "0.1"], "expected 0 <= dissimilar < similar"),
    "no such pairs": (["--key", "kind"], "groups? kept|group(s)"),
    "no dissimilar ones": (["--key", "word", "--key", "kind", "--dissimilar", "0"], "dissimilar pairs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_gives_no_pairs_is_refused_by_name(tmp_path, capsys, case):
    flags, says = REFUSED[case]
    trees = write_trees(tmp_path / "trees.jsonl", drawn(60))
    assert main(["pairs", str(trees), "--to", str(tmp_path / "to"), *flags]) == 1
    said = capsys.readouterr().err
    assert any(part in said for part in says.split("|")), said
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    "flags", [[], ["--key", "word", "--by", "label"], ["--key", "w", "--scores", "x"]]
)
def test_one_way_of_making_pairs_is_said(tmp_path, capsys, flags):
    with pytest.raises(SystemExit) as end:
        main(["pairs", "trees.jsonl", "--to", str(tmp_path / "to"), *flags])
    assert end.value.code == 2
    assert "--by label, --key KEY and --scores FILE" in capsys.readouterr().err


def test_numbers_count_and_trees_without_the_key_are_left_out(tmp_path):
    texts = [{"id": f"{n}", "ast": {"a": {"n": n % 7, "m": n}}} for n in range(40)]
    texts.append({"id": "none", "ast": {"b": "c"}})
    (tmp_path / "trees.jsonl").write_text("".join(json.dumps(each) + "\n" for each in texts))
    trees = tmp_path / "trees.jsonl"
    (made,) = treelstm.make_pairs(trees, tmp_path / "to", keys=["n", "m"], validation=0).values()
    assert made["left out: trees without these keys"] == 1
    assert made["positive_similarity"] == {"mean": 1 / 3, "min": 1 / 3, "max": 1 / 3}


def test_they_train_and_their_similarities_are_drawn(tmp_path):
    trees = write_trees(tmp_path / "trees.jsonl", drawn(120))
    treelstm.make_pairs(trees, tmp_path / "training", keys="word", similar=0.2, validation=0.3,
                        validation_to=tmp_path / "validation")  # fmt: skip
    history = treelstm.train(tiny_config(tmp_path, tmp_path / "run", epochs=1, ignored_keys=["place"]))
    assert history.finished
    figure = figures.corpus_figure(treelstm.load_pairs(tmp_path / "training"))
    assert [ax.get_xlabel() for ax in figure.axes] == ["pairs", "similarity", "nodes in a tree"]
