"""child_order=True: what the order of a list's items changes, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asts import encoder_for, trees
from conftest import tiny_config
from corpora import put_together, store_in, taken_apart
from hypothesis import given, settings
from hypothesis import strategies as st

from treelstm import (
    Config,
    evaluate,
    export_encoder,
    import_encoder,
    load_encoder,
    load_pairs,
    preflight,
    train,
)
from treelstm.checks.report import as_text
from treelstm.config import ConfigError
from treelstm.explanation import explain
from treelstm.run.state import SettingsChanged
from treelstm.tree_figures import tree_figure
from treelstm.trees.builder import compile_forest
from treelstm.trees.check import check_forest


def leaf(kind: str, text: str | None = None) -> dict[str, Any]:
    return {"kind": kind} if text is None else {"kind": kind, "text": text}


def node(kind: str, *children: Any) -> dict[str, Any]:
    return {"kind": kind, "children": list(children)}


P, HEAD = leaf("identifier", "p"), leaf("identifier", "head")
MANY = [leaf("statement", str(k % 40)) for k in range(1_000)]
IN_ANOTHER_ORDER: dict[str, tuple[Any, Any]] = {
    "p = head; and head = p;": (node("assignment", P, HEAD), node("assignment", HEAD, P)),
    "i++ and ++i": (node("update", leaf("name"), leaf("++")), node("update", leaf("++"), leaf("name"))),
    "deep inside": (node("f", node("g", node("h", P, HEAD))), node("f", node("g", node("h", HEAD, P)))),
    "texts": ({"x": ["a", "b"]}, {"x": ["b", "a"]}),
    "numbers": ({"x": [1, 2, 2]}, {"x": [2, 1, 2]}),
    "a text among objects": ({"x": ["not", {"y": 1}]}, {"x": [{"y": 1}, "not"]}),
    "null": ({"keys": [None, "a"]}, {"keys": ["a", None]}),
    "lists in a list": ({"x": [["a", "b"], ["c"]]}, {"x": [["c"], ["a", "b"]]}),
    "inside a list in a list": ({"x": [["a", "b"], ["c"]]}, {"x": [["b", "a"], ["c"]]}),
    "two of three": (node("f", P, HEAD, P), node("f", P, P, HEAD)),
    "the last two of 1,000": (node("f", *MANY), node("f", *MANY[:-2], MANY[-1], MANY[-2])),
    "first and last of 1,000": (node("f", *MANY), node("f", MANY[-1], *MANY[1:-1], MANY[0])),
    "two lists": ({"x": [P, HEAD], "y": [P, HEAD]}, {"x": [P, HEAD], "y": [HEAD, P]}),
}


@pytest.mark.parametrize("what", IN_ANOTHER_ORDER)
def test_trees_that_differ_in_an_order_alone_are_one_tree_without_child_order_and_two_with_it(what):
    pair = IN_ANOTHER_ORDER[what]
    assert encoder_for([*pair], torch.float32).distance(*pair) == 0
    ordered = encoder_for([*pair], torch.float32, child_order=True)
    assert ordered.distance(*pair) > 1e-5
    forest = compile_forest(pair, child_order=True)
    assert len({*forest.tree_digest.tolist()}) == 2 and forest.tree_nodes[0] == forest.tree_nodes[1]
    check_forest(forest)


def test_one_more_child_in_the_middle_moves_those_after_it():
    short, long = node("f", P, HEAD), node("f", P, leaf("new"), HEAD)
    alone = encoder_for([{"x": "a"}], child_order=True)
    assert alone.distance({"x": "a"}, {"x": ["a"]}) == 0  # one item has no order
    ordered = encoder_for([long], child_order=True)
    everywhere = [node("f", *MANY[:k], leaf("new"), *MANY[k:6]) for k in range(7)]
    z = encoder_for(everywhere, child_order=True).encode(everywhere)
    assert ordered.distance(short, long) > 1e-5 and torch.pdist(z).min() > 1e-6


def reversed_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [reversed_keys(item) for item in value]
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return value


@settings(max_examples=30, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=4))
def test_the_keys_of_an_object_have_no_order_and_equal_subtrees_are_one_wherever_they_are(asts):
    encoder = encoder_for(asts, torch.float32, child_order=True)
    assert torch.equal(encoder.encode(asts), encoder.encode([reversed_keys(ast) for ast in asts]))
    shared = compile_forest(asts, child_order=True)
    check_forest(shared)
    in_turn = compile_forest([asts[-1], *asts], child_order=True)
    assert in_turn.tree_digest[1:].tolist() == shared.tree_digest.tolist()
    assert np.array_equal(in_turn.place, shared.place) and np.array_equal(in_turn.child, shared.child)


def test_a_subtree_is_stored_once_whatever_its_place():
    forest = compile_forest([node("f", P, HEAD), node("f", HEAD, P)], child_order=True)
    assert len(forest.height) == 4  # two leaves and two roots
    assert forest.place.tolist() in ([0, 1, 1, 0], [1, 0, 0, 1])


def test_a_corpus_without_child_order_is_compiled_to_the_same_bits_as_ever():
    draw = random.Random(0)
    asts: list[Any] = [{"kind": "leaf", "text": f"t{k}"} for k in range(9)]
    for k in range(200):
        some = draw.sample(asts[:40], 3)
        asts.append({"kind": f"k{k % 5}", "items": some[:2], "left": some[2], "words": ["b", "a"]})
    forest, digest = (
        compile_forest(asts),
        hashlib.sha256("\n".join(compile_forest(asts).symbols).encode()),
    )
    for column in dataclasses.fields(forest):
        if column.name not in ("symbols", "place"):
            digest.update(getattr(forest, column.name).tobytes())
    assert (
        digest.hexdigest() == "cb8685fed05878bd7a96f965c9bf123d32c69c3ecee6ab6be6e1daab36deab78"
        and not len(forest.place)
    )


# --- a run -------------------------------------------------------------------------------------


OPERATORS = ["minus", "divide", "power", "less", "shift", "of"]


def write_code(directory: Path, seed: int, names: int = 12) -> None:
    """Expressions: similar with an operator of another spelling, dissimilar with operands exchanged."""
    draw = random.Random(seed)

    def expression(depth: int) -> dict[str, Any]:
        if depth == 0:
            return leaf("name", f"v{draw.randrange(names)}")
        first, second = expression(depth - 1), expression(draw.randrange(depth))
        return {"kind": draw.choice(OPERATORS), "children": [first, second]}

    def exchanged(ast: dict[str, Any]) -> dict[str, Any]:
        return ast | {"children": ast["children"][::-1]} if ast["children"] else ast

    directory.mkdir(parents=True)
    lines: dict[int, list[str]] = {0: [], 1: []}
    for _ in range(150):
        ast = expression(2)
        while ast == exchanged(ast):
            ast = expression(2)
        for label, other in ((1, ast), (0, exchanged(ast))):
            sides = {"ast1": {"ast": ast}, "ast2": {"ast": other | {"style": draw.choice("ab")}}}
            lines[label].append(json.dumps({**sides, "label": label}))
    for label, name in ((1, "positive"), (0, "negative")):
        (directory / f"{name}_pairs.jsonl").write_text("\n".join(lines[label]) + "\n")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("code")
    write_code(directory / "training", 0)
    write_code(directory / "validation", 1)
    return directory


SIZES = {"embedding_dim": 24, "hidden_dim": 32, "output_dim": 16, "epochs": 4, "num_threads": 1}


@pytest.fixture(scope="module")
def ordered(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with child_order."""
    output_dir = tmp_path_factory.mktemp("ordered") / "run"
    train(tiny_config(code, output_dir, child_order=True, learning_rate=5e-3, **SIZES))
    return output_dir


