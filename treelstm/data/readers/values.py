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
            source.problem(error.line, str(error), error.remedy)
        except msgspec.ValidationError as error:
            source.problem(line, str(error), PARSE)


def _parts(value: Any, reader: _Reader | None) -> list[Any]:
    """Of a pair, a list of values, or one value."""
    if isinstance(value, dict) and "ast1" in value and "ast2" in value:
        return [value["ast1"], value["ast2"]]
    several = isinstance(value, list) and (reader is of_tree or _reader_of(value) is None)
    return value if several else [value]


def _own(source: Source, line: int, record: dict[str, Any]) -> dict[str, Any]:
    """The id, sentence and label that a record gives its tree."""
    for key in record.keys() - _OF_RECORD:
        source.left_out[f'values of "{key[:40]}" beside "ast"'] += 1
    own = {key: record.get(key) for key in ("sentence", "label")}
    own["source_file"] = record.get("source_file", record.get("path"))
    own["id"] = record.get("id", record.get("sentence_id"))
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
        raise Malformed(line, "neither a tree nor a parser's output", _REMEDY)
    yield source.tree(line, value)


def of_nodes(source: Source, line: int, value: Any) -> Iterator[Tree]:
    nodes = value.get("nodes", value.get("ast")) if isinstance(value, dict) else value
    if not isinstance(nodes, list):
        raise Malformed(line, "not a list of nodes", "Write a list of nodes, or set --format")
    yield source.tree(line, linked(line, nodes))
