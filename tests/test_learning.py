"""The reader of the SICK corpus in the text format of published Tree-LSTM code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from treelstm import load_pairs

sys.path.append(str(REPOSITORY / "benchmarks"))  # its modules are scripts beside the package
from learning import sick_pairs, sick_tree

FILES = {
    "a.toks": "A dog runs\nTwo cats sleep\n",
    "a.parents": "2 3 0\n2 3 0\n",
    "a.rels": "det nsubj root\nnum nsubj root\n",
    "b.toks": "The dog is running\nNo cat sleeps\n",
    "b.parents": "2 4 4 0\n2 3 0\n",
    "b.rels": "det nsubj aux root\nneg nsubj root\n",
    "sim.txt": "4.7\n2.5\n",
}


@pytest.fixture
def sick(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_tokens_hang_under_their_heads_by_their_relations(sick):
    first, second = sick_pairs(sick)
    assert first["similarity"] == 4.7 and second["similarity"] == 2.5
    assert first["ast1"]["ast"] == {"word": "runs", "nsubj": [{"word": "dog", "det": [{"word": "a"}]}]}
    assert first["ast2"]["sentence"] == "The dog is running"
    assert [*first["ast2"]["ast"]] == ["word", "nsubj", "aux"]


def test_the_pairs_are_what_a_run_reads(sick):
    lines = map(json.dumps, sick_pairs(sick))
    (sick / "pairs.jsonl").write_text("\n".join(lines))
    pairs = load_pairs(sick, objective=None)
    assert pairs.similarity.tolist() == [4.7, 2.5] and pairs.label.tolist() == [-1, -1]
    assert pairs.forest.tree_nodes.tolist() == [3, 4, 3, 3]


@pytest.mark.parametrize(
    "parents", ["2 3", "2 0 0", "2 3 1"], ids=["one too few", "two roots", "no root"]
)
def test_parents_that_do_not_fit_their_tokens_are_refused(parents):
    with pytest.raises(ValueError, match=r"roots in|shorter|longer"):
        sick_tree("A dog runs", parents, "det nsubj root")


def test_files_of_different_lengths_are_refused(sick):
    (sick / "sim.txt").write_text("4.7\n")
    with pytest.raises(ValueError, match=r"shorter|longer"):
        list(sick_pairs(sick))
