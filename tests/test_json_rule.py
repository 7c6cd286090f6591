"""The rule that makes a tree of any JSON: no two values give one tree, nothing foreign passes."""

from __future__ import annotations

import ast as python_ast
import collections
import copy
import dataclasses
import datetime
import decimal
import inspect
import json
import pickle
import sys
import unicodedata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from asts import encoder_for
from conftest import tiny_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import copy as copied

from treelstm import (
    evaluate,
    export_encoder,
    import_encoder,
    load_encoder,
    load_pairs,
    train,
)
from treelstm.data.reading import digest_of
from treelstm.explanation import explain
from treelstm.model.vectors import Vectors
from treelstm.run.state import SettingsChanged
from treelstm.sealed import UNTYPED, read_sealed, write_sealed
from treelstm.tables import explanation_table
from treelstm.tree_figures import pair_figure
from treelstm.trees.builder import ForestBuilder, TreeError, compile_forest
from treelstm.trees.vocabulary import LIST, ROLE, Vocabulary, key_of, readable, value_of

LONG = "k" * 5_000
DECOMPOSED = unicodedata.normalize("NFD", "é")
KEYS = [
    "a",
    "b",
    "role",
    "",
    "a=b",
    "a\\",
    "\\",
    "=",
    "\\=",
    "\\role",
    "list",
    "\\list",
    "?",
    "é",
    DECOMPOSED,
]
KEYS += ["\ud800", "\n", LONG, LONG + "k"]
TEXTS = [
    *KEYS,
    "1",
    "-0.0",
    "true",
    "null",
    "b=c",
    "\\?",
    "\\\\?",
    "\\1",
    "\\true",
    "[]",
    "\\[]",
    "\\list=\\[]",
]
NUMBERS = [0, 1, -1, 1.0, 0.0, -0.0, 1e300, 1e-7, 10**30, True, False]
SCALARS = st.sampled_from([None, *TEXTS, *NUMBERS])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=6,
)


def normal(value: Any) -> Any:
    """A value without what data/README.md says is not told apart, and nothing else left out."""
    if isinstance(value, dict):
        items = {key: several(each if isinstance(each, list) else [each]) for key, each in value.items()}
        return "object", tuple(sorted((key, each) for key, each in items.items() if each))
    if isinstance(value, list):
        return "list", several(value)
    return type(value).__name__, repr(value)


def several(items: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted((normal(item) for item in items if item is not None), key=repr))


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=2), min_size=12))
def test_different_values_are_different_trees_and_equal_ones_equal(asts):
    asts = [ast for ast in asts if normal(ast) != ("object", ())]
    builder = ForestBuilder()
    for each in asts:
        builder.add(each)
    digests = builder.forest().tree_digest.tolist() if asts else []
    assert len(set(digests)) == len({normal(ast) for ast in asts})
    assert len(set(zip(digests, map(normal, asts), strict=True))) == len(set(digests))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a=b": "c"}, {"a": "b=c"}),
        ({"x": 1}, {"x": "1"}),
        ({"x": True}, {"x": "true"}),
        ({"x": True}, {"x": 1}),
        ({"x": 1.0}, {"x": 1}),
        ({"x": -0.0}, {"x": 0.0}),
        ({"x": r"\1"}, {"x": 1}),
        ({"x": r"\?"}, {"x": "?"}),
        ({"x": [["a"], ["b", "c"]]}, {"x": [["a", "b"], ["c"]]}),
        ({"x": [["a"], ["b", "c"]]}, {"x": ["a", "b", "c"]}),
        ({"x": [[]]}, {"x": [{}]}),
        ({"x": [[]]}, {"x": [[[]]]}),
        ({"x": [[1]]}, {"x": [{"x": 1}]}),
        ({"a": {"role": "x", "z": 1}}, {"x": {"role": "a", "z": 1}}),
        ({"a": {"k": "v"}}, {"a": "v", "k": "v"}),
        ({"?": {"k": 1}}, {"role": {"k": 1}}),
        ({"é": 1}, {DECOMPOSED: 1}),
        ({"": 1}, {"=": 1}),
    ],
)
def test_what_once_was_one_tree_is_two(first, second):
    one, other = compile_forest([first, second]).tree_digest.tolist()
    assert one != other


