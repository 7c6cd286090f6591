"""Pairs of labelled trees and of tables of scores: what they promise, and what is refused."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from treebank import write_treebank

import treelstm
from treelstm.commands import main
from treelstm.data.judgements import PairingError
from treelstm.data.problems import DataError


def write_sentences(path: Path, sentences, order=None) -> Path:
    """A file of CoNLL-U with a sentence for each (label, words); words hang on the first."""
    parts = []
    for number, (label, text) in enumerate(sentences):
        words = text.split()
        said = f"# label = {label}\n" if label is not None else ""
        rows = [
            f"{place}\t{word}\t_\tX\t_\t_\t{int(place > 1)}\t{'dep' if place > 1 else 'root'}\t_\t_\n"
            for place, word in enumerate(words, 1)
        ]
        parts.append(f"# sent_id = {path.stem}{number}\n# text = {text}\n{said}{''.join(rows)}\n")
    for place in order or range(len(parts)):
        with path.open("a") as file:
            file.write(parts[place])
    return path


def corpus(labels=8, each=4):
    return [
        (f"l{label}", f"w{label} v{label}x{number}") for label in range(labels) for number in range(each)
    ]


def lines(directory: Path, name: str):
    raw = gzip.decompress((directory / f"{name}.jsonl.gz").read_bytes())
    return [json.loads(line) for line in raw.splitlines()]


def pairs_in(directory: Path):
    return [
        (label, frozenset(record[side]["sentence_id"] for side in ("ast1", "ast2")), record)
        for label, name in ((1, "positive_pairs"), (0, "negative_pairs"))
        for record in lines(directory, name)
    ]


def group(record, side):
    return record[side]["sentence"].split()[0]


def test_pairs_of_labels_are_similar_within_and_dissimilar_across_and_balanced(tmp_path):
    path = write_sentences(tmp_path / "a.conllu", corpus())
    made = treelstm.make_pairs(path, tmp_path / "to", by="label", validation=0.25)
    assert [*made] == [tmp_path / "to", tmp_path / "to-validation"]
    of_trees, of_groups = [], []
    for directory, about in made.items():
        found = pairs_in(directory)
        assert all(len(ids) == 2 for _, ids, _ in found), "a tree with itself"
        assert len({ids for _, ids, _ in found}) == len(found), "a pair twice"
        for label, _, record in found:
            assert (group(record, "ast1") == group(record, "ast2")) == label == record["label"]
        counts = Counter(label for label, _, _ in found)
        assert counts[1] == counts[0] == about["num_positive_pairs"]
        assert json.loads((directory / "metadata.json").read_text()) == about
        per_group = Counter(group(record, "ast1") for label, _, record in found if label)
        assert max(per_group.values()) - min(per_group.values()) <= 1
        of_trees.append(set().union(*(ids for _, ids, _ in found)))
        of_groups.append({group(record, side) for _, _, record in found for side in ("ast1", "ast2")})
        assert treelstm.load_pairs(directory).has_classes
    assert of_trees[0].isdisjoint(of_trees[1]) and of_groups[0].isdisjoint(of_groups[1])
    assert [len(groups) for groups in of_groups] == [6, 2]


def test_neither_the_order_of_trees_nor_that_of_files_changes_a_byte(tmp_path):
    order = list(range(32))
    random.Random(0).shuffle(order)
    whole = write_sentences(tmp_path / "s.conllu", corpus())
    (tmp_path / "other").mkdir()
    mixed = write_sentences(tmp_path / "other" / "s.conllu", corpus(), order)
    options = {"by": "label", "positives": 20, "negatives": 30}
    first = treelstm.make_pairs(whole, tmp_path / "one", **options)
    second = treelstm.make_pairs([mixed], tmp_path / "two", **options)
    other = treelstm.make_pairs(whole, tmp_path / "three", seed=1, **options)
    for a, b in zip(first, second, strict=True):
        for name in ("positive_pairs.jsonl.gz", "negative_pairs.jsonl.gz", "metadata.json"):
            assert (a / name).read_bytes() == (b / name).read_bytes()
    names = [tmp_path / each / "positive_pairs.jsonl.gz" for each in ("one", "three")]
    assert names[0].read_bytes() != names[1].read_bytes()
    assert sum(about["num_negative_pairs"] for about in first.values()) == 30
    assert len(first) == len(other) == 2


def test_equal_trees_are_never_paired_and_never_on_both_sides(tmp_path):
    sentences = corpus(labels=6, each=2)
    sentences += [(label, f"same {label}") for label, _ in sentences[:4]]  # twice in one label
    sentences += [("l1", "both"), ("l2", "both"), ("alone", "only this")]
    path = write_sentences(tmp_path / "a.conllu", sentences)
    made = treelstm.make_pairs(path, tmp_path / "to", by="label", positives=8, validation=0.3)
    records = [record for directory in made for _, _, record in pairs_in(directory)]
    for record in records:
        assert record["ast1"]["ast"] != record["ast2"]["ast"]
        assert not {"both", "only this"} & {record[side]["sentence"] for side in ("ast1", "ast2")}
    about = made[tmp_path / "to"]
    kinds = ("equal to one of another label", "equal to one of their label", "alone with their label")
    assert about["trees"] == 19 and [about[f"left out: trees {kind}"] for kind in kinds] == [2, 2, 1]


def test_neighbours_are_of_one_source_file_also_by_way_of_a_file_of_trees(tmp_path):
    for number in range(3):
        write_sentences(tmp_path / f"{number}.conllu", corpus(6, 3)[number * 6 :][:6] + corpus(6, 2))
    rows, options = tmp_path / "trees.jsonl.gz", {"by": "label", "neighbours": True, "validation": 0}
    assert main(["trees", *map(str, sorted(tmp_path.glob("*.conllu"))), "--to", str(rows)]) == 0
    for trees, to in ((sorted(tmp_path.glob("*.conllu")), "one"), (rows, "two")):
        assert [*treelstm.make_pairs(trees, tmp_path / to, **options)] == [tmp_path / to]
        for label, ids, _ in pairs_in(tmp_path / to):
            assert label or len({name[0] for name in ids}) == 1
    assert pairs_in(tmp_path / "one") == pairs_in(tmp_path / "two")


REFUSED = {
    "no labels": ([(None, "a b"), (None, "c")], {}, DataError, r"a\.conllu:1: the tree a0 has no label"),
    "one class": ([("x", "a"), ("x", "b")], {}, PairingError, r"1 label\(s\) have two different trees"),
    "all alone": ([("x", "a"), ("y", "b")], {}, PairingError, r"0 label\(s\) have two different trees"),
    "too few to split": (
        corpus(3),
        {},
        PairingError,
        r"3 label\(s\) .* 4 with validation\. Add trees, .* validation to 0",
    ),
    "too many similar": (
        corpus(4, 2),
        {"positives": 99},
        PairingError,
        r"\d+ similar pairs were asked for",
    ),
    "too many others": (corpus(4, 2), {"negatives": 99}, PairingError, r"dissimilar .*, 4 are possible"),
    "bad share": (corpus(), {"validation": 1.0}, PairingError, "validation is 1.0, expected"),
    "no way": (corpus(), {"by": None}, PairingError, "Say one of by"),
    "another way": (corpus(), {"by": "colour"}, PairingError, "Say one of by"),
    "empty": ([], {}, DataError, "no trees|holds no trees"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_paired_is_refused_and_nothing_is_written(tmp_path, case):
    sentences, options, error, message = REFUSED[case]
    path = write_sentences(tmp_path / "a.conllu", sentences)
    path.touch()
    with pytest.raises(error, match=message):
        treelstm.make_pairs(path, tmp_path / "to", **{"by": "label", **options})
    assert not (tmp_path / "to").exists()


def test_pairs_that_are_there_are_left_alone(tmp_path, capsys):
    path, to = write_sentences(tmp_path / "a.conllu", corpus()), tmp_path / "to"
    words = ["pairs", str(path), "--to", str(to), "--by", "label"]
    assert main(words) == 0 and "num positive pairs" in capsys.readouterr().out
    before = (to / "positive_pairs.jsonl.gz").read_bytes()
    assert main(words) == 1 and "exists already" in capsys.readouterr().err
    assert (to / "positive_pairs.jsonl.gz").read_bytes() == before


SENTENCES = [("-", "a man sings"), ("-", 'the "big" dog'), ("-", "it, too"), ("-", "no one")]
TABLES = {
    "SICK": (
        "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
        '1\ta man sings\tthe "big" dog\t4.5\tNEUTRAL\n2\tit, too\tno  one \t1\tENTAILMENT\n',
        (),
    ),
    "STS": (
        'news\tMSR\t2012\t1\t4.5\ta man sings\tthe "big" dog\nnews\tMSR\t2012\t2\t1\tit, too\tno one\n',
        ("6", "7", "5"),
    ),
    "CSV with quotes": (
        's1,s2,score\r\na man sings,"the ""big"" dog",4.5\r\n\r\n"it, too",no one,1\r\n',
        (),
    ),
    "ids": ("id1,id2,similarity\na0,a1,4.5\na2,a3,1\n", ()),
    "named columns": ("x,left,right,gold\n0,a0,a1,4.5\n0,a2,a3,1.0\n", ("left", "right", "gold")),
    "numbers with a header": ("left,right,gold\na0,a1,4.5\na2,a3,1\n", ("1", "2", "3")),
    "a byte order mark": ("\ufefffirst,second,score\na0,a1,4.5\na2,a3,1\n", ()),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_scores_is_joined_to_trees_by_id_or_sentence(tmp_path, table):
    text, columns = TABLES[table]
    (tmp_path / "scores.txt").write_text(text, newline="")
    path = write_sentences(tmp_path / "a.conllu", SENTENCES)
    words = ["pairs", str(path), "--to", str(tmp_path / "to"), "--scores", str(tmp_path / "scores.txt")]
    assert main([*words, *(("--columns", *columns) if columns else ())]) == 0
    pairs = treelstm.load_pairs(tmp_path / "to", objective=None)
    assert pairs.similarity.tolist() == [4.5, 1.0] and pairs.label.tolist() == [-1, -1]
    assert [pairs.sentences[tree] for tree in pairs.trees] == [SENTENCES[i][1] for i in (0, 2, 1, 3)]


def test_a_column_of_0_and_1_is_a_label_beside_a_similarity_or_alone(tmp_path):
    path = write_sentences(tmp_path / "a.conllu", SENTENCES)
    table = tmp_path / "t.csv"
    table.write_text("first,second,similarity,label\na0,a1,0.5,1\na2,a3,0.1,0\n")
    treelstm.make_pairs(path, tmp_path / "both", scores=table)
    pairs = treelstm.load_pairs(tmp_path / "both")
    assert pairs.similarity.tolist() == [0.5, 0.1] and pairs.label.tolist() == [1, 0]
    table.write_text(
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        "1\t1\t2\ta man sings\tno one\n0\t3\t4\tit, too\tno one\n"
    )
    treelstm.make_pairs(path, tmp_path / "mrpc", scores=table)
    assert treelstm.load_pairs(tmp_path / "mrpc").label.tolist() == [1, 0]


BAD_TABLES = {
    "no such tree": (
        "first,second,score\na0,a1,1\na0,b9,2\n",
        r"t\.csv:3: 'b9' is the id or sentence of no",
    ),
    "no number": ("first,second,score\na0,a1,much\n", r"t\.csv:2: .* is not a number: a0, a1, much"),
    "NaN": ("first,second,score\na0,a1,nan\n", r"t\.csv:2: .* is not a number: a0, a1, nan"),
    "a short row": ("first,second,score\na0,a1\n", r"t\.csv:2: a column is missing.*: a0, a1\."),
    "no score": ("first,second,score\na0,a1,\n", r"t\.csv:2: .* is not a number: a0, a1, "),
    "empty": ("", r"t\.csv: holds no rows"),
    "blank": ("\n \n", r"t\.csv: holds no rows"),
    "a header alone": ("first,second,score\n", r"t\.csv: holds no rows"),
    "unknown header": (
        "a,b,c\n1,2,3\n",
        r"t\.csv: a known name is not in the header: a, b, c.*Say columns",
    ),
    "not UTF-8": (b"first,second,score\n\xff,a1,1\n", r"t\.csv:2: not UTF-8"),
    "two trees": (
        "first,second,score\ntwice,a1,1\n",
        r"t\.csv:2: 'twice' is the id or sentence of 2 tree",
    ),
    "two scores": ("first,second,score,label\na0,a1,2,3\n", "two columns of similarit"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_does_not_fit_is_refused_by_file_and_line(tmp_path, case):
    raw, message = BAD_TABLES[case]
    (tmp_path / "t.csv").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    path = write_sentences(tmp_path / "a.conllu", SENTENCES)
    more = write_sentences(tmp_path / "b.conllu", [("-", "twice")])
    more.write_text(more.read_text() + more.read_text().replace("b0", "b1").replace("\tX\t", "\tY\t"))
    with pytest.raises((DataError, PairingError), match=message):
        treelstm.make_pairs([path, more], tmp_path / "to", scores=tmp_path / "t.csv")
    with pytest.raises(
        PairingError, match=r"lefft is not in the header: left, right, gold. Did you mean left"
    ):
        (tmp_path / "t.csv").write_text("left,right,gold\na0,a1,1\n")
        treelstm.make_pairs(
            path, tmp_path / "to", scores=tmp_path / "t.csv", columns=["lefft", "right", "gold"]
        )
    assert not (tmp_path / "to").exists()


def test_an_id_that_occurs_twice_is_refused(tmp_path):
    path = write_sentences(tmp_path / "a.conllu", corpus())
    path.write_text(path.read_text() + "\n" + path.read_text())
    with pytest.raises(DataError, match=r"a\.conllu:\d+: the id a0 occurs a second time"):
        treelstm.make_pairs(path, tmp_path / "to", by="label")


def test_a_treebank_becomes_pairs_whose_neighbours_share_their_words(tmp_path):
    write_treebank(tmp_path / "treebank", stories=12)
    made = treelstm.make_pairs(
        tmp_path / "treebank", tmp_path / "to", by="label", neighbours=True, validation=0.3
    )
    assert all(about["num_positive_pairs"] == about["num_negative_pairs"] for about in made.values())
    pairs = [treelstm.load_pairs(directory) for directory in made]
    assert len(set(pairs[0].sentences) & set(pairs[1].sentences)) == 0
