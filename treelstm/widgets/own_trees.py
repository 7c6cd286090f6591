"""Forms for trees of one's own: two to be compared, one whose nearest ones are found."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets

from treelstm import themes
from treelstm.collection import Collection, Neighbour
from treelstm.errors import UserError
from treelstm.model.encoder import TreeEncoder
from treelstm.own_trees import Given, Parser, compare_trees, given_tree
from treelstm.plain import AS_WRITTEN, in_html, shown
from treelstm.tables import html_of, html_table
from treelstm.trees.naming import label_keys
from treelstm.widgets.base import NightForm, failure, together
from treelstm.widgets.neighbours import explained
from treelstm.widgets.sentences import TreeChoice

_NEAREST = 10


class TreeForm(NightForm, anywidget.AnyWidget):
    """Text areas for trees. `say` answers with a value and its HTML whenever each area holds one; what
    is wrong with an area is said below it. `.value` is the last answer, None where there is none.
    """

    _esm, _css = together("common.js", "own_trees.js"), themes.CSS + together("own_trees.css")
    labels: traitlets.List[str] = traitlets.List().tag(sync=True)
    action = traitlets.Unicode().tag(sync=True)  # on the button
    asked = traitlets.Dict().tag(sync=True)  # `texts`, and which `number` these have
    answer = traitlets.Dict().tag(sync=True)  # `notes`, which are `wrong`, `html`, and to which `number`

    def __init__(
        self,
        labels: Sequence[str],
        action: str,
        texts: Sequence[str],
        read: Callable[[str], Given],
        say: Callable[[list[Given]], tuple[Any, str]],
    ) -> None:
        self._read, self._say, self.value = read, say, None
        super().__init__(labels=[*labels], action=action, asked={"number": 0, "texts": [*texts]})
        self._answer()
        self.observe(self._answer, "asked")

    def ask(self, *texts: str) -> None:
        """As if somebody had typed these."""
        self.asked = {"number": self.asked["number"] + 1, "texts": [*texts]}

    def _answer(self, change: Any = None) -> None:
        found, notes, wrong, html = list[Given](), list[str](), list[bool](), ""
        self.value = None
        for text in self.asked["texts"]:
            try:
                found.append(self._read(text))
                notes.append(shown(found[-1].note))
                wrong.append(False)
            except (UserError, OSError) as error:
                notes.append(str(error))
                wrong.append(True)
        if not any(wrong):
            try:
                self.value, html = self._say(found)
            except Exception:
                html = failure()
        self.answer = {"number": self.asked["number"], "notes": notes, "wrong": wrong, "html": html}
        self.keep()

    def night_form(self) -> str:
        texts = zip(self.labels, self.asked["texts"], self.answer["notes"], strict=True)
        parts = (f"<b>{in_html(f'{label}: {note}')}</b>\n{in_html(text)}" for label, text, note in texts)
        given = "\n\n".join(parts)
        opened = "" if self.answer["html"] else " open"
        folded = f"<summary>what was given</summary><pre {AS_WRITTEN}>{given}</pre>"
        return f"{self.answer['html']}<details{opened}>{folded}</details>"


def comparison_form(
    encoder: TreeEncoder,
    texts: Sequence[str],
    trees: Collection | None = None,
    parser: Parser | None = None,
) -> TreeForm:
    """Two trees, as `given_tree` reads them: distance, verdict, and what it comes from; its value is a
    `TwoTrees`.
    """

    def say(given: list[Given]) -> tuple[Any, str]:
        two = compare_trees(encoder, *(tree.ast for tree in given))
        new = f"Symbols that training did not know: {', '.join(two.unknown)}." if two.unknown else ""
        words = f"<p><b>{in_html(two.verdict)}</b></p><p>{in_html(new)}</p>"
        titles = [tree.title or label for tree, label in zip(given, labels, strict=True)]
        return two, f"<div {AS_WRITTEN}>{words}</div>" + explained(
            encoder, two.forest, np.arange(2), titles, label_keys(two.forest)
        )

    labels = ("first tree", "second tree")
    reader = partial(given_tree, encoder=encoder, trees=trees, parser=parser)
    return TreeForm(labels, "compare", texts, reader, say)


class TreeSearch(NightForm, ipywidgets.VBox):
    """The trees of a collection that are nearest to one, which is chosen by its sentence or given as
    `given_tree` reads it; `.value` is a list of `Neighbour`s.
    """

    def __init__(
        self,
        collection: Collection | None,
        text: str | int | None = None,
        parser: Parser | None = None,
    ) -> None:
        """`text`: the first one that is asked for; None: the first tree."""
        if collection is None:
            said = "There are no trees to search in: set the parameter trees to a file of some."
            super().__init__([ipywidgets.HTML(said)])
            return
        of, encoder, text = collection, collection.encoder, collection.ids[0] if text is None else text

        def say(given: list[Given]) -> tuple[Any, str]:
            (tree,) = given
            near = of.nearest(tree.ast if tree.number is None else tree.number, _NEAREST)
            if not near:
                return near, "<p>There is no other tree.</p>"
            at = encoder.threshold
            rows = [[f"{each.distance:.3f}", each.sentence or "", each.id] for each in near]
            head = ["distance", f"nearest to: {tree.title or 'this tree'}", "id"]
            if not np.isnan(at):
                head.insert(1, f"threshold {at:.3f}")
                for row, each in zip(rows, near, strict=True):
                    row.insert(1, "similar" if each.distance < at else "dissimilar")
            (forest,) = encoder.forests([tree.ast, of.ast(near[0].number)])
            titles = [tree.title or "this tree", near[0].sentence or near[0].id]
            why = explained(encoder, forest, np.arange(2), titles, label_keys(forest))
            return near, html_of(html_table(head, rows), why)

        reader = partial(given_tree, encoder=encoder, trees=of, parser=parser)
        self._choice = TreeChoice(of.sentences, of.find(text) or 0)
        self._form = TreeForm(["tree"], "find", [str(text)], reader, say)
        self._choice.follow("search", lambda tree: self._form.ask(of.ids[tree]))
        self._form.observe(lambda change: self.keep(), "answer")
        super().__init__([self._choice, self._form])

    @property
    def value(self) -> list[Neighbour]:
        return (self._form.value or []) if len(self.children) > 1 else []

    def night_form(self) -> str:
        return self._form.night_form() if len(self.children) > 1 else str(self.children[0].value)
