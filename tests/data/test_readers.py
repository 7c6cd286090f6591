"""Trees from what parsers write: each construct of each format, round trips, every kind of damage."""

from __future__ import annotations

import gzip
import json

import pytest

import treelstm
from treelstm.commands import main
from treelstm.data.pairs import DataError

KURAS = """\
# newdoc id = d1
# sent_id = s1
# text = La hundo kuras.
1\tLa\tla\tDET\tART\t_\t2\tdet\t2:det\t_
2\thundo\thundo\tNOUN\t_\tCase=Nom|Number=Sing\t3\tnsubj\t_\t_
3\tkuras\tkuri\tVERB\t_\tTense=Pres\t0\troot\t_\tSpaceAfter=No
4\t.\t.\tPUNCT\t_\t_\t3\tpunct\t_\t_

"""


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems_of(path, format=None):
    with pytest.raises(DataError) as caught:
        treelstm.read_trees(path, format)
    shown = caught.value.problems.shown
    assert all(each.found and each.remedy for each in shown)
    return [each.found for each in shown]


def test_a_sentence_of_conllu_is_nested_by_head_with_relations_as_keys(tmp_path):
    (tree,) = treelstm.read_trees(write(tmp_path / "a.conllu", KURAS))
    assert (tree.id, tree.sentence, tree.label, tree.line) == ("s1", "La hundo kuras.", None, 1)
    assert tree.ast == {
        "form": "kuras", "lemma": "kuri", "upos": "VERB", "Tense": "Pres",
        "nsubj": {
            "form": "hundo", "lemma": "hundo", "upos": "NOUN", "Case": "Nom", "Number": "Sing",
            "det": {"form": "La", "lemma": "la", "upos": "DET"},
        },
        "punct": {"form": ".", "lemma": ".", "upos": "PUNCT"},
    }  # fmt: skip


def test_the_command_writes_the_same_bytes_each_time_and_says_what_is_left_out(tmp_path, capsys):
    write(tmp_path / "a.conllu.gz", gzip.compress(KURAS.encode()))
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        assert main(["trees", str(tmp_path / "a.conllu.gz"), "--to", str(tmp_path / name)]) == 0
    assert "1 trees" in (said := capsys.readouterr().out) and "enhanced dependencies (1)" in said
    one, two = ((tmp_path / name).read_bytes() for name in ("one.jsonl.gz", "two.jsonl.gz"))
    assert one == two
    row = json.loads(gzip.decompress(one))
    assert list(row) == ["id", "sentence", "ast"] and row["id"] == "s1"


def test_nothing_is_written_when_there_is_a_problem(tmp_path, capsys):
    path, to = write(tmp_path / "a.conllu", KURAS + KURAS), tmp_path / "out" / "trees.jsonl.gz"
    to.parent.mkdir()
    assert main(["trees", str(path), "--to", str(to)]) == 1
    assert f"{path}:9: the id s1 occurs a second time" in capsys.readouterr().err
    assert list(to.parent.iterdir()) == []
