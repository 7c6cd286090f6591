"""Choosing a tree by its sentence, and what follows the choice."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets

from treelstm import themes
from treelstm.data.pairs import Pairs
from treelstm.evaluation import distinct_trees
from treelstm.plain import AS_WRITTEN, in_html, shown
from treelstm.widgets.base import NightForm, failure, together


class TreeChoice(NightForm, anywidget.AnyWidget):
    """Chooses one of the distinct trees of some pairs by its sentence, searched as one types, by default
    the first tree of the first similar pair, or one of some names; `.value` is its position among them.
    """

    _esm, _css = together("common.js", "sentences.js"), themes.CSS + together("trees.css")
    names = traitlets.Unicode().tag(sync=True)  # a line each: the browser searches them by itself
    value = traitlets.Int().tag(sync=True)

    def __init__(self, of: Pairs | Sequence[str | None], chosen: int = 0) -> None:
        names = tree_names(of) if isinstance(of, Pairs) else _named(of)
        if isinstance(of, Pairs):
            chosen = int(distinct_trees(of)[1][int(np.argmax(of.label))])
        super().__init__(names="\n".join(names), value=chosen)
        self._followers = dict[str, Callable[[int], None]]()
        self.observe(self._chosen, "value")

    @property
    def label(self) -> str:
        """The sentence of the chosen tree."""
        return str(self.names).split("\n")[self.value]

    def follow(self, name: str, follower: Callable[[int], None]) -> None:
        """Calls `follower` with each new choice, in place of an earlier one of that name: a cell that is
        run again leaves nobody behind who computes for an output that is gone.
        """
        self._followers[name] = follower

    def _chosen(self, change: Any) -> None:
        self.keep()
        for follower in [*self._followers.values()]:
            follower(change["new"])

    def night_form(self) -> str:
        return f"<span {AS_WRITTEN}>chosen: {in_html(self.label)}</span>"


class Following(NightForm, ipywidgets.HTML):
    """HTML about the chosen tree, made by `show`, and again whenever another one is chosen.

    `show` says of which tree and encoder it speaks. What goes wrong later is shown in its place.
    """

    value: str

    def __init__(self, choice: TreeChoice, show: Callable[[int], str]) -> None:
        super().__init__(value=show(choice.value), layout={"max_width": "100%"})
        self.add_class("jp-RenderedHTMLCommon")  # as other outputs look
        self._show = show
        choice.follow(show.__name__, self._follow)

    def _follow(self, tree: int) -> None:
        words = "<p role='status'>computing for another sentence …</p>"
        self.value = f"{words}<div style='opacity:0.4'>{self.value}</div>"
        try:
            self.value = self._show(tree)
        except Exception:
            self.value = failure()
        self.keep()

    def night_form(self) -> str:
        return str(self.value)


def tree_names(pairs: Pairs) -> list[str]:
    """The sentence of each distinct tree of the pairs, on one line and fit to be shown, or its number if
    it has none; further trees of a sentence are numbered.
    """
    return _named(pairs.sentences[tree] for tree in distinct_trees(pairs)[0].tolist())


def _named(sentences: Iterable[str | None]) -> list[str]:
    names, seen = list[str](), Counter[str]()
    for number, sentence in enumerate(sentences):
        name = " ".join(shown(sentence or "").split()) or f"tree {number}"
        seen[name] += 1
        names.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return names
