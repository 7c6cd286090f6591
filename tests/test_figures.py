from __future__ import annotations

import io
import itertools
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from treelstm import figures, load_pairs
from treelstm.evaluation import pair_metrics
from treelstm.history import IN_HISTORY
from treelstm.tree_figures import node_name, pair_figure, tree_figure
from treelstm.trees.builder import compile_forest

AST = {
    "tipo": "frazo",
    "verbo": {"radiko": "vid"},
    "subjekto": {"kerno": {"radiko": "kat"}, "priskriboj": [{"radiko": "bel"}, {"radiko": "bel"}]},
}


def texts(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def nodes(ax) -> list[Text]:
    return [text for text in ax.texts if text.get_bbox_patch()]


def test_a_tree_is_drawn_with_roots_on_nodes_and_roles_on_edges():
    figure = tree_figure(compile_forest([AST]), 0, ["radiko", "tipo"], "Bela kato vidas.")
    drawn = texts(figure)
    assert sorted(drawn) == sorted(
        "frazo vid kat bel bel · verbo subjekto kerno priskriboj priskriboj".split()
    )
    places = {text.get_position() for text in figure.axes[0].texts if text.get_text() in ("bel", "kat")}
    assert len(places) == 3


def assert_readable(figure) -> None:
    """At most 14 x 10 inches, also as a page shows it, no text outside, none over another."""
    seen = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    assert max(figure.get_figwidth(), seen.width) <= 14.1
    assert max(figure.get_figheight(), seen.height) <= 10
    frame, drawn = figure.bbox, [each for ax in figure.axes for each in ax.get_children()]
    boxes = [each.get_window_extent() for each in drawn if isinstance(each, Text) and each.get_text()]
    for number, box in enumerate(boxes):
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_a_tree_of_40_nodes_is_drawn_with_all_of_them():
    groups = [
        {"radiko": f"grupo{k}", "kerno": [{"radiko": f"vorto{k}{j}"} for j in "ab"]} for k in range(13)
    ]
    figure = tree_figure(compile_forest([{"tipo": "frazo", "aliaj": groups}]), 0, ["radiko", "tipo"])
    assert len(texts(figure)) == 40 + 39 and not any("more" in text for text in texts(figure))
    assert_readable(figure)


def test_what_two_trees_share_is_filled():
    other = {"tipo": "frazo", "verbo": {"radiko": "dorm"}, "subjekto": {"radiko": "kat"}}
    figure = pair_figure(compile_forest([AST, other]), [0, 1], ["radiko", "tipo"], ["a", "b"])
    filled = [
        {t.get_text() for t in nodes(ax) if t.get_bbox_patch().get_facecolor()[3]}  # not transparent
        for ax in figure.axes
    ]
    assert filled == [{"kat"}, {"kat"}]


def test_nodes_are_coloured_by_what_the_distance_does_without_them_with_a_legend():
    other = {"tipo": "frazo", "verbo": {"radiko": "dorm"}, "subjekto": {"radiko": "kat"}}
    forest = compile_forest([AST, other])
    effects = [np.array([np.nan, -0.4, 0.2, 0, 0, 0, 0][: forest.tree_nodes[t]]) for t in (0, 1)]
    figure = pair_figure(forest, [0, 1], ["radiko", "tipo"], ["a", "b"], effects)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["keeps them apart", "brings them together", "no effect"]
    for tree, ax in enumerate(figure.axes):
        own = [node_name(symbols, ["radiko", "tipo"])[0] for symbols in forest.graph(tree).symbols]
        colors = {node.get_text(): node.get_bbox_patch().get_facecolor() for node in nodes(ax)}
        red, blue = colors[own[1]], colors[own[2]]
        assert red[0] > red[2] and blue[2] > blue[0] and colors[own[0]][3] == 0
        assert red[3] == 1 and 0.4 < blue[3] < 0.6, "the stronger the effect, the less transparent"


def test_curves_threshold_comparison_and_map_name_their_axes():
    label, distance = np.array([1, 1, 0, 0]), np.array([0.1, 0.6, 0.5, 0.9])
    for figure in (
        figures.curves_figure(label, {"mine": distance, "other": 1 - distance}),
        figures.threshold_figure(distance, label, 0.3),
        figures.comparison_figure(distance, distance * 2, label, ("a", "b")),
        figures.map_figure(np.eye(4)[:, :2], np.arange(4), {1: "Kato dormas."}, 0.5),
    ):
        assert all(ax.get_xlabel() or ax.get_label() == "<colorbar>" for ax in figure.axes)
        assert all(ax.get_ylabel() for ax in figure.axes)


def test_names_on_the_map_cover_neither_each_other_nor_a_point():
    points = np.random.default_rng(0).normal(size=(3_000, 2))
    near = np.argsort(np.hypot(*points.T))[:12].tolist()
    figure = figures.map_figure(points, np.arange(3_000), {k: "a name " * 4 for k in near}, 0.5)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert len(boxes) >= 6 and not any(box.count_overlaps(boxes) > 1 for box in boxes)
    dots = ax.collections[0]
    drawn = ax.transData.transform(points[dots.get_sizes() > 0])
    assert 2_000 < len(drawn) < 3_000
    assert not any(box.contains(*point) for box in boxes for point in drawn)
    names = [text for text in ax.texts if text.get_text()]
    assert len({name.xy for name in names}) == len(names)


def test_long_names_that_differ_only_at_their_ends_are_told_apart_in_figures():
    label, distance = np.array([1, 1, 0, 0]), np.array([0.1, 0.6, 0.5, 0.9])
    run = "learning_rate=0.001,hidden_dim=128,objective=contrastive,seed={}/best_model.pt, epoch 10"
    names = [run.format(seed) for seed in range(5)]
    (axes,) = figures.comparison_figure(distance, distance, label, names[:2]).axes
    drawn = [text.replace("\n", "") for text in (axes.get_xlabel(), axes.get_ylabel())]
    assert drawn == [f"distance by {name}" for name in names[:2]]
    curves = figures.curves_figure(label, dict.fromkeys(names, distance))
    assert {*names} <= {*drawn_words(curves)}
    looks = {(line.get_color(), line.get_linestyle()) for line in curves.axes[0].lines[:5]}
    assert len(looks) == 5


@pytest.mark.parametrize("nearest", ["of both classes", "dissimilar"])
def test_the_threshold_figure_shows_the_f1_and_accuracy_of_each_threshold(nearest):
    random = np.random.default_rng(0)
    label, distance = random.integers(2, size=50), random.random(50).round(1)
    if nearest == "dissimilar":
        label[distance < 0.3] = 0
    ax = figures.threshold_figure(distance, label, 0.35).axes[0]
    lines = {line.get_label(): line for line in ax.get_lines()}
    for name, value in (("F1", "f1"), ("accuracy", "accuracy")):
        for cut, score in zip(*lines[name].get_data(), strict=True):
            assert score == pytest.approx(getattr(pair_metrics(distance, label, cut + 1e-9), value))


def test_a_node_without_the_named_keys_shows_its_symbols():
    assert "1, vera" in texts(tree_figure(compile_forest([{"a": 1, "b": "vera"}]), 0, ["name"]))


def test_history_marks_the_best_epoch_and_the_resumption():
    figure = figures.history_figure(history(3), (1, 3))
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert labels == ["training loss", "validation loss", "best epoch 2", "resumed here"]
    assert all(ax.get_xlabel() == "epoch" and ax.get_ylabel() for ax in figure.axes)


def history(epochs: int, rates: tuple[float, ...] = (0.1,)) -> list[dict[str, float]]:
    names = [metric.key for metric in IN_HISTORY]
    return [
        {"epoch": k, **dict.fromkeys(names, abs(k - 2) / 10), "learning_rate": rates[k % len(rates)]}
        for k in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("panel", ["loss", "quality"])
@pytest.mark.parametrize("lacking", ["pearson spearman", "precision_at_1 reciprocal_rank"])
def test_every_metric_of_a_panel_has_a_line_of_its_own(panel, lacking):
    lacks = {f"validation_{name}" for name in lacking.split()}  # no objective records all of them
    epochs = [{k: v for k, v in record.items() if k not in lacks} for record in history(3)]
    axes = figures.history_figure(epochs).axes
    lines = axes[["loss", "quality"].index(panel)].get_lines()
    drawn = [metric for metric in IN_HISTORY if metric.panel == panel and metric.key not in lacks]
    expected = [metric.label for metric in drawn]
    assert [line.get_label() for line in lines] == [*expected, "best epoch 2"]
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(lines)


def test_history_draws_the_learning_rate_where_it_changes():
    figure = figures.history_figure(history(4, (0.1, 0.05)), title="epoch 4/9")
    assert [ax.get_title() for ax in figure.axes] == ["loss", "unseen pairs", "schedule"]
    assert figure.get_suptitle() == "epoch 4/9"
    assert len(figures.history_figure(history(4), upright=True).axes) == 2


def test_history_without_an_epoch_says_so():
    assert figures.history_figure([]).axes[0].get_title() == "no epoch has ended yet"


def test_distances_and_corpus_name_their_units_and_counts(tiny):
    pairs = load_pairs(tiny / "training")[np.array([71, 0, 1])]
    pairs = replace(pairs, label=np.array([1, 0, 0]), similarity=np.array([0.9, 0.5, 0.1]))
    distance = np.array([0.1, 0.5, 0.9])
    figure = figures.distance_figure(distance, pairs, 0.3)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["similar (1)", "dissimilar (2)", "threshold 0.300"]
    graded = replace(pairs, label=np.full(3, -1))
    (ax,) = figures.distance_figure(distance, graded, np.nan).axes
    assert ax.get_ylabel() == "similarity" and ax.collections[0].get_offsets().tolist() == [
        [0.1, 0.9],
        [0.5, 0.5],
        [0.9, 0.1],
    ]
    assert figures.corpus_figure(graded).axes[0].get_xlabel() == "similarity"
    mixed = replace(pairs, label=np.array([1, 0, -1]))
    assert "1 (33.3%)" in texts(figures.corpus_figure(mixed))
    assert (
        len(figures.comparison_figure(distance, distance, graded.label, ("a", "b")).axes[0].collections)
        == 1
    )
    corpus = figures.corpus_figure(load_pairs(tiny / "training"))
    assert [ax.get_xlabel() for ax in corpus.axes] == ["pairs", "similarity", "nodes in a tree"]
    assert "24 (33.3%)" in texts(corpus)


def test_pairs_without_labels_are_drawn_by_similarity(tiny):
    pairs = load_pairs(tiny / "training")
    corpus = figures.corpus_figure(replace(pairs, label=np.full(len(pairs), -1)))
    assert corpus.axes[0].get_xlabel() == "similarity"
    assert drawn_words(corpus) and "similar" not in texts(corpus)


# Formulas that are right, wrong or unfinished; what has no glyph; what is no text at all.
ODD = [
    "$x$",
    "$",
    "$$",
    "\\$",
    "$\\frac$",
    "a_b^c",
    "%",
    "{0}",
    "\\",
    "a\nb",
    "a\tb",
    "\0\x1b[2J",
    "\ud83d",
    "x\udcffy",
]
ODD += [
    "w" * 2000,
    "\u05e9\u05dc\u05d5\u05dd",
    "\U0001f642",
    "\u6f22\u5b57",
    "e\u0301\u0301",
    "_x",
    "",
    " ",
]


def drawn_words(figure) -> list[str]:
    figure.savefig(io.BytesIO(), format="png", dpi=20)  # a warning would be an error
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("text", ODD)
def test_names_roles_and_titles_of_any_characters_are_drawn_as_they_are(text):
    forest = compile_forest([{"name": text, text or "kid": {"name": "x", "more": text}}, {"name": "b"}])
    words = drawn_words(pair_figure(forest, [0, 1], ["name"], [text, "b"]))
    if text.isprintable() and text.isascii() and 0 < len(text) < 20 and text.strip():
        assert words.count(text) == 3


def test_text_of_any_characters_is_drawn_as_it_is_in_every_figure_that_takes_text():
    label, distance = np.array([1, 1, 0, 0]), np.array([0.1, 0.6, 0.5, 0.9])
    names = ("$\\frac$ \ud83d \u6f22", "w" * 2000)
    for figure in (
        figures.curves_figure(label, dict.fromkeys((*names, "_x"), distance)),
        figures.comparison_figure(distance, distance * 2, label, names),
        figures.map_figure(np.zeros((len(ODD), 2)), np.arange(len(ODD)), dict(enumerate(ODD)), 0.5),
        figures.history_figure(history(3), title="\n".join(ODD)),
        figures.history_figure([], title=names[0]),
    ):
        assert any("$\\frac$" in words for words in drawn_words(figure))
    assert "_x" in drawn_words(figures.curves_figure(label, {"_x": distance}))


def test_the_powers_of_ten_of_an_axis_are_still_formulas():
    figure = figures.history_figure(history(4, (0.1, 0.001)))
    figure.canvas.draw()
    ticks = [text for text in figure.axes[2].get_yticklabels() if text.get_text()]
    assert ticks and all(text.get_parse_math() for text in ticks)


def left_out(ax) -> list[tuple[float, int]]:
    """The row of each text that says how many nodes are left out there, and how many."""
    found = [
        (t.get_position()[1], re.fullmatch(r"… ([\d,]+)( more)? nodes?", t.get_text())) for t in ax.texts
    ]
    return [(row, int(said[1].replace(",", ""))) for row, said in found if said]


def shaped(shape: str) -> dict[str, object]:
    """A large tree whose nodes have different names."""
    if shape == "deep":
        tree: dict[str, object] = {"name": "n999"}
        for k in range(998, -1, -1):
            tree = {"name": f"n{k}", "part": tree}
        return tree
    if shape == "long":
        tree = {"name": "W" * 50}
        for k in range(60):
            tree = {
                "name": "W" * 50 + str(k),
                "M" * 50: [tree, *({"name": f"{k}{j}"} for j in range(50))],
            }
        return {"name": "root", "part": [{"name": "a" * 50, "x": [tree] * 3}]}
    if shape == "wide":
        return {"name": "root", "part": [{"name": f"part {k}"} for k in range(500)]}
    if shape == "bushy":  # 9,270 nodes
        parts = [
            {"name": f"p{k}", "part": [{"name": f"{k} {j}"} for j in range(102)]} for k in range(90)
        ]
        return {"name": "root", "part": [*parts[1:], {"name": "p0", "part": [{"name": "W" * 90}] * 101}]}
    random, numbers = np.random.default_rng(0), itertools.count(1)

    def code(size: int) -> dict[str, object]:  # as of source code: 300 nodes, many levels
        parts: list[object] = []
        while size > 1:
            part = int(random.integers(1, size))
            parts.append(code(part))
            size -= part
        return {"name": f"n{next(numbers)}", f"role{'s' * (size % 3)}": parts}

    return code(300)


SHAPES = [
    ("long", True),
    ("wide", False),
    ("deep", False),
    ("deep", True),
    ("bushy", True),
    ("code", True),
]


@pytest.mark.parametrize(("shape", "explained"), SHAPES)
def test_a_large_tree_is_folded_to_a_readable_size_and_every_node_is_drawn_or_counted(shape, explained):
    forest, random = compile_forest([shaped(shape), shaped("code")]), np.random.default_rng(1)
    effects = [random.normal(size=min(n, 250)) for n in forest.tree_nodes] if explained else ()
    began, image = time.process_time(), io.BytesIO()
    figure = pair_figure(forest, [0, 1], ["name"], ["W" * 500, "two"], effects)
    figure.savefig(image, format="png")
    assert time.process_time() - began < 2  # 0.5 s
    assert len(image.getvalue()) < 220_000  # a page of 2 MB holds five
    assert_readable(figure)
    for ax, total in zip(figure.axes, forest.tree_nodes.tolist(), strict=True):
        drawn = len(nodes(ax))
        assert drawn > 15 and drawn + sum(count for _, count in left_out(ax)) == total
        assert ax.get_title(loc="left").endswith(f"\n{drawn} of {total:,} nodes shown")


def test_each_row_counts_the_nodes_that_are_left_out_there():
    parts = [{"name": f"p{k}", "part": [{"name": f"{k} {j}"} for j in range(k + 2)]} for k in range(60)]
    (ax,) = tree_figure(compile_forest([{"name": "root", "part": parts}]), 0, ["name"]).axes
    row_of = {node.get_position()[1]: node.get_text() for node in nodes(ax)}
    *of_parts, (last, rest) = left_out(ax)
    assert len(of_parts) == 40 and last not in row_of
    shown = [int(row_of[row][1:]) for row, _ in of_parts]
    assert [count for _, count in of_parts] == [k + 2 for k in shown]
    assert rest == sum(k + 3 for k in range(60) if k not in shown)


@pytest.mark.parametrize("shape", ["deep", "code"])
def test_of_an_explained_tree_the_strongest_nodes_are_drawn_with_the_paths_to_them(shape):
    forest = compile_forest([shaped(shape)])
    graph = forest.graph(0)
    parents = [-1, *graph.edge_index[0].tolist()]
    names = [node_name(symbols, ["name"])[0] for symbols in graph.symbols]
    effect = np.full(len(names), 1e-3)
    strongest = [len(names) // 2, len(names) - 1]  # far from the root
    effect[strongest] = [-0.4, 0.3]
    (ax,) = pair_figure(forest, [0], ["name"], [""], [effect]).axes
    row_of = {node.get_text(): node.get_position()[1] for node in nodes(ax)}
    for node in strongest:
        assert names[node] in row_of
        path = [node]
        while path[-1]:
            path.append(parents[path[-1]])
        if len(path) <= 17:
            assert all(names[each] in row_of for each in path)
    if shape == "deep":  # rows between two nodes say how many there are between them
        drawn = sorted(int(name[1:]) for name in row_of)
        gaps = {row: count for row, count in left_out(ax)}
        for first, second in itertools.pairwise(drawn):
            assert second - first - 1 == gaps.get(row_of[f"n{first}"] + 1, 0)
        assert drawn[:10] == [*range(10)] and len(gaps) == 2


def test_of_very_many_epochs_as_many_are_drawn_as_can_be_seen_with_the_last():
    figure = figures.history_figure(history(10_000))
    line = figure.axes[0].get_lines()[0]
    assert len(line.get_xdata()) <= 2_000 and line.get_xdata()[-1] == 10_000
    assert figure.axes[0].get_xlabel() == "epoch (1 in 6 is drawn)"
    assert figure.axes[0].get_xlim() == (0.5, 10_000.5)


def test_a_node_whose_word_is_a_whole_text_is_named_by_its_kind():
    call = {"type": "call", "text": "a_long_name_of_a_function_that_is_one_word()"}
    ast = {"type": "module", "text": "the source\n" * 20, "body": call}
    root, role, word = texts(tree_figure(compile_forest([ast]), 0, ["text", "type"]))
    assert (root, role) == ("module", "body") and word.startswith("a_long_name_of_a_func")
