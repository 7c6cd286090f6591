"""What a reader is given, a `Source`, and what it yields: `Tree`s, whose ASTs follow the JSON rule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treelstm.data.pairs import Problems
from treelstm.data.readers.drawing import drawing
from treelstm.data.reading import LINE_BYTES, REPAIR, Unreadable, parse, read_lines

_DOCUMENT_BYTES = 4 * LINE_BYTES  # a JSON document is read whole; one value on each line is not
_SAVE = "Save the file as UTF-8 text"


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

    def lines(self, path: Path | None = None) -> Iterator[tuple[int, str]]:
        """Number and text of each line, without its end; bytes that are no text become problems."""
        path = path or self.path
        for line, raw in read_lines(path, self.problems, {}):
            text = raw.decode(errors="replace").removesuffix("\n").removesuffix("\r")
            if "\0" in text or "\r" in text:
                found = "holds a NUL, or a carriage return inside the line"
                self.problems.add(path, line, found, _SAVE)
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                found = f"not UTF-8 (byte {error.start + 1} of the line is 0x{raw[error.start]:02x})"
                self.problems.add(path, line, found, _SAVE)
            yield line, text

    def values(self) -> Iterator[tuple[int, Any]]:
        """The JSON values of a file, one on each line or one document, with the line each begins on."""
        document, begins, size, single = list[bytes](), 0, 0, ".jsonl" in self.path.suffixes
        for line, raw in read_lines(self.path, self.problems, {}):
            if document:
                document.append(raw)
                size += len(raw)
                if size > _DOCUMENT_BYTES:
                    found = f"begins a JSON document of more than {_DOCUMENT_BYTES:,} bytes"
                    return self.problem(begins, found, "Write one value on each line (JSON Lines)")
            elif raw.strip():
                try:
                    yield line, parse(raw)
                    single = True
                except Unreadable as error:
                    if single:
                        self.problem(line, str(error), error.remedy)
                    else:
                        document, begins = [raw], line
        if document:
            try:
                yield begins, parse(b"".join(document))
            except Unreadable as error:
                at = re.search(r"line (\d+) column", str(error))
                self.problem(begins + int(at[1]) - 1 if at else begins, str(error), error.remedy)
