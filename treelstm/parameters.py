"""What a notebook's parameters cells assign, so that nothing that somebody typed is ignored in silence.

IPython keeps the text of every cell that was run, in `In`. The parameters cell holds assignments and
imports alone, settings among them. If several do, it is each with the word "parameters" in a comment, as
in a page's own and papermill's, or with the tag, where the browser tells it. Of a cell that was run
again, the newest run counts. A setting that any other cell assigns is an error.
"""

import ast
import re
import symtable
import sys
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from treelstm.errors import ConfigError

_INJECTED = "# Parameters"  # the first line of papermill's cell
_COMMENT = re.compile(r"^\s*#.*\bparameters\b", re.IGNORECASE | re.MULTILINE)
_NOT_PYTHON = re.compile(r"^[ \t]*[%!].*|\b(?:await|async)\b", re.MULTILINE)  # at a cell's top level
_BEGUN = "from_notebook("  # in a cell that reads the parameters
_LIKE = (type(None), bool, int, float, str, Path, list, tuple)  # what a setting's value may be
_NONE_RUN = (
    "no parameters cell has been run in this kernel, so the settings are not known. Run the page's "
    'first cell of code, which has the tag "parameters" and holds assignments alone, then this one.'
)

# Numbers of the cells that were run with the tag and, once the browser has told of one, without it.
_tagged, _untagged = set[int](), set[int]()


def assigned(namespace: Mapping[str, Any], settings: Collection[str]) -> dict[str, Any]:
    """What the parameters cells of a notebook assign; `namespace` is its `globals()`. Of a script, which
    has no cells, it is all settings that are assigned.

    Raises:
        ConfigError: no parameters cell has been run; or a setting is assigned elsewhere (names cell and
            setting).
    """
    _note_tags()
    if "In" not in namespace:
        if given := {name: namespace[name] for name in settings if name in namespace}:
            return given
        raise ConfigError(_NONE_RUN)
    cells = [_Cell(number, source) for number, source in enumerate(namespace["In"]) if source.strip()]
    ours = _parameters_cells(cells, {*settings})
    if not ours:
        raise ConfigError(_NONE_RUN)
    newest = list[_Cell]()
    for cell in ours:
        newest = [old for old in newest if not cell.replaces(old, cells)] + [cell]
    at = {name: cell.number for cell in newest for name in cell.assigns}
    _refuse_others([c for c in cells if c not in ours], at, cells, namespace, {*settings})
    return {name: namespace[name] for name in at if name in namespace}


