"""Choosing a tree by its sentence."""

import ipywidgets
import numpy as np

from treelstm.data.pairs import Pairs
from treelstm.evaluation import distinct_trees
from treelstm.plain import AS_WRITTEN, in_html, shown
from treelstm.widgets.base import NightForm

_TREES = 2_000  # of a choice, at most


class TreeChoice(NightForm, ipywidgets.Dropdown):
    """Chooses one of the distinct trees of some pairs by its sentence, by default the first tree of the
    first similar pair; `.value` is its position among them. Of very many, the first 2,000 are listed.
    """

    def __init__(self, pairs: Pairs) -> None:
        names, chosen = tree_names(pairs), int(distinct_trees(pairs)[1][int(np.argmax(pairs.label))])
        listed = {*range(min(len(names), _TREES)), chosen}
        options = sorted((names[tree], tree) for tree in listed)
        some = f"one of {len(options):,} of {len(names):,} sentences"
        said = "sentence" if len(options) == len(names) else some
        layout, style = {"width": "80ch"}, {"description_width": "initial"}  # as wide as its words
        super().__init__(options=options, value=chosen, description=said, layout=layout, style=style)

    def night_form(self) -> str:
        return f"<span {AS_WRITTEN}>chosen: {in_html(self.label)}</span>"


def tree_names(pairs: Pairs) -> list[str]:
    """The sentence of each distinct tree of the pairs, fit to be shown, or its number if it has none."""
    trees = distinct_trees(pairs)[0].tolist()
    return [shown(pairs.sentences[tree] or f"tree {number}") for number, tree in enumerate(trees)]
