"""What parsers of text write as JSON: spaCy, Stanza, CoreNLP; and spaCy's binary file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import msgspec

from treelstm.data.readers.brackets import of_brackets
from treelstm.data.readers.source import Malformed, Source, Tree
from treelstm.data.readers.words import Word, nested, node_of

PARSE = "Parse the text with heads and relations, or correct the value"
# Names of spaCy, of CoreNLP and of lists made by hand -> Stanza's and CoNLL-U's
_NAMES = {
    "text": "form",
    "word": "form",
    "pos": "upos",
    "tag": "xpos",
    "morph": "feats",
    "dep": "deprel",
}


class _Word(msgspec.Struct):
    id: int | list[int] | None = None  # two numbers: a multiword token, or an empty node
    start: int = 0  # offsets in spaCy's text
    end: int = 0
    form: str = ""
    lemma: str | None = None
    upos: str | None = None
    xpos: str | None = None
    feats: str | None = None
    head: int | None = None
    deprel: str | None = None
    originalText: str = ""  # noqa: N815, as CoreNLP names it
    after: str = " "


class _Span(msgspec.Struct):
    start: int
    end: int


class _Relation(msgspec.Struct):
    dep: str
    governor: int
    dependent: int


class _Sentence(msgspec.Struct):
    """Of CoreNLP."""

    tokens: list[dict[str, Any]]
    basicDependencies: list[_Relation] = []  # noqa: N815
    parse: str = ""


def of_spacy(source: Source, line: int, value: Any) -> Iterator[Tree]:
    """Of `Doc.to_json`: words by their offsets in the text; a root heads itself."""
    if not isinstance(value, dict):
        raise Malformed(line, "not a document of spaCy", PARSE)
    words, text = _convert(value.get("tokens")), msgspec.convert(value.get("text"), str | None)
    spans = msgspec.convert(value.get("sents") or [], list[_Span])
    groups: list[list[_Word]] = [[] for _ in range(len(spans) or 1)]
    starts = [span.start for span in spans]
    for word in words:
        if text is not None and 0 <= word.start < word.end <= len(text):
            word.form = text[word.start : word.end]
        groups[max(bisect_right(starts, word.start) - 1, 0)].append(word)
    texts = [text and text[span.start : span.end] for span in spans] or [text]
    yield from _sentences(source, line, zip(groups, texts, strict=True))


def of_stanza(source: Source, line: int, value: Any) -> Iterator[Tree]:
    """Of `Document.to_dict`: a list of sentences, or one; words count from 1, a root's head is 0."""
    sentences = msgspec.convert([value] if keys_of(value) else value, list[Any])
    yield from _sentences(source, line, ((_convert(each), None) for each in sentences))


def keys_of(value: Any) -> set[str]:
    """Those of the first object of a list."""
    first = value[0] if isinstance(value, list) and value else None
    return set(first) if isinstance(first, dict) else set()


def _convert(words: Any) -> list[_Word]:
    given = msgspec.convert(words, list[dict[str, Any]])
    renamed = [{_NAMES.get(key, key): value for key, value in word.items()} for word in given]
    return msgspec.convert(renamed, list[_Word])


def of_corenlp(source: Source, line: int, value: Any, parse: bool = False) -> Iterator[Tree]:
    """The basic dependencies of each sentence; its `parse` if asked, or if none has dependencies."""
    given = value.get("sentences") if isinstance(value, dict) else None
    sentences = msgspec.convert(given, list[_Sentence])
    if not parse and any(each.basicDependencies for each in sentences):
        return (yield from _sentences(source, line, (_related(source, each) for each in sentences)))
    for number, each in enumerate(sentences, 1):
        if not each.parse.startswith("("):
            found = f"sentence {number} has neither basicDependencies nor parse"
            raise Malformed(line, found, "Run CoreNLP with depparse or parse among its annotators")
        yield from of_brackets(source, line, each.parse)


def _related(source: Source, sentence: _Sentence) -> tuple[list[_Word], str]:
    """The words that have a relation: some versions give none to punctuation."""
    relations = {relation.dependent: relation for relation in sentence.basicDependencies}
    tokens = _convert(sentence.tokens)
    for number, word in enumerate(tokens, 1):
        word.id, word.xpos, word.upos = number, word.upos, None  # its tags are the language's own
        if relation := relations.get(number):
            word.head, word.deprel = relation.governor, relation.dep
    words = [word for word in tokens if word.id in relations]
    source.left_out["words without a relation"] += len(tokens) - len(words)
    return words, "".join((word.originalText or word.form) + word.after for word in tokens).strip()


def _sentences(
    source: Source, line: int, sentences: Iterable[tuple[list[_Word], str | None]]
) -> Iterator[Tree]:
    """Ids count from 0 where a word has no other, as in spaCy: there a root heads itself."""
    rows = list(sentences)
    first = 0 if any(word.id in (0, None) for given, _ in rows for word in given) else 1
    for number, (given, text) in enumerate(rows, 1):
        try:
            words = list(_words(line, given, first))
            forms = " ".join(str(word.node["form"]) for word in words)
            yield source.tree(line, nested(words), sentence=text or forms)
        except Malformed as error:
            source.problem(line, f"sentence {number}: {error}", error.remedy)


def _words(line: int, given: list[_Word], first: int) -> Iterator[Word]:
    for place, word in enumerate(given):
        ids = word.id if isinstance(word.id, list) else [place if word.id is None else word.id]
        if len(ids) != 1:
            continue
        (number,) = ids
        if not word.form or word.head is None:
            raise Malformed(line, f"word {number} has no {'head' if word.form else 'text'}", PARSE)
        root = word.head in (-1, 0 if first else number)
        head = 0 if root else word.head + 1 - first
        node = node_of(line, word.form, word.lemma, word.upos, word.xpos, word.feats)
        yield Word(number + 1 - first, head, word.deprel or "dep", node, line)


def read_docbin(source: Source) -> Iterator[Tree]:
    """The documents in a binary file of spaCy, which only spaCy reads; a tree's line is its document."""
    try:
        spacy, tokens = import_module("spacy"), import_module("spacy.tokens")
        docs = tokens.DocBin().from_disk(source.path).get_docs(spacy.blank("xx").vocab)
        for number, doc in enumerate(docs, 1):
            yield from of_spacy(source, number, doc.to_json())
    except ImportError:
        remedy = "Install spaCy, or write json.dumps(doc.to_json()) on a line each of a .jsonl file"
        source.problem(0, "only spaCy can read it, which is not installed", remedy)
    except Exception as error:  # of zlib, of msgpack, of spaCy
        source.problem(0, f"spaCy cannot read it ({error})", "Write the file again with DocBin.to_disk")
