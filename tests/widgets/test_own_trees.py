"""Forms for trees of one's own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import treelstm
from treelstm import Collection
from treelstm.model.encoder import TreeEncoder
from treelstm.own_trees import Use, as_text, collection_of, encoder_of
from treelstm.widgets.own_trees import TreeForm, TreeSearch, comparison_form

FIRST = {"subjekto": {"kerno": {"radiko": "<b>hund</b>"}}, "verbo": {"radiko": "vid"}}


@pytest.fixture(scope="module")
def encoder(whole: Path) -> TreeEncoder:
    return treelstm.load_encoder(whole / "best_model.pt")


@pytest.fixture(scope="module")
def collection(encoder: TreeEncoder, tiny: Path) -> Collection:
    return Collection.of_pairs(treelstm.load_pairs(tiny / "validation"), encoder)


def typed(form: TreeForm, *texts: str) -> None:
    """As the browser sends it."""
    form.set_state({"asked": {"number": form.asked["number"] + 1, "texts": [*texts]}})


def test_what_is_wrong_is_said_in_its_place_and_mended_the_verdict_follows(encoder, collection):
    form = comparison_form(encoder, [json.dumps(FIRST), "3"], collection)
    two = form.value
    assert two.distance == encoder.distance(FIRST, collection.ast(3))
    assert two.verdict in form.answer["html"] and "<svg" in form.answer["html"]
    assert "<b>hund" not in form.answer["html"] and "&lt;b&gt;hund" in form.answer["html"]
    typed(form, '{"a":\n  oops}', "3")
    assert form.answer["wrong"] == [True, False] and form.answer["html"] == "" and form.value is None
    assert form.answer["notes"][0].startswith("not JSON (Expecting value: line 2 column 3")
    typed(form, "3", "3")
    assert form.answer["wrong"] == [False, False] and form.value.distance == 0
    assert form.answer["number"] == 2
    typed(form, '{"tokens": [{"id": 1, "head": 2}, {"id": 2, "head": 0}]}', "3")
    assert "token list with heads" in form.answer["notes"][0] and form.value.distance > 0
    typed(form, "la hundo", "3")
    assert "hand in a parser" in form.answer["notes"][0]
    assert "la hundo" in form.night_form() and "hand in a parser" in form.night_form()


def test_sentences_are_parsed_where_a_parser_is_handed_in(encoder):
    form = comparison_form(encoder, ["vid", "dorm"], parser=lambda text: {"verbo": {"radiko": text}})
    assert form.value.distance == encoder.distance(
        {"verbo": {"radiko": "vid"}}, {"verbo": {"radiko": "dorm"}}
    )


def test_the_nearest_trees_follow_a_choice_and_a_new_tree(collection):
    search = TreeSearch(collection)
    choice, form = search.children
    assert search.value == collection.nearest(0, 10)
    assert f"threshold {collection.encoder.threshold:.3f}" in search.night_form()
    choice.value = 7
    assert search.value == collection.nearest(7, 10) and form.asked["texts"] == ["7"]
    typed(form, as_text(collection.ast(4)))
    assert (search.value[0].number, search.value[0].distance) == (4, 0)
    assert collection.nearest(4, 1)[0].id == search.value[1].id


def test_without_a_threshold_nothing_is_called_similar(whole, tiny):
    encoder = treelstm.load_encoder(whole / "best_model.pt")
    encoder.threshold = math.nan
    found = Collection.of_pairs(treelstm.load_pairs(tiny / "validation"), encoder)
    html = TreeSearch(found).night_form() + comparison_form(encoder, ["1", "2"], found).night_form()
    assert "this run has no threshold" in html and ">similar<" not in html and "nan" not in html


def test_the_page_has_a_default_with_a_file_with_the_runs_pairs_and_without_both(
    whole, tiny, tmp_path, encoder
):
    asked = Use(output_dir=str(whole), first=json.dumps(FIRST))
    found, texts, said = collection_of(asked, encoder_of(asked))
    assert len(found) > 10 and texts[0] == asked.first and "distinct trees of 72 pairs" in said
    assert comparison_form(encoder, texts, found).value.distance > 0
    trees = tmp_path / "trees.jsonl"
    trees.write_text(json.dumps(FIRST) + "\n")
    asked = Use(output_dir=str(whole), trees=str(trees))
    found, texts, said = collection_of(asked, encoder)
    assert len(found) == 1 and "kept in" in said
    assert comparison_form(encoder, texts, found).value.distance == 0
    assert TreeSearch(found).value == [] and "no other tree" in TreeSearch(found).night_form()
    encoder.origin = encoder.origin._replace(config=treelstm.Config(data_dir=str(tmp_path / "gone")))
    found, texts, said = collection_of(Use(output_dir=str(whole)), encoder)
    assert found is None and "gone: no such directory" in said and "Set trees" in said
    form = comparison_form(encoder, texts, found)
    assert form.answer["notes"][0].startswith("nothing is here") and form.value is None
    assert TreeSearch(found).value == [] and "set the parameter trees" in TreeSearch(found).night_form()
