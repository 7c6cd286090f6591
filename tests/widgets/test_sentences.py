from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from treelstm import load_pairs
from treelstm.evaluation import distinct_trees
from treelstm.trees.builder import compile_forest
from treelstm.widgets.sentences import Following, TreeChoice, tree_names


@pytest.fixture
def pairs(tiny):
    return load_pairs(tiny / "validation")


def many(pairs, count, sentence):
    forest, numbers = compile_forest([{"name": f"name {k}"} for k in range(count)]), np.arange(count)
    half = count // 2
    label = np.zeros(half, int)
    label[-1] = 1
    return dataclasses.replace(
        pairs,
        forest=forest,
        first=numbers[:half],
        second=numbers[half:],
        label=label,
        sentences=[sentence(k) for k in range(count)],
    )


def test_the_choice_of_a_tree_is_by_sentence_and_begins_at_the_first_similar_pair(pairs):
    choice, (trees, *_) = TreeChoice(pairs), distinct_trees(pairs)
    assert choice.label == pairs.sentences[int(pairs.first[0])] and pairs.label[0] == 1
    assert choice.names.split("\n") == tree_names(pairs) and len(tree_names(pairs)) == len(trees)
    choice.value = 7  # what the browser sends
    assert choice.label == pairs.sentences[int(trees[7])]
    assert choice.label in choice.night_form()


def test_of_a_hundred_thousand_trees_each_can_be_chosen(pairs):
    pairs = many(pairs, 100_000, lambda k: f"sentence {k}")
    began = time.monotonic()
    choice = TreeChoice(pairs)
    assert time.monotonic() - began < 5  # .4 s on an idle machine
    assert choice.value == distinct_trees(pairs)[1][-1]
    assert len({*choice.names.split("\n")}) == 100_000


def test_trees_of_one_sentence_or_none_are_told_apart_and_each_has_one_line(pairs):
    texts = ["twice", "a\nb\x1b", None, "twice", " ", "<b>"]
    names = tree_names(pairs := many(pairs, 6, texts.__getitem__))
    trees = distinct_trees(pairs)[0].tolist()
    assert sorted(names) == sorted(
        ["twice", "twice (2)", "a b\ufffd", "<b>", *(f"tree {trees.index(k)}" for k in (2, 4))]
    )
    assert "&lt;b&gt;" in TreeChoice(pairs).night_form() or "<b>" not in TreeChoice(pairs).night_form()


def test_what_follows_a_choice_is_made_anew_for_each_and_an_error_is_seen(pairs):
    choice, made = TreeChoice(pairs), list[int]()

    def show(tree: int) -> str:
        made.append(tree)
        return f"<i>{1 / (tree - 5):.2f} of {tree}</i>"

    following = Following(choice, show)
    assert made == [choice.value] and following.night_form() == following.value  # once, by night
    choice.value = 7
    assert following.value == "<i>0.50 of 7</i>"
    choice.value = 5
    assert "ZeroDivisionError" in following.value and "of 7" not in following.value
    choice.value = 6
    assert following.value == "<i>1.00 of 6</i>"
    again, made[:] = Following(choice, show), []  # the cell is run again
    choice.value = 8
    assert made == [8] and "of 8" in again.value and "of 6" in following.value
