"""Figures on a page: readable in both themes, by people who see few colours, in any script; small."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from test_figures import AST, history
from test_run_figures import runs

from treelstm import figures, load_pairs, themes
from treelstm.run_figures import curves_figure, effects_figure
from treelstm.tree_figures import pair_figure, tree_figure
from treelstm.trees.builder import compile_forest
from treelstm.widgets.monitor import curve_html

PAGES = {"light": ("#ffffff", "#000000"), "dark": ("#111111", "#ffffff")}  # background, ink
FOREIGN = ["漢字の木", "שלום עולם", "السلام عليكم", "🙂👍🏽", "e\u0301"]


@pytest.fixture(scope="module")
def drawn(tiny) -> dict[str, Any]:
    """One of every figure, with 5,000 points where there may be many."""
    random = np.random.default_rng(0)
    label, numbers = np.arange(5_000) % 2, random.random((2, 5_000))
    forest = compile_forest(
        [AST, {"tipo": "frazo", "verbo": {"radiko": "dorm"}, "a": {"radiko": "kat"}}]
    )
    effects = [np.linspace(-1, 1, n) for n in forest.tree_nodes[:2]]
    pairs, keys, names = load_pairs(tiny / "training"), ["radiko", "tipo"], ("a", "b")
    figures_ = {
        "history": figures.history_figure(history(4, (0.1, 0.01)), (1, 3), title="epoch 4"),
        "corpus": figures.corpus_figure(pairs),
        "distances": figures.distance_figure(random.random(len(pairs)), pairs, 0.5),
        "curves": figures.curves_figure(label, dict(zip("abcde", [*numbers] * 2, strict=False))),
        "threshold": figures.threshold_figure(numbers[0], label, 0.5),
        "comparison": figures.comparison_figure(*numbers, label, names),
        "tree": tree_figure(forest, 0, keys, "Bela kato vidas."),
        "shared": pair_figure(forest, [0, 1], keys, names),
        "explained": pair_figure(forest, [0, 1], keys, names, effects),
        "runs": curves_figure(runs(14)),
        "together": curves_figure(runs(6), together=True),
        "effects": effects_figure(runs(12)),
    }
    return {name: (figure, figure.to_svg()) for name, figure in figures_.items()}


def of_theme(value: str, theme: str) -> np.ndarray | None:
    """A colour of SVG in a theme; None if nothing is painted."""
    if value == "none":
        return None
    named = re.fullmatch(r"var\(--treelstm-([\w-]+), (#\w{6})\)", value)
    if named and theme == "dark":
        value = re.findall(rf"--treelstm-{named[1]}:(#\w+)", themes.CSS)[-1]
    value = (
        PAGES[theme][1] if value == "currentColor" else named[2] if named and theme == "light" else value
    )
    return np.array([int(value[n : n + 2], 16) for n in (1, 3, 5)])


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    def luminance(color: np.ndarray) -> float:
        parts = color / 255
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05

    low, high = sorted((luminance(first), luminance(second)))
    return high / low


def painted(svg: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each shape and text, with the style that it has or inherits."""

    def below(
        element: ElementTree.Element, style: dict[str, str]
    ) -> Iterator[tuple[str, dict[str, str]]]:
        own = dict(re.findall(r"([\w-]+): ?([^;]+)", element.get("style", "")))
        style = (
            style | {name: element.get(name) for name in ("fill", "stroke") if element.get(name)} | own
        )
        tag = element.tag.rpartition("}")[2]
        if tag in ("path", "use", "text"):
            yield tag, style
        for child in element if tag != "clipPath" else ():
            yield from below(child, style)

    yield from below(ElementTree.fromstring(svg), {"fill": "currentColor", "stroke": "none"})


@pytest.mark.parametrize("theme", PAGES)
def test_words_have_a_contrast_of_4_5_and_lines_and_areas_of_3_in_both_themes(drawn, theme):
    page, ink = (of_theme(color, theme) for color in PAGES[theme])
    live = re.findall(r"<svg.*?</svg>", curve_html(history(4)))
    for name, svg in [*((name, svg) for name, (_, svg) in drawn.items()), *enumerate(live)]:
        for tag, style in painted(svg):
            seen = {}
            for kind in ("fill", "stroke"):
                color = of_theme(style[kind], theme)
                part = float(style.get(f"{kind}-opacity", 1)) * float(style.get("opacity", 1))
                if color is not None and part:
                    seen[kind] = contrast(color * part + page * (1 - part), page)
                    if kind == "fill" and tag != "text":  # words may stand on it
                        behind = contrast(ink, color * part + page * (1 - part))
                        assert name not in ("tree", "shared", "explained") or behind >= 4.5, style
            assert max(seen.values(), default=21.0) >= (4.5 if tag == "text" else 3), (name, tag, style)