def test_texts_are_spelled_as_ever_and_every_symbol_gives_back_its_key_and_value():
    forest = compile_forest([{"tipo": "frazo", "x": {"radiko": "2", "p": "a=b?", "q": "?"}}])
    assert set(forest.symbols) == {"tipo=frazo", "role=x", "radiko=2", "p=a=b?", r"q=\?"}
    for key in KEYS:
        for text in TEXTS:
            (symbol,) = compile_forest([{key: text}]).symbols
            assert (key_of(symbol), value_of(symbol)) == (key, text)
        assert f"{ROLE}x" not in compile_forest([{key: "x"}]).symbols
    assert [value_of(compile_forest([{"k": n}]).symbols[0]) for n in NUMBERS] == list(
        map(json.dumps, NUMBERS)
    )
    assert readable(r"a\=b=\1") == "a=b=1" and readable("?") == "?" and readable(LIST) == "list=[]"


def test_the_unknown_value_of_a_key_is_no_value_that_data_can_have():
    asts = [{key: {"k": text, "n": 1}} for key in KEYS for text in TEXTS]
    forest = compile_forest(asts)
    vocabulary = Vocabulary.of(forest, np.arange(len(forest)))
    assert not vocabulary.is_unknown(vocabulary.ids(forest.symbols)).any()
    assert len(set(vocabulary.symbols)) == len(vocabulary)
    unknown = compile_forest([{"n": "1"}, {"a=b": {"role": "new"}}]).symbols
    known = [vocabulary.symbols[i] for i in vocabulary.ids(unknown)]
    assert known == ["n=?", r"?", "role=a\\=b"] or set(known) == {"n=?", "?", "role=a=b"}


class Broken(collections.UserDict[str, Any]):
    def items(self) -> Any:
        raise OSError("gone")


class Liar:
    __class__ = property(lambda self: 1 / 0)  # type: ignore[assignment]


@dataclasses.dataclass
class Node:
    kind: str


