"""CoNLL-U (universaldependencies.org/format.html): the basic tree of each sentence.

The package `conllu` reads the values. The lines are read here, because it gives no line numbers and
lets mistakes pass. Enhanced dependencies, empty nodes and `misc` stay out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from conllu.exceptions import ParseException
from conllu.parser import parse_comment_line, parse_id_value, parse_int_value

from treelstm.data.readers.source import Malformed, Source, Tree
from treelstm.data.readers.words import Word, nested, node_of

_COLUMNS = "ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC".split()


def read_conllu(source: Source) -> Iterator[Tree]:
    """One tree a sentence; its id is `sent_id`, its sentence `text`,
    its label `label`. At most one problem a sentence."""
    about, words, begins, readable = dict[str, str | None](), list[Word](), 0, True
    for line, text in chain(source.lines(), [(0, "")]):
        try:
            if text.strip():
                begins = begins or line
                if text.startswith("#"):
                    about |= parse_comment_line(text)
                elif readable:
                    words += _word(source, line, text, len(words) + 1, about.get("text") or "")
                continue
            if begins and readable:
                if not words:
                    raise Malformed(begins, "a sentence without words", "Add its words or remove it")
                said = [about.get(key) for key in ("sent_id", "text", "label")]
                yield source.tree(begins, nested(words), *said)
            about, words, begins, readable = {}, [], 0, True
        except Malformed as error:
            source.problem(error.line, str(error), error.remedy)
            readable = False


def _word(source: Source, line: int, text: str, expected: int, sentence: str) -> list[Word]:
    """The word on a line; none if it is no word of the basic tree."""
    values = text.split("\t")
    if len(values) != len(_COLUMNS):
        found = f"{len(values)} columns, expected {len(_COLUMNS)} with a tab between"
        raise Malformed(line, found, "Write _ in a column that has no value")
    row = dict(zip(_COLUMNS, values, strict=True))
    if empty := [name for name in _COLUMNS if not row[name].strip(" ")]:
        raise Malformed(line, f"{empty[0]} is empty", "Write _ in a column that has no value")
    try:
        number, head = parse_id_value(row["ID"]), parse_int_value(row["HEAD"])
    except (ParseException, ValueError) as error:  # the latter: a number of thousands of digits
        raise Malformed(line, str(error)[:200], "Correct the line or remove the sentence") from None
    source.left_out["enhanced dependencies"] += row["DEPS"] != "_"
    if isinstance(number, tuple):  # before the first of its words, or behind the word that it follows
        if number[0] != expected - (number[1] == "."):
            found = f"ID is {row['ID']}, but {expected} is the next word"
            raise Malformed(line, found, "Put the line where its words are")
        source.left_out["empty nodes" if number[1] == "." else "forms of multiword tokens"] += 1
        return []
    if number != expected:
        found = f"ID is {row['ID']}, expected {expected}"
        raise Malformed(line, found, "Number the words from 1; a blank line ends a sentence")
    if head is None or head < 0 or row["DEPREL"] == "_":
        found = f"HEAD is {row['HEAD']} and DEPREL is {row['DEPREL']}, but a word needs both"
        raise Malformed(line, found, "Parse the sentence, or write 0 and root")
    given = {name: None if value == "_" else value for name, value in row.items()}
    if row["FORM"] == row["LEMMA"] == "_" and (row["UPOS"] in ("PUNCT", "SYM") or "_" in sentence):
        given |= {"FORM": "_", "LEMMA": "_"}  # the word is an underscore
    node = node_of(line, *(given[name] for name in ("FORM", "LEMMA", "UPOS", "XPOS", "FEATS")))
    return [Word(number, head, row["DEPREL"], node, line)]
