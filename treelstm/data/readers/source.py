"""What a reader is given, a `Source`, and what it yields: `Tree`s, whose ASTs follow the JSON rule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treelstm.config import EncoderSettings
from treelstm.data.problems import Problems
from treelstm.data.ranges import quick
from treelstm.data.reading import LINE_BYTES, REPAIR, Unreadable, read_lines, read_text
from treelstm.plain import shown
from treelstm.trees.builder import TreeError, compile_forest
from treelstm.trees.vocabulary import ROLE

_DRAWN, _LEVELS = 60, 40  # of a drawing: the most nodes, and levels that are indented further


class Malformed(Unreadable):
    """What keeps a tree from being read, its remedy, and the line it is on."""

    def __init__(self, line: int, found: str, remedy: str = REPAIR) -> None:
        super().__init__(found, remedy)
        self.line = line


@dataclass(frozen=True)
class Tree:
    """One tree of a file."""

    id: str
    ast: dict[str, Any]
    sentence: str | None  # None: the file has none
    label: str | None
    file: Path
    line: int  # where it begins
    source_file: str  # the name of the file that it comes from

    def __str__(self) -> str:
        """Drawn as the encoder sees it by default."""
        return drawing(self.ast)


@dataclass
class Source:
    """A file to read trees from; `problems` and `left_out` are shared by all files of a command."""

    path: Path
    name: str  # begins the ids of trees that have none of their own
    problems: Problems
    left_out: Counter[str]  # what the trees have no place for -> how often it was there
    keep_labels: bool = False  # gold labels stay in the AST
    each: str = "function"  # or "file": what of source code is a tree
    count: int = field(default=0, init=False)  # trees so far

    def tree(
        self,
        line: int,
        ast: dict[str, Any],
        id: str | None = None,
        sentence: str | None = None,
        label: str | None = None,
    ) -> Tree:
        """`id`, `sentence` and `label` are None where the file has none."""
        self.count += 1
        own = id or f"{self.name}:{self.count}"
        return Tree(own, ast, sentence or None, label, self.path, line, self.name)

    def problem(self, line: int, found: str, remedy: str) -> None:
        self.problems.add(self.path, line, found, remedy)

    def malformed(self, error: Malformed) -> None:
        self.problem(error.line, str(error), error.remedy)

    def lines(self, path: Path | None = None) -> Iterator[tuple[int, str]]:
        """Number and text of each line, without its end; what is no text becomes a problem."""
        return read_text(path or self.path, self.problems)

    def whole(self, most_bytes: int = 4 * LINE_BYTES) -> bytes:
        """All bytes; none, and a problem, where they cannot be read or are too many."""
        before, parts, size = self.problems.count, list[bytes](), 0
        for _, raw in read_lines(self.path, self.problems):
            parts.append(raw)
            size += len(raw)
            if size > most_bytes:
                self.problem(0, f"longer than {most_bytes:,} bytes", "Split it or leave it out")
                break
        return b"".join(parts) if self.problems.count == before else b""

    def values(self) -> Iterator[tuple[int, Any]]:
        """The JSON values of a file, one on each line or one document, with the line each begins on."""
        by_line = ".jsonl" in self.path.suffixes
        for line, raw in read_lines(self.path, self.problems):
            if raw.isspace():
                continue
            try:
                yield line, quick(raw)
                by_line = True
            except Unreadable as error:
                if not by_line:
                    break
                self.problem(line, str(error), error.remedy)
        else:
            return
        if raw := self.whole():
            try:
                yield line, quick(raw)
            except Unreadable as error:
                at = re.search(r"line (\d+) column", str(error))
                self.problem(int(at[1]) if at else line, str(error), error.remedy)


def drawing(ast: dict[str, Any], ignored_keys: Iterable[str] = EncoderSettings.ignored_keys) -> str:
    """A tree as the encoder sees it: the symbols of each node, its role first, under its parent."""
    try:
        graph = compile_forest([ast], ignored_keys).graph(0)
    except TreeError as error:
        return str(error)
    below: list[list[int]] = [[] for _ in graph.symbols]
    for parent, child in graph.edge_index.t().tolist():
        below[parent].append(child)
    drawn, pending = list[str](), [(0, 0)]
    while pending and len(drawn) < _DRAWN:
        node, depth = pending.pop()
        symbols = sorted(graph.symbols[node], key=lambda symbol: not symbol.startswith(ROLE))
        drawn.append("  " * min(depth, _LEVELS) + shown("  ".join(symbols) or "·").replace("\n", " "))
        pending += [(child, depth + 1) for child in reversed(below[node])]
    more = len(graph.symbols) - len(drawn)
    return "\n".join([*drawn, f"... {more:,} more nodes"] if more else drawn)
