"""Figures that show themselves on a page, as SVG in the colours of its theme, their text as it is."""

import base64
import io
import re
import threading
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from PIL import Image

from treelstm import themes
from treelstm.plain import AS_WRITTEN, in_html, shown

MOST_POINTS = 500  # of a layer that is drawn as shapes; of more, a picture is smaller
_Drawn = TypeVar("_Drawn", bound=Artist)
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_TEXT = "treelstm-text:"  # begins the id of a text that the font cannot draw; the rest is the text
_DRAWING = threading.Lock()  # matplotlib's settings are those of the process
_INK = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
# Fonts of pictures and PDF for what the user's lacks, where installed; SVG has those of the reader.
_FONTS = """Noto Sans CJK JP;Noto Sans CJK SC;Noto Sans JP;Noto Sans SC;Noto Sans KR;Noto Sans Arabic
Noto Sans Hebrew;Noto Sans Devanagari;Noto Emoji;Noto Sans Symbols2;WenQuanYi Micro Hei;PingFang SC
Droid Sans Fallback;Hiragino Sans;Microsoft YaHei;Yu Gothic;Malgun Gothic;Segoe UI;Segoe UI Emoji
Arial Unicode MS;Unifont""".replace("\n", ";").split(";")
# Of a page that is not trusted, style and SVG are dropped, not their words nor the picture.
_CSS = """.treelstm-figure > [hidden]{display:block;overflow-x:auto}.treelstm-figure > img{display:none}
.treelstm-figure svg{display:block;max-width:100%;height:auto}
.treelstm-figure button{all:unset;cursor:pointer;font-size:80%;text-decoration:underline;opacity:.8}
.treelstm-figure button:focus-visible{outline:2px solid}"""
_SAVE = (
    "const s=this.previousElementSibling.outerHTML.replace(/var\\([^,]*, (#\\w+)\\)/g,'$1')"
    ".replaceAll('currentColor','#000'),a=document.createElement('a');a.download='figure.svg';"
    "a.href=URL.createObjectURL(new Blob([s],{type:'image/svg+xml'}));a.click()"
)

ElementTree.register_namespace("", _SVG[1:-1])
ElementTree.register_namespace("xlink", _LINK[1:-5])


class PageFigure(Figure):
    """A figure that a page shows in the colours of its theme; `savefig` writes it in those of paper.

    `alt` says in words what it shows, with the main numbers.
    """

    alt = "a figure"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        html = self.to_html()
        png = html.rpartition("base64,")[2].partition("'")[0]  # for what shows no HTML
        return {"text/html": html, "image/png": png, "text/plain": shown(self.alt)}

    def to_html(self) -> str:
        """SVG that follows the theme, and a picture for pages that may not show SVG."""
        alt, engine = in_html(self.alt), self.get_layout_engine()
        if engine is not None:
            engine.execute(self)  # once for both
        self.set_layout_engine("none")
        svg, png = self.to_svg(), self.to_png()
        self.set_layout_engine(engine)
        return (
            f"<div {AS_WRITTEN}><div class='treelstm-figure'><style>{themes.CSS}{_CSS}</style>"
            f"<div hidden='hidden'>{svg}"
            f'<button onclick="{_SAVE}">save as SVG</button></div>'
            f"<img alt='{alt}' src='data:image/png;base64,{png}'></div></div>"
        )

    def to_png(self) -> str:
        """A picture with a light background, in base 64."""
        canvas, small = FigureCanvasAgg(self), io.BytesIO()
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(64).save(small, "png")
        return base64.b64encode(small.getvalue()).decode()

    def to_svg(self) -> str:
        """SVG for the HTML of a page: without a background, its colours CSS variables."""
        file = io.BytesIO()
        with _DRAWING, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": None}):
            ink = {"#000000"}.union(to_hex(matplotlib.rcParams[name]) for name in _INK)
            self.savefig(file, format="svg", transparent=True, dpi=110)
        svg = file.getvalue().decode()
        family = re.search(r"font-family: ([^;\"]+)", svg)
        root = ElementTree.fromstring(svg.replace("; " + family[0] if family else "\0", ""))
        for tag in ("metadata", "defs"):  # the latter hold a style for all elements of a page
            root.remove(next(root.iter(_SVG + tag)))
        for group in root.iter(_SVG + "g"):
            _slim(group)
        for element in root.iter():
            element.text, element.tail = element.text and element.text.strip("\n "), None
            for name, value in element.attrib.items():
                if name in ("d", "x", "y", "transform"):
                    element.set(name, re.sub(r"(\.\d\d)\d+|\n", r"\1", value))
                elif name == "style":
                    element.set(name, re.sub("#[0-9a-f]{6}", lambda c: _themed(c[0], ink), value))
        width, height = (float(root.attrib.pop(side)[:-2]) / 0.72 for side in ("width", "height"))
        style = f"min-width:{0.7 * width:.0f}px;"  # smaller, its words could not be read
        style += (
            f"fill:currentColor;stroke-linejoin:round;font-family:{family[1] if family else 'serif'}"
        )
        about = {"role": "img", "aria-label": shown(self.alt), "style": style}
        root.attrib |= {**about, "width": f"{width:.0f}", "height": f"{height:.0f}"}
        return ElementTree.tostring(root, "unicode")


