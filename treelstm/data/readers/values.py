"""JSON: the trees that this package writes, bare ASTs, flat lists, and what parsers of text write.

A file holds one value on each line, or one document. What a value is, its keys tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec

from treelstm.data.readers.brackets import of_brackets
from treelstm.data.readers.parsers import PARSE, keys_of, of_corenlp, of_spacy, of_stanza
from treelstm.data.readers.source import Malformed, Source, Tree
from treelstm.data.readers.words import Word, nested

_Reader = Callable[[Source, int, Any], Iterator[Tree]]
_OF_RECORD = {"id", "sentence", "label", "ast", "path", "source_file", "sentence_id"}
_CORRECT = "Correct the ids or remove the tree"


def read_json(source: Source, reader: _Reader | None = None) -> Iterator[Tree]:
    """The trees of values, and of records that hold one as `ast`, read by `reader` or by their keys."""
    for line, value in source.values():
        before = source.count, source.problems.count
        try:
            for record in _parts(value, reader):
                in_record = isinstance(record, dict) and "ast" in record
                ast = record["ast"] if in_record else record
                own = _own(source, line, record) if in_record else {}
                for tree in (reader or _reader_of(ast) or of_tree)(source, line, ast):
                    yield replace(tree, **own)
            if before == (source.count, source.problems.count):
                raise Malformed(line, "holds no tree")
        except Malformed as error:
            source.malformed(error)
        except msgspec.ValidationError as error:
            source.problem(line, str(error), PARSE)


def _parts(value: Any, reader: _Reader | None) -> list[Any]:
    """Of a pair, a list of values, or one value."""
    if isinstance(value, dict) and "ast1" in value and "ast2" in value:
        return [value["ast1"], value["ast2"]]
    several = isinstance(value, list) and (reader is of_tree or _reader_of(value) is None)
    return value if several else [value]


def _own(source: Source, line: int, record: dict[str, Any]) -> dict[str, Any]:
    """The id, sentence, label and source file that a record gives its tree."""
    given = {"id": record.get("sentence_id"), "source_file": record.get("path"), **record}
    for key in record.keys() - _OF_RECORD:
        source.left_out[f'values of "{key[:40]}" beside "ast"'] += 1
    own = {key: given.get(key) for key in ("id", "sentence", "label", "source_file")}
    if any(isinstance(value, dict | list) for value in own.values()):
        raise Malformed(line, "id, sentence or label is no text", "Write a text or a number")
    return {key: str(value) for key, value in own.items() if value not in (None, "")}


def _reader_of(value: Any) -> _Reader | None:
    """Told by the keys of the first part; any other object is a tree as it is."""
    if isinstance(value, str):
        return of_brackets
    if isinstance(value, dict):
        if keys_of(value.get("sentences")) & {"basicDependencies", "parse"}:
            return of_corenlp
        if keys_of(value.get("tokens")) & {"head", "start"}:
            return of_spacy
        return of_nodes if keys_of(value.get("nodes")) & {"children", "parent"} else of_tree
    first = value[0] if isinstance(value, list) and value else None
    if "head" in keys_of(value) or keys_of(first) >= {"id", "text"}:
        return of_stanza
    if not keys_of(value) & {"children", "parent"}:
        return None
    nested = any(isinstance(node, dict) and keys_of(node.get("children")) for node in value)
    return None if nested else of_nodes


def of_tree(source: Source, line: int, value: Any) -> Iterator[Tree]:
    """An AST as it is."""
    if not isinstance(value, dict):
        raise Malformed(line, "neither a tree nor a parser's output", "Write JSON objects")
    yield source.tree(line, value)


class _Node(msgspec.Struct):
    id: int | str | None = None  # None: its place in the list, from 0
    children: list[int | str] | None = None
    parent: int | str | None = None


def of_nodes(source: Source, line: int, value: Any) -> Iterator[Tree]:
    """Of a flat list, as in py150 and astminer: `children` are ids, or `parent` is one. Ids stay out."""
    given: Any = value.get("nodes") if isinstance(value, dict) else value
    if isinstance(given, list) and given[-1:] == [0]:  # how the lists of js150 and py150 end
        given = given[:-1]
    nodes = msgspec.convert(given, list[_Node])
    ids = [place if node.id is None else node.id for place, node in enumerate(nodes)]
    places = {own: place for place, own in enumerate(ids)}
    if len(places) < len(nodes):
        raise Malformed(line, "two nodes have one id", _CORRECT)
    parents = dict[int | str, int | str]()  # in the order in which children are named
    for own, node in zip(ids, nodes, strict=True):
        links = [(child, own) for child in node.children or ()]
        if node.parent not in (None, -1):
            links.append((own, node.parent))
        for child, parent in links:
            if child not in places or parent not in places:
                raise Malformed(line, f"node {own} names a node that does not exist", _CORRECT)
            if parents.setdefault(child, parent) != parent:
                raise Malformed(line, f"node {child} has two parents", _CORRECT)
    roots = [own for own in ids if own not in parents]
    if len(roots) != 1:
        raise Malformed(line, f"a list of nodes with {len(roots)} roots, expected one", _CORRECT)
    words = list[Word]()
    for own in (*roots, *parents):
        head = places[parents[own]] + 1 if own in parents else 0
        symbols = {k: v for k, v in given[places[own]].items() if k not in ("id", "children", "parent")}
        words.append(Word(places[own] + 1, head, "children", symbols, line))
    yield source.tree(line, nested(words))
