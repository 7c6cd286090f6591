"""Which keys name nodes, on corpora of different kinds."""

from __future__ import annotations

import ast
import hashlib
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from treelstm import Config, load_pairs, write_sample
from treelstm.config import ConfigError
from treelstm.trees.builder import compile_forest
from treelstm.trees.naming import label_keys

ENGLISH = """the old dog sees a black cat . a cat sleeps . the child gives the dog some water quickly .
we never saw that strange black bird again . birds sing and children laugh in the green garden"""
TAGS = ["DET", "ADJ", "NOUN", "VERB", "ADV"]


def of_python(node: ast.AST, kind: str = "_type") -> dict[str, Any]:
    """As many tools write it: the class, the fields, the positions."""
    tree: dict[str, Any] = {kind: type(node).__name__}
    for name in (*node._fields, *node._attributes):
        value = getattr(node, name, None)
        below = [of_python(each, kind) if isinstance(each, ast.AST) else each for each in [value]]
        if isinstance(value, list):
            below = [of_python(each, kind) if isinstance(each, ast.AST) else each for each in value]
        tree[name] = below if isinstance(value, list) else below[0]
    return tree


def python_functions() -> list[dict[str, Any]]:
    source = ast.parse(Path(textwrap.__file__).read_text())
    return [of_python(node) for node in ast.walk(source) if isinstance(node, ast.FunctionDef)]


def of_tree_sitter(node: ast.AST) -> dict[str, Any]:
    """Each node with its type and its text, also where that is a whole function."""
    below = [of_tree_sitter(child) for child in ast.iter_child_nodes(node)]
    kind, text = type(node).__name__.lower(), ast.unparse(node)
    return {"type": kind, "text": text, "named": bool(below), "children": below}


def sentences() -> list[list[str]]:
    return [line.split() for line in ENGLISH.split(".")]


def dependencies() -> list[dict[str, Any]]:
    """Words below words, as UD; without their text some stand for what is not there."""

    def word(words: list[str], k: int) -> dict[str, Any]:
        tag = TAGS[len(words[k]) % len(TAGS)]
        morphology = {"upos": tag, "number": "Sing" if k % 3 else "Plur", "id": k + 1, "head": k}
        below = [word(words, k + 1)] if k + 1 < len(words) else [{"upos": "PUNCT", "id": 99}]
        return {"form": words[k], **morphology, "deps": below}

    return [word(words, 0) for words in sentences()]


def constituents(label: Any) -> list[dict[str, Any]]:
    """Words on the leaves; `label` gives what stands on every node."""

    def span(words: list[str]) -> dict[str, Any]:
        if len(words) == 1:
            return {"label": label(words), "word": words[0]}
        return {"label": label(words), "children": [span(words[:1]), span(words[1:])]}

    return [span(words) for words in sentences()]


def sample() -> list[dict[str, Any]]:
    def word(root: str, k: int) -> dict[str, Any]:
        case = ["nominativo", "akuzativo"][k % 2]
        return {"tipo": "vorto", "radiko": root, "vortspeco": TAGS[k % 5], "kazo": case}

    def phrase(words: list[str]) -> dict[str, Any]:
        return {"tipo": "vortgrupo", "kerno": word(words[-1], 2), "priskriboj": [word(words[0], 1)]}

    return [
        {"tipo": "frazo", "subjekto": phrase(w[:3]), "aliaj": [word(x, k) for k, x in enumerate(w)]}
        for w in sentences()
    ]


@pytest.mark.parametrize(
    ("asts", "first", "last"),
    [
        (sample(), ["radiko"], "tipo"),
        (python_functions(), ["arg", "attr", "id", "name", "value"], "_type"),
        ([of_tree_sitter(ast.parse(Path(textwrap.__file__).read_text()))], ["text"], "type"),
        (dependencies(), ["form"], "upos"),
        (constituents(lambda words: "0123"[len(words) % 4]), [], "word"),
        (constituents(lambda words: len(words) / 7), [], "word"),
        (constituents(lambda words: "NP VP S PP ADJP".split()[len(words) % 5]), ["word"], "label"),
    ],
    ids="sample python tree-sitter dependencies sentiment numbers constituents".split(),
)
def test_words_name_leaves_and_kinds_name_what_has_no_word(asts, first, last):
    *words, kind = label_keys(compile_forest(asts))
    assert sorted(words) == first and kind == last


def test_positions_ids_flags_and_a_constant_name_nothing():
    def node(k: int) -> dict[str, Any]:
        sha = hashlib.sha1(b"%d" % k).hexdigest()[:8]
        more = {"uid": f"n{k:04}", "span": f"{k}:{k + 3}", "line": k, "score": k / 7, "sha": sha}
        return {"language": "eo", "seen": k % 2 == 0, **more, "part": [node(k + 1)] if k % 50 else []}

    forest = compile_forest([node(k) for k in (1, 101, 201)])
    assert label_keys(forest) == ()
    assert label_keys(compile_forest([{"only": {"part": 1}}])) == ()
    items = [{"type": f"t{k % 5}", "name": f"item {k}", "uid": f"n{k:04}"} for k in range(500)]
    assert label_keys(compile_forest([{"type": "list", "items": items}])) == ("name", "type")


def test_neither_the_order_nor_repetition_of_trees_matters_and_a_large_forest_takes_no_time():
    asts = python_functions()
    assert label_keys(compile_forest(asts)) == label_keys(compile_forest(2 * asts[::-1]))
    words = ({"kind": f"k{k % 30}", "word": f"w{k % 900}", "n": k} for k in range(9_000))
    forest = compile_forest(words)
    began = time.process_time()
    assert label_keys(forest) == ("word", "kind")
    assert time.process_time() - began < 1  # 0.02 s


def test_given_keys_are_taken_and_one_that_no_node_has_is_refused_with_those_that_there_are():
    forest = compile_forest(sample())
    assert label_keys(forest, Config(label_keys="kazo, tipo").label_keys) == ("kazo", "tipo")
    assert label_keys(forest, Config(label_keys=None).label_keys) == ("radiko", "tipo")
    message = "label_keys names 'radko', which no node of these trees has. Did you mean radiko"
    with pytest.raises(ConfigError, match=message) as refused:
        label_keys(forest, ("tipo", "radko"))
    assert str(refused.value).endswith("Their keys are kazo, radiko, tipo, vortspeco.")


def test_the_sample_is_named_by_root_and_kind(tmp_path):
    write_sample(tmp_path, positives=20, negatives=40)
    assert label_keys(load_pairs(tmp_path).forest) == ("radiko", "tipo")
