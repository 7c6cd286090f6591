from __future__ import annotations

import numpy as np

from treelstm import figures, load_pairs
from treelstm.trees import Forest

AST = {
    "tipo": "frazo",
    "verbo": {"radiko": "vid"},
    "subjekto": {"kerno": {"radiko": "kat"}, "priskriboj": [{"radiko": "bel"}, {"radiko": "bel"}]},
}


def texts(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_a_tree_is_drawn_with_roots_on_nodes_and_roles_on_edges():
    figure = figures.tree_figure(Forest.compile([AST]), 0, ["radiko", "tipo"], "Bela kato vidas.")
    drawn = texts(figure)
    assert sorted(drawn) == sorted(
        "frazo vid kat bel bel · verbo subjekto kerno priskriboj priskriboj".split()
    )
    places = {text.get_position() for text in figure.axes[0].texts if text.get_text() in ("bel", "kat")}
    assert len(places) == 3


def test_a_node_without_the_named_keys_shows_its_symbols():
    assert "1\nvera" in texts(figures.tree_figure(Forest.compile([{"a": 1, "b": "vera"}]), 0, ["name"]))


def test_history_marks_the_best_epoch_and_the_resumption():
    names = ("train_loss", "validation_loss", "validation_roc_auc", "validation_average_precision")
    epochs = [{"epoch": k, **dict.fromkeys(names, abs(k - 2) / 10)} for k in (1, 2, 3)]
    figure = figures.history_figure(epochs, (1, 3))
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert labels == ["training", "validation", "best epoch 2", "resumed here"]
    assert all(ax.get_xlabel() == "epoch" and ax.get_ylabel() for ax in figure.axes)


def test_history_without_an_epoch_says_so():
    assert figures.history_figure([]).axes[0].get_title() == "no epoch has ended yet"


def test_distances_and_corpus_name_their_units_and_counts(tiny):
    figure = figures.distance_figure(np.array([0.1, 0.5, 0.9]), np.array([1, 0, 0]), 0.3)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["similar (1)", "dissimilar (2)", "threshold 0.300"]
    corpus = figures.corpus_figure(load_pairs(tiny / "training"))
    assert corpus.axes[0].get_xlabel() == "pairs" and corpus.axes[1].get_xlabel() == "nodes in a tree"
    assert "24 (33.3%)" in texts(corpus)
