"""A tree of a forest as JSON again."""

from __future__ import annotations

import json

import pytest
from asts import chain, trees
from hypothesis import given
from hypothesis import strategies as st

from treelstm.trees.asts import ast_of
from treelstm.trees.builder import compile_forest

ODD = {
    "role": "a=b", "a=b": ["1", 1, True, "true", "?", "\\1", "\\\\", None, 1.5, 1e300, ""],
    "x": [[1, [2, []], {"x": "y"}], None, {}, "z", [["w"]]], "one": [[1]], "back\\slash": {"": "é"},
}  # fmt: skip


def there_and_back(ast, child_order):
    forest = compile_forest([ast], child_order=child_order)
    again = json.loads(json.dumps(ast_of(forest, 0)))
    assert compile_forest([again], child_order=child_order).tree_digest == forest.tree_digest
    return again


@given(trees(), st.booleans())
def test_a_tree_written_as_json_is_the_same_tree_when_it_is_read_again(ast, child_order):
    there_and_back(ast, child_order)


@pytest.mark.parametrize("child_order", [False, True])
def test_odd_keys_values_and_nested_lists_come_back(child_order):
    there_and_back(ODD, child_order)
    assert there_and_back({"verbo": {"radiko": "vid"}}, child_order) == {"verbo": {"radiko": "vid"}}


def test_a_deep_tree_comes_back():
    forest = compile_forest([chain(20_000)])
    assert compile_forest([ast_of(forest, 0)]).tree_digest == forest.tree_digest
