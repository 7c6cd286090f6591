"""Which reader a file gets, by name and content; trees of many files; the file they are written to."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from treelstm.data.problems import DataError, Problems
from treelstm.data.readers.brackets import read_brackets
from treelstm.data.readers.code import GRAMMARS, read_python, read_tree_sitter
from treelstm.data.readers.conllu import read_conllu
from treelstm.data.readers.parsers import of_corenlp, of_spacy, of_stanza, read_docbin
from treelstm.data.readers.pointers import read_parents
from treelstm.data.readers.source import Source, Tree
from treelstm.data.readers.values import of_nodes, of_tree, read_json
from treelstm.errors import UserError
from treelstm.files import whole_file
from treelstm.plain import shown

# A new format is a reader and its line here, with the endings of names that tell it.
FORMATS: dict[str, tuple[Callable[[Source], Iterator[Tree]], tuple[str, ...]]] = {
    "conllu": (read_conllu, (".conllu", ".conll")),
    "brackets": (read_brackets, (".mrg", ".ptb", ".tree", ".trees", ".prd")),
    "json": (read_json, (".jsonl", ".json")),  # each value is what its keys tell
    "trees": (partial(read_json, reader=of_tree), ()),
    "spacy": (partial(read_json, reader=of_spacy), ()),
    "docbin": (read_docbin, (".spacy",)),
    "stanza": (partial(read_json, reader=of_stanza), ()),
    "corenlp": (partial(read_json, reader=of_corenlp), ()),
    "corenlp-parse": (partial(read_json, reader=partial(of_corenlp, parse=True)), ()),
    "nodes": (partial(read_json, reader=of_nodes), ()),
    "parents": (read_parents, (".parents", ".cparents", "parents.txt")),
    "python": (read_python, (".py", ".pyi")),
    "tree-sitter": (read_tree_sitter, tuple(GRAMMARS)),
}
_FIRST_LINES = {"brackets": r"\s*\(", "json": r"\s*[\[{\"]", "conllu": r"#|(?:[^\t]+\t){9}"}


class FormatError(UserError, ValueError):
    """No such format."""


def read_trees(
    path: Path | str, format: str | None = None, labels: bool = False, each: str = Source.each
) -> list[Tree]:
    """The trees of a file, or of all files below a directory.

    `format` is told by name and content if it is None. `labels`: gold labels stay in the trees.
    `each`: what of source code is a tree, "function" or "file".

    Raises:
        DataError: something cannot be read; the message lists the problems, by file and line.
        FormatError: there is no such format.
    """
    return list(iterate_trees([Path(path)], format, labels, each))


def iterate_trees(
    paths: Sequence[Path],
    format: str | None = None,
    labels: bool = False,
    each: str = Source.each,
    left_out: Counter[str] | None = None,
) -> Iterator[Tree]:
    """The trees of all files, one by one; counts in `left_out` what they have no place for.

    Raises as `read_trees`, when all files have been read.
    """
    if format is not None and format not in FORMATS:
        raise FormatError(f"{format}: no such format. The formats are {', '.join(FORMATS)}.")
    if each not in ("function", "file"):
        raise FormatError(f'each is {each!r}, expected "function" or "file".')
    problems, seen = Problems(), set[str]()
    left_out = Counter() if left_out is None else left_out
    tops = [path.absolute() if path.is_dir() else path.absolute().parent for path in paths]
    begin = os.path.commonpath(tops)  # ids begin with the path below it
    for path in chain.from_iterable(_files(path, format, problems) for path in paths):
        name = path.absolute().relative_to(begin).as_posix()
        source = Source(path, shown(name), problems, left_out, labels, each)
        before = problems.count + left_out.total()
        told = format or _told(source)
        for tree in FORMATS[told][0](source) if told else ():
            if not tree.ast:
                source.problem(tree.line, "a tree without symbols and children", "Leave it out")
            if tree.id in seen:
                found = f"the id {tree.id} occurs a second time"
                source.problem(tree.line, found, "Give each tree an id of its own")
            seen.add(tree.id)
            yield tree
        if not source.count and before == problems.count + left_out.total():
            source.problem(0, "holds no trees", "Add some, or leave the file out")
    if not seen and not problems.count:
        found = "; ".join(["no trees in all", *(f"left out: {what}" for what in left_out)])
        source.problem(0, found, "Name files that hold some")
    if problems.count:
        raise DataError(problems)


def _files(path: Path, format: str | None, problems: Problems) -> list[Path]:
    """The file; of a directory, the files of known endings, or all if none has that of the format."""
    is_directory = path.is_dir()
    if not is_directory and path.exists():
        return [path]
    files = sorted(each for each in path.rglob("*") if each.is_file())
    inside = [each for each in files if _known(each, format)] or (files if format else [])
    if not inside:
        found = "no file in it has a known ending" if is_directory else "no such file"
        problems.add(path, 0, found, "Correct the path, or set the format")
    return inside


def _known(path: Path, format: str | None = None) -> str | None:
    """The format that a name tells, of all or of one."""
    name, formats = path.name.removesuffix(".gz"), [format] if format else FORMATS
    return next((each for each in formats if name.endswith(FORMATS[each][1])), None)


def _told(source: Source) -> str | None:
    """The format of a file by its name, else by its first line; None if neither tells: a problem."""
    if known := _known(source.path):
        return known
    before = source.problems.count
    first = next((text for _, text in source.lines() if text.strip()), "")
    told = next((key for key, begins in _FIRST_LINES.items() if re.match(begins, first)), None)
    if told is None and before == source.problems.count:
        remedy = f"Set the format: {', '.join(FORMATS)}"
        source.problem(0, "neither its name nor its first line tells a format", remedy)
    return told


def write_trees(path: Path, trees: Iterable[Tree]) -> int:
    """Writes one JSON object a line; how many. Raises as `write_lines`."""
    keys = ("id", "sentence", "label", "source_file", "ast")
    rows = ({k: v for k in keys if (v := getattr(tree, k)) is not None} for tree in trees)
    return write_lines(path, map(as_json, rows))


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Writes lines, gzipped if the name ends in .gz; how many. Raises WriteFailed."""
    count = 0
    with whole_file(path) as raw:
        # No name and no time: equal lines are equal bytes.
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else None
        for line in lines:
            count += 1
            (packed or raw).write(line + b"\n")
        if packed:
            packed.close()
    return count


def as_json(value: Any) -> bytes:
    """JSON of an AST of any depth."""
    try:
        return _dumps(value).encode()
    except RecursionError:
        parts, inside = list[str](), [_pieces(value)]
        while inside:
            if (piece := next(inside[-1], None)) is None:
                inside.pop()
            elif isinstance(piece, str):
                parts.append(piece)
            else:
                inside.append(piece)
        return "".join(parts).encode()


def _pieces(value: Any) -> Iterator[str | Iterator[Any]]:
    """Texts, and pieces of what is inside."""
    if isinstance(value, dict) and value:
        for before, (key, item) in zip(chain("{", repeat(", ")), value.items(), strict=False):
            yield f"{before}{_dumps(key)}: "
            yield _pieces(item)
        yield "}"
    elif isinstance(value, list) and value:
        for before, item in zip(chain("[", repeat(", ")), value, strict=False):
            yield before
            yield _pieces(item)
        yield "]"
    else:
        yield _dumps(value)


_dumps = partial(json.dumps, ensure_ascii=False)
