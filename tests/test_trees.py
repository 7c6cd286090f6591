from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from asts import trees
from hypothesis import given
from hypothesis import strategies as st

from treelstm.errors import UserError
from treelstm.trees.builder import TreeError, compile_forest
from treelstm.trees.check import check_forest
from treelstm.trees.forest import Forest, TreeBatch
from treelstm.trees.vocabulary import LIST, Vocabulary

TREE = {
    "tipo": "frazo",
    "kerno": {"radiko": "hund", "sufiksoj": ["et", "in"], "kvanto": 2, "vera": True, "neniu": None},
    "aliaj": [{"radiko": "kur"}, [{"radiko": "kur"}], "fine"],
    "plena_vorto": "Hundino",
}


def symbols(forest: Forest) -> set[frozenset[str]]:
    return {frozenset(forest.symbols_of(i)) for i in range(len(forest.height))}


def test_objects_are_nodes_scalars_are_symbols_and_keys_are_roles():
    forest = compile_forest([TREE], ignored_keys=["plena_vorto"])
    assert symbols(forest) == {
        frozenset({"tipo=frazo", "aliaj=fine"}),
        frozenset(
            {"role=kerno", "radiko=hund", "sufiksoj=et", "sufiksoj=in", r"kvanto=\2", r"vera=\true"}
        ),
        frozenset({"role=aliaj", "radiko=kur"}),
        frozenset({"role=aliaj", LIST}),
    }
    assert forest.tree_nodes.tolist() == [5]  # one subtree of the five occurs twice


def test_equal_subtrees_are_stored_once_and_ids_ascend_with_height():
    forest = compile_forest([TREE, TREE, {"radiko": "kur"}])
    assert len(forest) == 3 and forest.root[0] == forest.root[1]
    assert len(forest.height) == 5
    assert (np.diff(forest.height) >= 0).all()
    parents = np.repeat(np.arange(len(forest.height)), np.diff(forest.child_ptr))
    assert (forest.child < parents).all()


def test_a_forest_does_not_depend_on_the_order_of_reading():
    asts = [{"radiko": f"r{k % 5}", "x": [{"radiko": f"r{k % 3}"}, {"y": k % 4}]} for k in range(20)]
    forest = compile_forest(asts)
    order = random.Random(0).sample(range(20), 20)
    other = compile_forest([asts[k] for k in order])
    for name in ("symbol_ptr", "symbol", "child_ptr", "child", "height"):
        assert np.array_equal(getattr(forest, name), getattr(other, name))
    assert forest.symbols == other.symbols
    assert np.array_equal(forest.tree_digest[order], other.tree_digest)
    everything = np.arange(20)
    assert Vocabulary.of(forest, everything).symbols == Vocabulary.of(other, everything).symbols


def test_tree_digests_agree_across_forests():
    alone, among = compile_forest([TREE]), compile_forest([{"radiko": "x"}, TREE, {"a": {"b": 1}}])
    assert alone.tree_digest[0] == among.tree_digest[1]
    assert len(set(among.tree_digest.tolist())) == 3


@pytest.mark.parametrize(
    ("ast", "found"),
    [
        (None, "null"),
        ("hundo", "a string"),
        ([], "an empty list"),
        ([{"a": 1}], "a list"),
        (3, "a number"),
        (True, "a boolean"),
        ({}, "an empty tree"),
        ({"plena_vorto": "x", "radiko": None}, "an empty tree"),
    ],
)
def test_an_ast_that_is_not_a_tree_is_refused_by_number_and_kind(ast: Any, found: str):
    with pytest.raises(TreeError, match=rf"asts\[1\] is {found}") as caught:
        compile_forest([TREE, ast], ignored_keys=["plena_vorto"])
    assert isinstance(caught.value, UserError)


def test_vocabulary_sorts_by_frequency_then_spelling_with_one_unknown_symbol_per_key():
    asts = [{"r": "a"}, {"r": "b", "k": 1}, {"r": "b", "k": 2}]
    forest = compile_forest(asts)
    vocabulary = Vocabulary.of(forest, np.arange(3))
    assert vocabulary.symbols == ("r=b", r"k=\1", r"k=\2", "r=a", "k=?", "r=?", "?")
    ids = vocabulary.ids(["r=b", "r=new", "k=1", "other=1"])
    assert [vocabulary.symbols[i] for i in ids] == ["r=b", "r=?", "k=?", "?"]
    assert vocabulary.is_unknown(ids).tolist() == [False, True, True, True]


def test_vocabulary_counts_a_repeated_tree_once_and_only_the_named_trees():
    forest = compile_forest([{"r": "a"}, {"r": "a"}, {"r": "b"}, {"r": "c"}])
    assert Vocabulary.of(forest, np.array([0, 1, 2])).symbols == ("r=a", "r=b", "r=?", "?")


def test_a_question_mark_in_the_data_is_not_the_unknown_symbol():
    forest = compile_forest([{"r": "?"}, {"r": ["?"]}])
    assert forest.symbols == (r"r=\?",)