@dataclass(frozen=True)
class _Cell:
    number: int
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        with warnings.catch_warnings(action="ignore"):  # which the cell gave itself
            try:
                return ast.parse(_NOT_PYTHON.sub("", self.source))
            except (SyntaxError, ValueError):
                return ast.Module([], [])

    @cached_property
    def symbols(self) -> list[symtable.Symbol]:
        """What it binds at its top level, also in the text of a magic such as %%time."""
        try:
            found = symtable.symtable(ast.unparse(self.tree), "a cell", "exec").get_symbols()
        except SyntaxError:
            return []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("_magic", "exec")):
                texts = [each.value for each in node.args[-1:] if isinstance(each, ast.Constant)]
                found += [symbol for text in texts for symbol in _Cell(0, str(text)).symbols]
        return [symbol for symbol in found if symbol.is_assigned() or symbol.is_imported()]

    @cached_property
    def binds(self) -> set[str]:
        walrus = {n.target.id for n in ast.walk(self.tree) if isinstance(n, ast.NamedExpr)}
        return {symbol.get_name() for symbol in self.symbols} | walrus

    @cached_property
    def assigns(self) -> set[str]:
        """Without imports, functions and classes."""
        return {s.get_name() for s in self.symbols if not s.is_imported() and not s.is_namespace()}

    @cached_property
    def is_plain(self) -> bool:
        """Whether it holds assignments and imports, and nothing else."""
        kinds = ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom
        plain = all(isinstance(each, kinds) or _is_text(each) for each in self.tree.body)
        return plain and bool(self.assigns) and _BEGUN not in self.source

    @property
    def is_marked(self) -> bool:
        return self.source.lstrip().startswith(_INJECTED) or self.number in _tagged

    @property
    def is_injected(self) -> bool:
        return self.source.lstrip().splitlines()[0].rstrip() == _INJECTED

    def resembles(self, other: "_Cell") -> bool:
        """Whether it may be another version of the same cell: most names are the same."""
        most = max(len(self.assigns), len(other.assigns))
        return self.is_injected == other.is_injected and 2 * len(self.assigns & other.assigns) > most

    def replaces(self, old: "_Cell", cells: "list[_Cell]") -> bool:
        """Parameters may be split over cells, which then share no name. Two cells that begin like
        papermill's may both count, until they have been read.
        """
        if not self.is_injected and not old.is_injected:
            return bool(self.assigns & old.assigns)
        between = any(old.number < c.number < self.number and _BEGUN in c.source for c in cells)
        return self.resembles(old) and between


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _parameters_cells(cells: list[_Cell], settings: set[str]) -> list[_Cell]:
    """All runs of parameters cells; without a mark, the cell of most settings is it."""
    plain = [cell for cell in cells if cell.is_plain and cell.assigns & settings]
    called = [cell for cell in plain if _COMMENT.search(cell.source)]
    known = called + [cell for cell in cells if cell.is_marked]
    own = [cell for cell in plain if not cell.is_injected]
    if own and all(cell.is_injected for cell in known):
        known.append(max(own, key=lambda cell: (len(cell.assigns & settings), cell.number)))
    plain = [cell for cell in plain if cell.number not in _untagged]
    also = [cell for cell in plain if any(cell.resembles(each) for each in known)]
    return [cell for cell in cells if cell in known or cell in also]


def _refuse_others(
    others: list[_Cell],
    at: dict[str, int],
    cells: list[_Cell],
    namespace: Mapping[str, Any],
    settings: set[str],
) -> None:
    """Raises ConfigError if one of the other cells assigns a setting; `at`: where each was assigned.

    If the parameters were read, and then run again, cells run before that may be gone from the page.
    """
    last = max(at.values())
    read = max((c.number for c in cells if c.number < last and _BEGUN in c.source), default=0)
    found = list[str]()
    for cell in others:
        for name in sorted(cell.binds & settings & namespace.keys()):
            if name in at:
                wrong = cell.number > at[name] or (cell.number > read and name in _typed(cell))
            else:
                wrong = cell.number > read and isinstance(namespace[name], _LIKE)
            found += [f"In [{cell.number}] assigns {name}"] if wrong else []
    bound = at.keys() | {name for cell in cells for name in cell.binds}
    hidden = [name for name in sorted(settings & namespace.keys() - bound)]
    found += [f"{n} is set by no cell" for n in hidden if isinstance(namespace[n], _LIKE)]
    if found:
        where = f"the parameters cell, In [{last}],"
        raise ConfigError(
            f"{'; '.join(found)}. Settings count in {where} only. Move it there and run that cell, then "
            "this one. If it is no setting, give it another name; if it is gone from the page, run the "
            "parameters cell again, or `del` it."
        )


def _typed(cell: _Cell) -> set[str]:
    """The names that get a literal: somebody typed a value, which is no result of an analysis."""
    found = set[str]()
    for node in ast.walk(cell.tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def _note_tags() -> None:
    """From now on, notes which cells are run with the tag; JupyterLab sends it with the cell."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    parent = getattr(getattr(shell, "kernel", None), "get_parent", None)
    if parent is None or hasattr(shell, "treelstm_notes_tags"):
        return

    def note(result: Any) -> None:
        tags = parent("shell").get("metadata", {}).get("tags", ())
        if {"parameters", "injected-parameters"} & {*tags}:
            _tagged.add(result.execution_count)
        elif _tagged:
            _untagged.add(result.execution_count)

    shell.treelstm_notes_tags = note
    shell.events.register("post_run_cell", note)
