"""Which reader a file gets, by name and content; trees of many files; the file they are written to."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from treelstm.data.pairs import DataError, Problems
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


class Format(NamedTuple):
    """How one format is read, and the endings of names that tell it."""

    read: Callable[[Source], Iterator[Tree]]
    endings: tuple[str, ...] = ()


# A new format is a reader and its line here.
FORMATS = {
    "conllu": Format(read_conllu, (".conllu", ".conll")),
    "brackets": Format(read_brackets, (".mrg", ".ptb", ".tree", ".trees", ".prd")),
    "json": Format(read_json, (".jsonl", ".json")),  # each value is what its keys tell
    "trees": Format(partial(read_json, reader=of_tree)),
    "spacy": Format(partial(read_json, reader=of_spacy)),
    "docbin": Format(read_docbin, (".spacy",)),
    "stanza": Format(partial(read_json, reader=of_stanza)),
    "corenlp": Format(partial(read_json, reader=of_corenlp)),
    "corenlp-parse": Format(partial(read_json, reader=partial(of_corenlp, parse=True))),
    "nodes": Format(partial(read_json, reader=of_nodes)),
    "parents": Format(read_parents, (".parents", ".cparents", "parents.txt")),
    "python": Format(read_python, (".py", ".pyi")),
    "tree-sitter": Format(read_tree_sitter, tuple(GRAMMARS)),
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
    paths: Iterable[Path],
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
    for path, name in _files([*paths], format, problems):
        source = Source(path, shown(name), problems, left_out, labels, each)
        before = problems.count + left_out.total()
        reader = FORMATS.get(format or _told(source) or "")
        for tree in reader.read(source) if reader else ():
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
        problems.add(path, 0, found, "Name files that hold some")
    if problems.count:
        raise DataError(problems)


def _files(paths: list[Path], format: str | None, problems: Problems) -> Iterator[tuple[Path, str]]:
    """Each file, and what its trees' ids begin with: its path below the directory that holds all. In a
    directory, files of known endings count.
    """
    tops = [path.absolute() if path.is_dir() else path.absolute().parent for path in paths]
    begin = os.path.commonpath(tops)
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                problems.add(path, 0, "no such file", "Correct the path")
            else:
                yield path, path.absolute().relative_to(begin).as_posix()
            continue
        files = sorted(each for each in path.rglob("*") if each.is_file())
        inside = [each for each in files if _known(each, format)] or (files if format else [])
        if not inside:
            problems.add(path, 0, "no file in it has a known ending", "Name files, or set the format")
        yield from ((each, each.absolute().relative_to(begin).as_posix()) for each in inside)


def _known(path: Path, format: str | None = None) -> str | None:
    """The format that a name tells, of all or of one."""
    name, formats = path.name.removesuffix(".gz"), [format] if format else FORMATS
    return next((each for each in formats if name.endswith(FORMATS[each].endings)), None)


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
    rows = ({key: getattr(tree, key) for key in keys} for tree in trees)
    given = ({key: value for key, value in row.items() if value is not None} for row in rows)
    return write_lines(path, map(as_json, given))


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Writes lines, gzipped if the name ends in .gz; how many. Raises WriteFailed."""
    count = 0
    with whole_file(path) as raw:
        # No name and no time: equal lines are equal bytes.
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else None
        file: BinaryIO | gzip.GzipFile = packed or raw
        for line in lines:
            count += 1
            file.write(line + b"\n")
        if packed:
            packed.close()
    return count


def as_json(value: Any) -> bytes:
    """JSON of an AST of any depth."""
    try:
        return _dumps(value).encode()
    except RecursionError:
        pass
    parts, pending = list[str](), [value]
    while pending:
        item = pending.pop()
        if isinstance(item, _Text):
            parts.append(item)
        elif isinstance(item, dict | list) and item:
            if named := isinstance(item, dict):
                rows = [(f"{_dumps(key)}: ", below) for key, below in item.items()]
            else:
                rows = [("", below) for below in item]
            inside = [each for begin, below in rows for each in (_Text(", " + begin), below)]
            inside[0] = _Text("[{"[named] + rows[0][0])
            pending += [_Text("]}"[named]), *reversed(inside)]
        else:
            parts.append(_dumps(item))
    return "".join(parts).encode()


_dumps = partial(json.dumps, ensure_ascii=False)


class _Text(str):
    """JSON that is written as it is."""