def test_every_named_color_can_be_read_on_both_pages_and_its_light_value_be_seen_on_both():
    values = dict(re.findall(r"--treelstm-([\w-]+):(#\w{6})", themes.CSS.splitlines()[0]))
    dark = dict(re.findall(r"--treelstm-([\w-]+):(#\w{6})", themes.CSS.splitlines()[1]))
    assert values.keys() == dark.keys() and len(values) == 10
    white, black = np.full(3, 255), np.full(3, 0x11)
    for name in values.keys() - {"apart", "together", "shared"}:  # these are behind words
        light = of_theme(values[name], "light")
        assert contrast(light, white) >= 4.5 and contrast(light, black) >= 3, name
        assert contrast(of_theme(dark[name], "light"), black) >= 4.5, name


def test_figures_of_one_page_share_no_id_and_each_reference_is_to_their_own(drawn):
    seen: set[str] = set()
    for name, (_, svg) in drawn.items():
        own = {element.get("id") for element in ElementTree.fromstring(svg).iter() if element.get("id")}
        assert set(re.findall(r'(?:url\(#|href="#)([\w-]+)', svg)) <= own, name
        assert not own & seen and "<style" not in svg, name
        seen |= own


def test_a_page_of_all_figures_is_small_and_each_says_what_it_shows(drawn):
    bundles = {name: figure._repr_mimebundle_() for name, (figure, _) in drawn.items()}
    assert sum(len(text) for bundle in bundles.values() for text in bundle.values()) < 1_500_000
    for name, bundle in bundles.items():
        html, alt = bundle["text/html"], bundle["text/plain"]
        assert f"<img alt='{alt[:20]}" in html and f'aria-label="{alt[:20]}' in html
        assert re.search(r"\d", alt), f"{name}: {alt!r} has no number"
        assert "var(--treelstm-" in html and bundle["image/png"] in html
    assert "best: epoch 2" in bundles["history"]["text/plain"]
    assert "threshold 0.500" in bundles["distances"]["text/plain"]


def test_words_of_any_script_are_text_on_a_page_and_no_warning_in_a_file():
    parts = [{"name": text, text: {"name": "y"}} for text in FOREIGN]
    figure = tree_figure(compile_forest([{"name": "x", "part": parts}]), 0, ["name"], " ".join(FOREIGN))
    words = [each.text for each in ElementTree.fromstring(figure.to_svg()).iter() if each.text]
    assert " ".join(FOREIGN) in words and all(words.count(text) == 2 for text in FOREIGN)
    for kind in ("pdf", "svg", "png"):
        figure.savefig(file := io.BytesIO(), format=kind)  # a warning would be an error
        assert b"var(--" not in file.getvalue()


def test_lines_of_a_figure_differ_by_more_than_their_colours(drawn):
    dashes = {
        style.get("stroke-dasharray") for tag, style in painted(drawn["curves"][1]) if tag == "path"
    }
    assert len(dashes) >= 4
    for name in ("history", "threshold"):
        for ax in drawn[name][0].axes:
            lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
            looks = {(line.get_linestyle(), line.get_marker(), line.get_linewidth()) for line in lines}
            assert len(looks) >= min(len(lines), 4), (name, [line.get_label() for line in lines])


@pytest.mark.parametrize(("epochs", "ticks"), [(1, [1]), (2, [1, 2]), (7, range(1, 8))])
def test_epochs_are_whole_numbers_on_the_axis(epochs, ticks):
    figure = figures.history_figure(history(epochs))
    figure.canvas.draw()
    for ax in figure.axes:
        low, high = ax.get_xlim()
        assert {*ax.get_xticks()} & {*np.arange(low, high, 0.1).round(1)} <= {*ticks}
    svg = re.findall(r"<svg.*?</svg>", curve_html(history(epochs)))[0]
    assert {int(n) for n in re.findall(r"text-anchor='middle'>([\d.]+)<", svg)} <= {*ticks}