def test_a_trained_encoder_separates_exchanged_operands_which_one_without_order_cannot(
    code, ordered, tmp_path
):
    encoder = load_encoder(ordered / "best_model.pt")
    with_order = evaluate(encoder, load_pairs(code / "validation", child_order=True))
    history = train(tiny_config(code, tmp_path / "run", learning_rate=5e-3, **SIZES | {"epochs": 2}))
    assert with_order.roc_auc > 0.7 > 0.6 > history.epochs[-1]["validation_roc_auc"]
    first, second = node("minus", P, HEAD), node("minus", HEAD, P)
    assert encoder.distance(first, second) > 0
    assert load_encoder(tmp_path / "run" / "best_model.pt").distance(first, second) == 0


def test_what_a_run_with_order_wrote_reads_trees_in_their_order(code, ordered, tmp_path):
    encoder = load_encoder(ordered / "final_model.pt")
    export_encoder(encoder, tmp_path / "export")
    again = import_encoder(tmp_path / "export")
    assert (
        again.settings.child_order
        and json.loads((tmp_path / "export/encoder.json").read_text())["child_order"]
    )
    pair = [node("less", P, HEAD), node("less", HEAD, P)]
    assert torch.equal(again.encode(pair), encoder.encode(pair)) and again.distance(*pair) > 0
    message = "child_order=False, the encoder has .* and True.*child_order=encoder.settings.child_order"
    with pytest.raises(ConfigError, match=message):
        evaluate(encoder, load_pairs(code / "validation"))


