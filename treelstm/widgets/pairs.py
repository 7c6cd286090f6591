"""All pairs, the most wrong first: filtered by class and words, sorted, looked at."""

from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np
import traitlets

from treelstm.data.pairs import Pairs
from treelstm.evaluation import PairScorer, distinct_trees, most_wrong, pair_errors
from treelstm.plain import shown
from treelstm.progress import is_interactive
from treelstm.tables import folded, html_of, html_table
from treelstm.trees.asts import ast_of
from treelstm.widgets.base import NightForm, failure
from treelstm.widgets.neighbours import explained
from treelstm.widgets.sentences import tree_names
from treelstm.widgets.table import TablePicker

_ROWS, _ROWS_IN_FILE = 1_000, 20  # at most: in a browser, in an executed page
_COLUMNS = ("error", "class", "distance", "first", "second")
_ALL = -2
_CLASSES = {"similar": 1, "dissimilar": 0, "not labelled": -1}


class PairTable(TablePicker):
    """Some of all pairs as rows."""

    chosen = traitlets.Unicode().tag(sync=True)
    _css = TablePicker._css + (
        "[aria-label='pairs'] td:is(:nth-child(2), :nth-child(n + 4)) { text-align: left; }"
        "[aria-label='pairs'] td:nth-child(n + 4) "
        "{ white-space: normal; overflow-wrap: anywhere; min-width: 14em; }"
    )


class PairBrowser(NightForm, ipywidgets.VBox):
    """Pairs in the order of their errors (see `evaluation.pair_errors`); `.value` is the chosen one,
    whose trees and their explanation stand below. `scorer` is that of an encoder.
    """

    def __init__(self, scorer: PairScorer, pairs: Pairs, keys: Sequence[str] = ()) -> None:
        self._scorer, self._pairs, self._keys = scorer, pairs, keys
        self._names = tree_names(pairs)
        _, self._first, self._second = distinct_trees(pairs)
        self._error = pair_errors(scorer.distance, pairs, scorer.threshold)
        self._order = np.argsort(-self._error, kind="stable")
        counts = {name: int((pairs.label == label).sum()) for name, label in _CLASSES.items()}
        options = [(f"all {len(pairs):,} pairs", _ALL)]
        options += [(f"{name} ({n:,})", _CLASSES[name]) for name, n in counts.items() if n]
        style = {"description_width": "initial"}
        self._class = ipywidgets.Dropdown(options=options, description="class", style=style)
        said = {"placeholder": "words, then Enter", "description": "sentences with", "style": style}
        self._words = ipywidgets.Text(continuous_update=False, **said)
        self._listed = ipywidgets.Label()
        self._below = ipywidgets.HTML(layout={"max_width": "100%"})
        self._below.add_class("jp-RenderedHTMLCommon")
        super().__init__()
        self._list()
        for each in (self._class, self._words):
            each.observe(self._list, "value")

    @property
    def value(self) -> int | None:
        """None: no pair is listed."""
        return int(self._table.chosen) if self._table.chosen else None

    def _list(self, change: Any = None) -> None:
        """Makes the table anew, of all pairs that are asked for."""
        found, labels = self._order, self._pairs.label
        if self._class.value != _ALL:
            found = found[labels[found] == self._class.value]
        for word in self._words.value.casefold().split():
            has = np.array([word in name.casefold() for name in self._names])
            found = found[has[self._first[found]] | has[self._second[found]]]
        some, count = found[:_ROWS].tolist(), f"{len(found):,} pairs"
        listed = f"the {_ROWS:,} most wrong of {count} are listed; these two choose among all"
        self._listed.value = listed if len(found) > _ROWS else count
        rows = [self._row(pair, position) for position, pair in enumerate(some)]
        about = {"label": "pairs", "columns": [*_COLUMNS], "order": [0, True]}
        self._table = PairTable(rows=rows, chosen=str(some[0]) if some else "", **about)
        self._table.observe(self._show, "chosen")
        choices = [self._class, self._words, self._listed]
        above = ipywidgets.HBox(choices, layout={"flex_flow": "row wrap"})
        for each in self.children[1:2]:  # the table of what was asked for before
            each.close()
        self.children: tuple[ipywidgets.Widget, ...] = (above, self._table, self._below)
        self._show()

    def _sentences(self, pair: int) -> list[str]:
        return [self._names[self._first[pair]], self._names[self._second[pair]]]

    def _row(self, pair: int, position: int) -> dict[str, Any]:
        """A row as picker.js gets it."""
        error, distance = float(self._error[pair]), float(self._scorer.distance[pair])
        kind, both = self._pairs.kind(pair), self._sentences(pair)
        cells = [[f"{error:+.3f}", error], [kind, kind], [f"{distance:.3f}", distance]]
        about = {"usable": True, "damaged": False, "status": "", "name": f"{kind}, {distance:.3f}"}
        where = f"From {shown(self._pairs.where(pair))}."
        cells += [[text, text] for text in both]
        return {"path": str(pair), "cells": cells, "position": -position, "settings": where, **about}

    def _show(self, change: Any = None) -> None:
        try:
            self._below.value = "no such pair" if self.value is None else self._trees(self.value)
        except Exception:
            self._below.value = failure()
        self.keep()

    def _trees(self, pair: int) -> str:
        pairs, (_, second) = self._pairs, self._sentences(pair)
        encoder = self._scorer.encoder
        assert encoder is not None
        both = (ast_of(pairs.forest, int(of[pair])) for of in (pairs.first, pairs.second))
        (forest,) = encoder.forests(both)  # reading the symbols of all trees would take a second
        return explained(encoder, forest, np.arange(2), [self._said(pair), second], self._keys)

    def _said(self, pair: int) -> str:
        distance, (first, _) = self._scorer.distance[pair], self._sentences(pair)
        return f"{self._pairs.kind(pair)}, distance {distance:.3f}: {first}"

    def night_form(self) -> str:
        """The most wrong pairs: a table, and of the worst of both classes the trees."""
        rows = [[text for text, _ in row["cells"]] for row in self._table.rows[:_ROWS_IN_FILE]]
        table = html_table(_COLUMNS, rows) if rows else ""
        if is_interactive():
            return table + str(self._below.value)
        worst = most_wrong(self._scorer.distance, self._pairs).tolist()
        return table + html_of(*(folded(self._said(pair), self._trees(pair)) for pair in worst))
