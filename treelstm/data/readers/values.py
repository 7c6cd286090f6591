"""JSON: the trees that this package writes, bare ASTs, flat lists, and what parsers of text write.

A file holds one value on each line, or one document. What a value is, its keys tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec

from treelstm.data.readers.brackets import of_brackets
from treelstm.data.readers.nodes import linked
from treelstm.data.readers.parsers import PARSE, keys_of, of_corenlp, of_spacy, of_stanza
from treelstm.data.readers.source import Malformed, Source, Tree

_Reader = Callable[[Source, int, Any], Iterator[Tree]]
_OF_RECORD = {"id", "sentence", "label", "ast", "path", "source_file", "sentence_id"}
_REMEDY = "Write a JSON object, or set --format"


def read_json(source: Source, reader: _Reader | None = None) -> Iterator[Tree]:
    """The trees of every value, read by `reader`, else as its keys tell."""
    for line, value in source.values():
        before = source.count, source.problems.count
        try:
            yield from (reader or _by_keys)(source, line, value)
            if before == (source.count, source.problems.count):
                raise Malformed(line, "holds no tree")
        except Malformed as error:
            source.problem(error.line, str(error), error.remedy)
        except msgspec.ValidationError as error:
            source.problem(line, str(error), PARSE)


def _by_keys(source: Source, line: int, value: Any) -> Iterator[Tree]:
    if isinstance(value, dict) and "ast1" in value and "ast2" in value:
        yield from _of_record(source, line, value["ast1"], _of_part)
        yield from _of_record(source, line, value["ast2"], _of_part)
    elif isinstance(value, dict) and "ast" in value:
        yield from _of_record(source, line, value, _of_part)
    elif isinstance(value, list) and _reader_of(value) is None:
        for each in value:
            yield from (_by_keys if isinstance(each, dict) else _of_part)(source, line, each)
    else:
        yield from _of_part(source, line, value)


def _of_part(source: Source, line: int, value: Any) -> Iterator[Tree]:
    """Of a value that is no record and no list of several."""
    if (reader := _reader_of(value)) is None:
        raise Malformed(line, "neither a tree nor a parser's output", _REMEDY)
    return reader(source, line, value)


def _reader_of(value: Any) -> _Reader | None:
    """Told by the keys of the first part; any other object is a tree as it is."""
    if isinstance(value, str):
        return of_brackets
    if isinstance(value, dict):
        if keys_of(value.get("sentences")) & {"basicDependencies", "parse"}:
            return of_corenlp
        if keys_of(value.get("tokens")) & {"head", "start"}:
            return of_spacy
        return of_nodes if keys_of(value.get("nodes")) & {"children", "parent"} else _as_it_is
    first = value[0] if isinstance(value, list) and value else None
    if "head" in keys_of(value) or keys_of(first) >= {"id", "text"}:
        return of_stanza
    if keys_of(value) & {"children", "parent"} and not any(map(_has_objects, value)):
        return of_nodes
    return None


def _has_objects(node: Any) -> bool:
    return isinstance(node, dict) and bool(keys_of(node.get("children")))


def of_tree(source: Source, line: int, value: Any) -> Iterator[Tree]:
    """An AST as it is, in a record or not."""
    in_record = isinstance(value, dict) and "ast" in value
    return _of_record(source, line, value, _as_it_is) if in_record else _as_it_is(source, line, value)


def _as_it_is(source: Source, line: int, value: Any) -> Iterator[Tree]:
    if not isinstance(value, dict):
        raise Malformed(line, "not a JSON object, expected a tree", _REMEDY)
    yield source.tree(line, value)


def _of_record(source: Source, line: int, record: Any, reader: _Reader) -> Iterator[Tree]:
    """Its tree, with the id, sentence and label that it gives."""
    if not isinstance(record, dict) or "ast" not in record:
        raise Malformed(line, "ast is missing")
    for key in record.keys() - _OF_RECORD:
        source.left_out[f'values of "{key[:40]}" beside "ast"'] += 1
    own = {key: record.get(key) for key in ("sentence", "label")}
    own["id"] = record.get("id", record.get("sentence_id"))
    own["source_file"] = record.get("source_file", record.get("path"))
    given: dict[str, Any] = {k: str(value) for k, value in own.items() if value not in (None, "")}
    if any(isinstance(value, dict | list) for value in own.values()):
        raise Malformed(line, "id, sentence or label is no text", "Write a text or a number")
    for tree in reader(source, line, record["ast"]):
        yield replace(tree, **given)


def of_nodes(source: Source, line: int, value: Any) -> Iterator[Tree]:
    nodes = value.get("nodes", value.get("ast")) if isinstance(value, dict) else value
    if not isinstance(nodes, list):
        raise Malformed(line, "not a list of nodes", "Write a list of nodes, or set --format")
    yield source.tree(line, linked(line, nodes))