def _themed(color: str, ink: set[str]) -> str:
    return "currentColor" if color in ink else themes.variable(color)


def _slim(group: ElementTree.Element) -> None:
    """Takes away ids, which other figures of a page have too, and styles that all children share; puts
    back the text that the font could not draw.
    """
    own = group.attrib.pop("id", "")
    if own.startswith(_TEXT):
        lines = filter(None, unquote(own.removeprefix(_TEXT)).split("\n"))
        for element, line in zip(group.iter(_SVG + "text"), lines, strict=False):
            element.text = line
    styles = {child.get("style") for child in group}
    if len(group) > 1 and len(styles) == 1 and (style := styles.pop()) and " opacity" not in style:
        group.set("style", style)
        for child in group:
            del child.attrib["style"]


def new_figure(
    columns: int, rows: int = 1, *, width: float = 5.0, height: float = 3.2
) -> tuple[PageFigure, list[Axes]]:
    """A figure and its axes; `width` and `height` of each, in inches."""
    figure = PageFigure(figsize=(width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def shortened(text: str, characters: int = 40) -> str:
    """The text on one line, cut where it is longer."""
    text = " ".join(shown(text).split())
    return text if len(text) <= characters else text[: characters - 1] + "…"


def drawable(text: str) -> str:
    """The text, with � for what matplotlib's fonts lack, which is as wide as what they lack most."""
    known = _characters(*_families())
    missing = "\ufffd" if "\ufffd" in known else "?"
    return "".join(c if c in known else missing for c in shown(text).replace("\t", " "))


def _families() -> tuple[str, ...]:
    """The user's fonts (rcParams["font.family"]), then those for what they lack."""
    installed = _installed()
    return (*FontProperties().get_family(), *(name for name in _FONTS if name in installed))


@cache
def _installed() -> set[str]:
    return {*fontManager.get_font_names()}


@cache
def _characters(*families: str) -> set[str]:
    fonts = (get_font(findfont(FontProperties(family=[family]))) for family in families)
    return {"\n"}.union(*(map(chr, font.get_charmap()) for font in fonts))


def as_written(drawn: _Drawn) -> _Drawn:
    """The figure, with its words drawn as they are: `$...$` is no formula."""
    for child in drawn.get_children():
        if isinstance(child, Text) and (text := child.get_text()):
            text, drawn_text = shown(text), drawable(text)
            child.set(text=drawn_text, parse_math=False, usetex=False)
            if drawn_text != text:
                child.set_gid(_TEXT + quote(text))
            if not text.isascii():
                child.set_fontfamily([*_families()])
        elif not isinstance(child, Tick):  # whose powers of ten are formulas
            as_written(child)
    return drawn