def test_a_batch_is_the_four_node_tree_of_its_docstring():
    ast = {"k": 3, "x": [{"k": 1}, {"k": 2, "y": {"k": 0}}]}
    forest = compile_forest([ast])
    batch = forest.batch(np.array([0]), np.arange(len(forest.symbols)))
    assert batch.num_nodes == 4
    nodes, down, up = zip(*batch.levels, strict=True)
    assert nodes == (slice(0, 2), slice(2, 3), slice(3, 4)) and (batch.leaves, batch.below_top) == (2, 3)
    assert down == (slice(0, 0), slice(0, 1), slice(1, 3))
    assert batch.parent.tolist() == [2, 3, 3] and batch.root.tolist() == [3]
    assert sorted(batch.child.tolist()) == [0, 1, 2]
    assert batch.child_start.tolist() == [0, 0, 0, 0]  # the only edges down of their levels
    assert batch.child[batch.by_child].tolist() == [0, 1, 2]
    assert batch.by_child_start.tolist() == [0, 1, 0, 0] and up == (
        slice(0, 2),
        slice(2, 3),
        slice(3, 3),
    )


def test_a_batch_says_which_subtrees_use_each_symbol():
    forest = compile_forest([{"k": 1, "x": [{"k": 1}, {"k": 2}]}])
    batch = forest.batch(np.array([0]), np.array([3, 3, 5]))  # k=1 and k=2 are one symbol
    assert batch.used.tolist() == [3, 5]
    users = batch.user.tensor_split(batch.user_start[1:])
    assert [part.tolist() for part in users] == [[0, 1, 2], [0, 1]]


def test_batches_made_by_two_threads_equal_those_made_by_one():
    draw = random.Random(0)
    words = [{"k": k, "x": [{"k": draw.randrange(3_000)} for _ in range(4)]} for k in range(3_000)]
    forest = compile_forest([{"t": k, "y": draw.sample(words, 10)} for k in range(1_000)])
    ids = np.arange(len(forest.symbols))
    requests = [np.array(draw.sample(range(1_000), 100)) for _ in range(400)]

    def batch(trees: np.ndarray) -> TreeBatch:
        return forest.batch(trees, ids)

    expected = [batch(trees) for trees in requests]
    with ThreadPoolExecutor(2) as threads:
        for ours, alone in zip(threads.map(batch, requests), expected, strict=True):
            assert ours.levels == alone.levels
            for name in ("symbol", "user", "child", "parent", "by_child", "by_child_start", "root"):
                assert torch.equal(getattr(ours, name), getattr(alone, name))


def test_a_forest_cannot_be_changed():
    forest = compile_forest([TREE])
    arrays = [value for value in vars(forest).values() if isinstance(value, np.ndarray)]
    assert len(arrays) == 13
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0
    with pytest.raises(AttributeError):
        forest.root = forest.height


def test_edges_are_sorted_by_child_in_a_forest_of_more_than_65536_subtrees():
    leaves = [{"k": k} for k in range(66_000)]
    twice = {"a": {"x": leaves[:500]}, "b": {"x": leaves[:500]}}
    forest = compile_forest([{"x": leaves}, twice])
    batch = forest.batch(np.array([1]), np.arange(len(forest.symbols)))
    assert batch.child.tolist() == [*range(500), *range(500), 500, 501]
    assert batch.by_child[:1000].view(-1, 2).tolist() == [[k, k + 500] for k in range(500)]


def test_a_batch_moves_to_a_device():
    forest = compile_forest([TREE])
    batch = forest.batch(np.array([0, 0]), np.arange(len(forest.symbols))).to("cpu")
    assert batch.root.tolist() == [batch.num_nodes - 1] * 2
    assert isinstance(batch.symbol, torch.Tensor)


def test_graph_unfolds_shared_subtrees_into_a_tree():
    graph = compile_forest([TREE]).graph(0)
    assert graph.num_nodes == 5 and graph.edge_index.shape == (2, 4)
    assert graph.edge_index[1].tolist() == [1, 2, 3, 4]
    assert graph.validate()
    assert sorted(s for node in graph.symbols for s in node).count("radiko=kur") == 2


def test_a_number_of_too_many_digits_is_refused_by_tree_and_one_of_4000_is_a_symbol():
    assert compile_forest([{"k": 10**3999}]).symbols == (rf"k=\1{'0' * 3999}",)
    with pytest.raises(TreeError, match=r"asts\[1\]\.k\[0\] is a number of more than 4,300 digits"):
        compile_forest([TREE, {"k": [10**5000]}])


@pytest.mark.parametrize(
    "change", ["child_ptr", "child", "root", "tree_subtrees", "height", "tree_nodes"]
)
def test_a_forest_whose_arrays_do_not_fit_each_other_is_told_apart(change: str):
    forest = compile_forest([TREE, {"radiko": "kur"}, {"x": [{"y": 1}, {"y": 1}]}])
    check_forest(forest)
    array = getattr(forest, change).copy()
    array[0] += 1
    with pytest.raises(ValueError, match=r"^[a-z_: ]+$"):
        check_forest(replace(forest, **{change: array}))


@given(st.lists(trees(), min_size=1, max_size=6))
def test_every_forest_that_is_compiled_passes_the_check(asts: list[Any]):
    check_forest(compile_forest(asts))
