"""All pairs, the most wrong first."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import treelstm
from treelstm.data.pairs import Pairs
from treelstm.evaluation import PairScorer, encoder_scorer, pair_errors
from treelstm.widgets.pairs import PairBrowser

Both = tuple[PairScorer, Pairs]


@pytest.fixture(scope="module")
def both(tiny: Path, whole: Path) -> Both:
    pairs = treelstm.load_pairs(tiny / "validation")
    return encoder_scorer(treelstm.load_encoder(whole / "best_model.pt"), pairs), pairs


def parts(browser: PairBrowser):
    """Its class, words and table, and what stands above and below it."""
    choices, table, below = browser.children
    of_class, words, listed = choices.children
    return of_class, words, table, listed, below


def test_the_error_is_the_way_on_the_wrong_side_and_of_graded_pairs_that_of_the_ranks(both):
    _, pairs = both
    some = pairs[np.append(np.flatnonzero(pairs.label == 1)[:2], np.flatnonzero(pairs.label == 0)[:2])]
    distance = np.array([0.5, 2.0, 0.5, 2.0], np.float32)
    assert pair_errors(distance, some, 1.5).tolist() == [-1.0, 0.5, 1.0, -0.5]
    assert pair_errors(distance, some, np.nan).tolist() == [0.5, 2.0, -0.5, -2.0]
    graded = replace(some, label=np.full(4, -1), similarity=np.array([1.0, 0.2, 0.3, 0.1]))
    assert pair_errors(np.array([1.0, 2.0, 3.0, 4.0]), graded, np.nan).tolist() == [0, 0.25, 0.25, 0]


def test_pairs_are_listed_by_error_filtered_by_class_and_words_and_shown(both):
    scorer, pairs = both
    browser = PairBrowser(scorer, pairs)
    of_class, words, table, listed, below = parts(browser)
    error = pair_errors(scorer.distance, pairs, scorer.threshold)
    assert [int(row["path"]) for row in table.rows] == np.argsort(-error, kind="stable").tolist()
    assert browser.value == int(np.argmax(error)) and listed.value == "72 pairs"
    assert "<svg" in below.value and "without this subtree" in below.value
    before = below.value
    table.chosen = table.rows[3]["path"]
    assert browser.value == int(table.rows[3]["path"]) and below.value != before
    of_class.value = 1
    _, _, table, listed, _ = parts(browser)
    assert listed.value == "24 pairs" and {row["cells"][1][0] for row in table.rows} == {"similar"}
    word = table.rows[0]["cells"][3][0].split()[-1]
    words.value = word.upper()
    _, _, table, _, _ = parts(browser)
    texts = [row["cells"][3][0] + row["cells"][4][0] for row in table.rows]
    assert 0 < len(texts) < 24 and all(word in text for text in texts)
    words.value = "no sentence has this"
    assert browser.value is None and parts(browser)[-1].value == "no such pair"


def test_of_a_hundred_thousand_pairs_a_thousand_are_sent_and_all_can_be_found(both):
    scorer, pairs = both
    many = np.arange(100_000) % len(pairs)
    browser = PairBrowser(replace(scorer, distance=scorer.distance[many]), pairs[many])
    of_class, _, table, listed, _ = parts(browser)
    assert len(table.rows) == 1000 and listed.value.startswith("the 1,000 most wrong of 100,000 pairs")
    of_class.value = 0
    _, _, table, listed, _ = parts(browser)
    assert len(table.rows) == 1000 and listed.value.startswith("the 1,000 most wrong of 66,")


def test_unattended_the_worst_of_both_classes_stand_in_the_page_with_their_trees(both):
    night = PairBrowser(*both)._repr_mimebundle_()["text/html"]
    assert night.count("<svg") == 4 and night.count("<tr>") > 20
    assert len(re.findall(r"<summary[^>]*>similar, distance", night)) == 2
    assert len(re.findall(r"<summary[^>]*>dissimilar, distance", night)) == 2