def test_preflight_resume_and_start_from_know_of_the_order(code, ordered, tmp_path):
    config = tiny_config(code, ordered, child_order=True, learning_rate=5e-3, **SIZES | {"epochs": 5})
    assert preflight(config).verdict != "no-go", as_text(preflight(config), "utf-8")
    without = dataclasses.replace(config, child_order=False)
    with pytest.raises(
        SettingsChanged, match=r"child_order=True, this run asks for False.*another model"
    ):
        train(without)
    new = {"output_dir": str(tmp_path / "new"), "start_from": str(ordered / "best_model.pt")}
    with pytest.raises(
        SettingsChanged, match="has child_order=True, this run asks for child_order=False"
    ):
        train(dataclasses.replace(without, **new))
    assert train(dataclasses.replace(config, epochs=1, **new)).finished
    with pytest.raises(ConfigError, match=r"changes names child_order.*another model"):
        Config(changes="child_order")


# --- the store, explanations, figures ----------------------------------------------------------


def test_a_store_compiled_without_order_is_not_taken_for_one_with_it(code, tmp_path):
    data = Path(shutil.copytree(code / "training", tmp_path / "data"))
    for child_order in (False, True, False, True, True):
        pairs = load_pairs(data, child_order=child_order)
        assert pairs.child_order == child_order == bool(len(pairs.forest.place))
        exchanged = pairs.forest.root[pairs.first] == pairs.forest.root[pairs.second]
        assert not exchanged.any()
    with pytest.raises(ConfigError, match="child_order is 'yes', expected bool"):
        load_pairs(data, child_order="yes")  # type: ignore[arg-type]


PLACES = {
    "too few": lambda place: place[1:],
    "none": lambda place: place[:0],
    "below 0": lambda place: place - 1,
    "huge": lambda place: place + np.uint64(2**50),
    "all equal": lambda place: place * 0,
}


@pytest.mark.parametrize("what", PLACES)
def test_senseless_places_in_a_store_are_noticed(tmp_path, caplog, what):
    twin = json.dumps({"ast1": {"ast": node("f", P, P, HEAD)}, "ast2": {"ast": node("f", P)}})
    (tmp_path / "pairs.jsonl").write_text(f'{twin[:-1]}, "label": 1}}\n{twin[:-1]}, "label": 0}}\n')
    load_pairs(tmp_path, child_order=True)
    whole = compile_forest([node("f", P, P, HEAD), node("f", P)], child_order=True)  # not mapped
    arrays = taken_apart(store_in(tmp_path))
    put_together(store_in(tmp_path), arrays | {"place": PLACES[what](arrays["place"])})
    again = load_pairs(tmp_path, child_order=True).forest
    assert np.array_equal(again.place, whole.place) and "is damaged" in caplog.text


def test_a_node_is_left_out_as_if_null_stood_in_its_place():
    first = node("f", leaf("a"), node("g", P, HEAD, P), leaf("a"), "text")
    second = node("f", leaf("b"), leaf("a"))
    encoder = encoder_for([first, second], torch.float32, child_order=True)
    why = explain(encoder, compile_forest([first, second], child_order=True), [0, 1])
    assert why.distance == pytest.approx(encoder.distance(first, second), abs=1e-6)
    without = [[*first["children"][:k], None, *first["children"][k + 1 :]] for k in range(4)]
    inner = [[None, HEAD, P], [P, None, P], [P, HEAD, None]]
    asts = [node("f", *each) for each in without]
    asts += [node("f", leaf("a"), node("g", *each), leaf("a"), "text") for each in inner]
    expected = [encoder.distance(ast, second) - why.distance for ast in asts]
    assert why.without[0][1:].tolist() == pytest.approx(expected, abs=1e-6)


def test_figures_show_the_items_of_each_list_in_their_order():
    names = ["zeta", "alfa", "mu", "beta", "omega", "gamma"]
    ast = {"kind": "f", "body": [leaf(each) for each in names], "args": [leaf("y"), "word", leaf("x")]}
    figure = tree_figure(compile_forest([ast], child_order=True), 0, ["kind", "args"])
    (ax,) = figure.axes
    rows = {text.get_text(): text.get_position()[1] for text in ax.texts}
    shown = sorted((each for each in rows if each in {*names, "x", "word", "y"}), key=rows.__getitem__)
    assert shown == ["y", "word", "x", *names]
