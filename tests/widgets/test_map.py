from __future__ import annotations

import numpy as np
import pytest
from conftest import tiny_config

from treelstm import load_encoder, load_pairs, train
from treelstm.evaluation import distinct_trees, encoder_scorer, nearest, tfidf_scorer
from treelstm.trees.vocabulary import ROLE, key_of
from treelstm.widgets.map import TreeMap, nearest_values, tree_errors
from treelstm.widgets.neighbours import neighbourhood
from treelstm.widgets.sentences import TreeChoice


@pytest.fixture(scope="module")
def scored(tiny, tmp_path_factory):
    run = tmp_path_factory.mktemp("mapped") / "run"
    train(tiny_config(tiny, run, epochs=2))
    pairs = load_pairs(tiny / "validation")
    return encoder_scorer(load_encoder(run / "best_model.pt"), pairs), pairs


def numbers(data, kind):
    return np.frombuffer(data, kind)


def test_the_map_has_a_point_for_each_tree_and_names_the_chosen_one_and_its_neighbours(scored):
    scorer, pairs = scored
    choice = TreeChoice(pairs)
    of, trees = TreeMap(scorer, pairs, choice), distinct_trees(pairs)[0]
    assert len(numbers(of.points, "<f4")) == 2 * len(trees)
    assert (numbers(of.nodes, "<i4") == pairs.forest.tree_nodes[trees]).all()
    for choice.value in (3, 9):
        assert of.named == [choice.value, *(other for other, _ in nearest(scorer, choice.value))]
    assert str(scorer.encoder.origin) in of.about
    first = numbers(of.links, "<i4")[::2]
    assert len(first) == ((pairs.label == 1) & pairs.of_two_trees).sum()
    similar = pairs[np.flatnonzero(pairs.label == 1)]
    assert {*pairs.forest.root[trees[first]]} == {*pairs.forest.root[similar.first]}
    assert not any(text in of.night_form() for text in ("widget", "object at"))
    assert of.night_form().count("<svg") == 1 and choice.label[:30] in of.night_form()


def test_points_are_coloured_by_size_error_class_and_the_value_of_any_key(scored):
    scorer, pairs = scored
    of = TreeMap(scorer, pairs, TreeChoice(pairs), ["radiko"])
    names, trees = [name for name, _ in of.colours], distinct_trees(pairs)[0]
    assert names[:4] == ["nodes", "error", "class", "key radiko"] and "key tipo" in names
    assert not any(ROLE[:-1] in name for name in names)
    nodes = pairs.forest.tree_nodes[trees]
    order = np.argsort(nodes, kind="stable")
    assert (np.diff(numbers(of.coloured["codes"], "u1")[order].astype(int)) >= 0).all()
    for of.colour in names[2:]:
        codes, values = numbers(of.coloured["codes"], "u1"), of.coloured["values"]
        assert [count for _, count, _ in values] == np.bincount(codes, minlength=len(values)).tolist()
        assert len(values) <= 8 and not any(other for *_, other in values[:-1])
    of.colour = "error"
    shades = numbers(of.coloured["codes"], "u1")
    errors = numbers(of.errors, "<f4")
    assert shades[errors.argmax()] == 255 and shades[errors.argmin()] == 0


def test_a_trees_value_of_a_key_is_the_one_nearest_to_its_root(scored):
    _, pairs = scored
    forest, trees = pairs.forest, distinct_trees(pairs)[0]
    for key in ("radiko", "vortspeco", "no such key"):
        found = nearest_values(forest, trees, key)
        for tree, symbol in zip(trees.tolist(), found, strict=True):
            graph = forest.graph(tree)
            depth = [0] * graph.num_nodes
            for parent, child in graph.edge_index.T.tolist():
                depth[child] = depth[parent] + 1
            there = [
                (level, s)
                for level, own in zip(depth, graph.symbols, strict=True)
                for s in own
                if not s.startswith(ROLE) and key_of(s) == key
            ]
            assert (forest.symbols[symbol] if symbol >= 0 else None) == min(there, default=(0, None))[1]


def test_the_error_of_a_tree_is_the_share_of_its_pairs_that_are_judged_wrongly(scored):
    _, pairs = scored
    scorer = tfidf_scorer(pairs)
    errors, means = tree_errors(scorer, pairs)
    trees, first, second = distinct_trees(pairs)
    wrong = (scorer.distance < scorer.threshold) != (pairs.label == 1)
    for tree in range(len(trees)):
        of = np.concatenate((wrong[first == tree], wrong[second == tree]))
        assert errors[tree] == pytest.approx(of.mean())
    assert means == "share of its pairs judged wrongly"


def test_the_browser_asks_for_a_trees_drawing(scored, monkeypatch):
    scorer, pairs = scored
    of, sent = TreeMap(scorer, pairs, TreeChoice(pairs), ["radiko", "tipo"]), list[dict[str, object]]()
    monkeypatch.setattr(of, "send", sent.append)
    of._handle_custom_msg({"tree": 4}, [])  # as ipywidgets hands it on
    tree = int(distinct_trees(pairs)[0][4])
    root, *lines = str(sent[0]["text"]).split("\n")
    assert sent[0]["tree"] == 4 and root == "frazo" and len(lines) == pairs.forest.tree_nodes[tree] - 1
    assert all(line.startswith("  ") and ": " in line for line in lines)


def test_neighbours_and_explanation_say_of_which_tree_and_encoder_they_are(scored):
    scorer, pairs = scored
    choice = TreeChoice(pairs)
    shown = neighbourhood(choice, scorer, pairs, ["radiko", "tipo"])
    for tree in (choice.value, 11):
        choice.value = tree
        (near, distance), *_ = nearest(scorer, choice.value)
        names = choice.names.split("\n")
        assert f"nearest to: {choice.label}" in shown.value and f">{names[near]}<" in shown.value
        assert f"(by {scorer.encoder.origin})" in shown.value.replace("<wbr/>", "")
        assert f"Distance {distance:.3f}: " in shown.value and shown.value.count("<svg") == 1