HOLDS_ITSELF: dict[str, Any] = {"kind": "x"}
HOLDS_ITSELF["children"] = [{"parent": HOLDS_ITSELF}, {"parent": HOLDS_ITSELF}]
RING: list[Any] = []
RING.append(RING)
FOREIGN = {
    "a generator": ((n for n in "ab"), "is a generator"),
    "a set": ({1}, "is a set"),
    "bytes": (b"x", "is a bytes"),
    "a bytearray": (bytearray(b"x"), "is a bytearray"),
    "a UserString": (collections.UserString("abc"), "is a UserString"),
    "an ast": (python_ast.parse("x + 1"), "is a Module"),
    "a dataclass": (Node("x"), "is a Node"),
    "NaN": (float("nan"), "is the number nan, which JSON does not have"),
    "infinity": (-1e400, "is the number -inf"),
    "numpy's NaN": (np.float32("nan"), "is the number nan"),
    "a date": (datetime.date(2000, 1, 1), "is a date"),
    "numpy's date": (np.datetime64("2000-01-01"), "is a datetime64"),
    "numpy's time": (np.timedelta64(1), "is a timedelta64"),
    "a liar": (Liar(), "is a Liar that cannot be read"),
    "an array": (np.zeros(3), "is a ndarray"),
    "a decimal": (decimal.Decimal(1), "is a Decimal"),
    "a complex number": (1j, "is a complex"),
    "a class": (dict, "is a type"),
    "a key that is a number": (
        {3: "x"},
        "is a mapping with a key that is a number, expected texts as keys",
    ),
    "a key of null": ({3: None}, "is a mapping with a key that is a number, expected texts as keys"),
    "a key that is None": (collections.UserDict({None: 1}), "is a mapping with a key that is null"),
    "a broken mapping": (Broken(), r"is a Broken that cannot be read \(OSError\)"),
    "a tree that holds itself": (
        HOLDS_ITSELF,
        r"\.children\[0\]\.parent is one of the objects that hold",
    ),
    "a list that holds itself": (RING, r"\[0\] is one of the objects that hold it"),
    "a huge number": (10**5000, "is a number of more than 4,300 digits"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_json_has_no_word_for_is_refused_with_its_path(name):
    value, found = FOREIGN[name]
    encoder = encoder_for([{"kind": "x"}])
    root = {"kind": "x", "body": [{"kind": "y"}, collections.UserDict({"targets": ("z", value)})]}
    with pytest.raises(
        TreeError,
        match=r"^asts\[1\]\.body\[1\]\.targets\[1\]" + ("" if found[0] == "\\" else " ") + found,
    ):
        encoder.encode([{"kind": "x"}, root])
    with pytest.raises(TreeError, match=r"asts\[0\]\['a b'\]"):
        encoder.distance({"a b": value}, {"kind": "x"})
    encoder.threshold = 1.0
    with pytest.raises(TreeError, match=r"asts\[1\]\.k"):
        encoder.is_similar({"kind": "x"}, {"k": value})
    if "key" not in name:
        assert compile_forest([{"kind": "x", "k": value}], ignored_keys=["k"]).symbols == ("kind=x",)


@pytest.mark.parametrize(
    "asts",
    [None, 3, {"kind": "x"}, collections.UserDict(kind="x"), "x", b"x", np.array(3), [[]], [None], [{}]],
)
def test_what_is_no_list_of_trees_is_refused(asts):
    with pytest.raises(TreeError):
        encoder_for([{"kind": "x"}]).encode(asts)


def test_mappings_are_nodes_and_sequences_are_lists():
    plain = {
        "t": "+",
        "n": 1,
        "x": 0.5,
        "yes": True,
        "children": [{"n": "x"}, {"n": "y", "of": ["a", "b"]}],
    }
    deque, user = collections.deque(["a", "b"]), collections.UserDict
    others = [
        plain | {"children": ({"n": "x"}, {"n": "y", "of": deque})},
        collections.OrderedDict(plain) | {"children": collections.UserList(plain["children"])},
        user(
            plain | {"children": [user(n="x"), MappingProxyType({"n": np.str_("y"), "of": ("a", "b")})]}
        ),
        plain | {"n": np.int64(1), "x": np.float64(0.5), "yes": np.True_},
        collections.ChainMap(plain),
    ]
    assert len(set(compile_forest([plain, *others]).tree_digest.tolist())) == 1
    assert {type(symbol) for symbol in compile_forest(others).symbols} == {str}


DEPTHS = [330, 496, 990, 1_100, 20_000]


def deep(depth: int, leaf: str = "x") -> dict[str, Any]:
    node: dict[str, Any] = {"k": leaf}
    for level in range(depth):
        node = {"k": "n", "c": node} if level % 3 else {"c": [node]}
    return node


@pytest.mark.parametrize("limit", [300, 20_000])
def test_a_tree_of_any_depth_is_read_at_any_limit_of_recursion(tmp_path, limit):
    lines = []
    for depth in DEPTHS:
        text = '{"c": [' * depth + '{"k": "é\\u00e9"}' + "]}" * depth
        lines.append(
            f'{{"similarity": 1, "ast1": {{"ast": {text}}}, "ast2": {{"ast": {{"k": "x"}}}}}}\n'
        )
    (tmp_path / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    before, height = sys.getrecursionlimit(), len(inspect.stack())
    sys.setrecursionlimit(height + limit)
    try:
        pairs = load_pairs(tmp_path, objective=None)
    finally:
        sys.setrecursionlimit(before)
    assert pairs.forest.tree_heights[pairs.first].tolist() == DEPTHS
    again = load_pairs(tmp_path, objective=None)  # from the compiled corpus
    assert again.content_digest == pairs.content_digest


def test_a_deep_tree_goes_everywhere(tmp_path):
    asts = [deep(1_500), deep(1_500, leaf="y"), deep(990)]
    encoder = encoder_for([deep(5), {"k": "y"}])
    encoder.float().threshold = 1.0
    vectors = encoder.encode(asts)
    assert vectors.isfinite().all() and encoder.distance(*asts[:2]) > 0 == encoder.distance(
        asts[2], asts[2]
    )
    forest = compile_forest(asts)
    for other in (copy.copy(forest), copy.deepcopy(forest), pickle.loads(pickle.dumps(forest))):
        assert other.tree_digest.tolist() == forest.tree_digest.tolist()
    why = explain(encoder, forest, [0, 1])
    assert "y" in explanation_table(why).data and why.distance > 0
    pair_figure(forest, [0, 1], ["k"], ["first", "second"])


def test_a_run_on_deep_trees_trains_and_is_evaluated(tmp_path):
    texts = ['{"c": {"k": "n", "c": [' * (500 + k) + '{"k": "x"}' + "]}}" * (500 + k) for k in range(3)]
    for name in ("training", "validation"):
        (tmp_path / name).mkdir()
        for label, stem, ends in ((1, "positive", (0, 1)), (0, "negative", (0, 2))):
            one, two = (f'{{"ast": {texts[k]}}}' for k in ends)
            line = f'{{"label": {label}, "ast1": {one}, "ast2": {two}}}\n'
            (tmp_path / name / f"{stem}_pairs.jsonl").write_text(line)
    config = tiny_config(tmp_path, tmp_path / "run", epochs=1)
    assert train(config).finished
    encoder = load_encoder(tmp_path / "run" / "final_model.pt")
    assert evaluate(encoder, load_pairs(tmp_path / "validation")).roc_auc == 1


def numbered(data: Path, number: Any) -> Path:
    """A corpus with one more key in each tree, whose value `number` makes of 0, 1 or 2."""
    for path in data.glob("*/*_pairs.jsonl"):
        records = list(map(json.loads, path.read_text().splitlines()))
        for k, record in enumerate(records):
            record["ast1"]["ast"] |= {"n": number(k % 3)}
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return data


@pytest.fixture
def earlier(tiny, tmp_path) -> tuple[Path, Path]:
    """A corpus with numbers, and a run on it as a version wrote it to which 1 and "1" were the same."""
    texts = numbered(copied(tiny, tmp_path / "texts"), str)
    train(tiny_config(texts, tmp_path / "run", epochs=1))
    numbers = numbered(copied(tiny, tmp_path / "numbers"), int)
    for path in (tmp_path / "run").glob("*.pt"):
        content = read_sealed(path)
        content["fingerprint"] = {
            name: digest_of(numbers / name) for name in content.get("fingerprint", ())
        }
        write_sealed(path, content | {"format": UNTYPED})
    return numbers, tmp_path / "run"


def test_a_run_of_an_earlier_version_is_not_resumed_on_other_symbols(earlier, tmp_path):
    numbers, run = earlier
    config = tiny_config(numbers, run, epochs=2)
    with pytest.raises(
        SettingsChanged, match=r"another version of treelstm wrote it.*start_from"
    ) as caught:
        train(config)
    assert "epoch_1.pt was trained on other trees than these files" in str(caught.value)
    started = tiny_config(numbers, tmp_path / "new", start_from=str(run / "final_model.pt"), epochs=1)
    assert train(started).finished
    assert read_sealed(tmp_path / "new" / "final_model.pt")["format"] == UNTYPED


def test_an_encoder_of_an_earlier_version_reads_numbers_as_it_did(earlier, tmp_path):
    _, run = earlier
    old = load_encoder(run / "final_model.pt")
    assert old.encode([{"n": 1}]).equal(old.encode([{"n": "1"}]))
    assert old.distance({"n": 1}, {"n": 2}) > 0
    export_encoder(old, tmp_path / "export")
    assert import_encoder(tmp_path / "export").encode([{"n": 1}]).equal(old.encode([{"n": "1"}]))


def test_pages_show_keys_and_values_as_the_user_wrote_them():
    asts = [{"a=b": 1, "x": {"role": "own", "kid=1": {"a=b": "?"}}}, {"a=b": [[2]], "x": {"role": True}}]
    forest, encoder = compile_forest(asts), encoder_for(asts).float()
    for label_keys in ([], ["a=b", "role"]):
        figure = pair_figure(forest, [0, 1], label_keys, ["", ""])
        shown = {text.get_text() for ax in figure.axes for text in ax.texts}
        assert {"x", "kid=1", "a=b", "1", "own", "?"} <= shown and not any(
            "\\" in text for text in shown
        )
    table = explanation_table(explain(encoder, forest, [0, 1])).data
    assert "a=b=1" in table and "role=own" in table and "\\" not in table


def test_a_number_has_the_vector_of_its_spelling_and_a_key_may_hold_an_equals_sign():
    words = "1\nown\n="
    table, texts = torch.eye(3), torch.frombuffer(bytearray(words.encode()), dtype=torch.uint8)
    symbols = compile_forest([{"a=b": [1, "1"], "role": "own", "n": 1}]).symbols
    rows = dict(zip(symbols, Vectors(table, texts).rows_of(symbols, ["a=b", "role"]), strict=True))
    assert rows == {r"a\=b=\1": 0, r"a\=b=1": 0, r"\role=own": 1, r"n=\1": -1}
