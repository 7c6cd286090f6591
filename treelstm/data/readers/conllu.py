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
_CORRECT = "Correct the line or remove the sentence"


def read_conllu(source: Source) -> Iterator[Tree]:
    """A tree or a problem a sentence; its id is `sent_id`, its sentence `text`, its label `label`."""
    about, words, begins, readable = dict[str, str | None](), list[Word](), 0, True
    for line, text in chain(source.lines(), [(0, "")]):
        try:
            if text.strip():
                begins = begins or line
                if text.startswith("#"):
                    about |= parse_comment_line(text)
                elif readable:
                    words += _word(source, line, text, len(words) + 1)
                continue
            if begins and readable:
                if not words:
                    raise Malformed(begins, "a sentence without words", "Add its words or remove it")
                said = [about.get(key) for key in ("sent_id", "text", "label")]
                yield source.tree(begins, nested(words), *said)
            about, words, begins, readable = {}, [], 0, True
        except Malformed as error:
            source.malformed(error)
            readable = False


def _word(source: Source, line: int, text: str, expected: int) -> list[Word]:
    """The word on a line; none if it is no word of the basic tree."""
    values = text.split("\t")
    if len(values) != len(_COLUMNS) or not all(value.strip(" ") for value in values):
        found = f"{len(values)} columns, expected {len(_COLUMNS)} with a tab between, none of them empty"
        raise Malformed(line, found, "Write _ in a column that has no value")
    row = dict(zip(_COLUMNS, values, strict=True))
    try:
        number, head = parse_id_value(row["ID"]), parse_int_value(row["HEAD"])
    except (ParseException, ValueError) as error:  # the latter: a number of thousands of digits
        raise Malformed(line, str(error)[:200], _CORRECT) from None
    source.left_out["enhanced dependencies"] += row["DEPS"] != "_"
    # Two numbers stand before the first of their words, or behind the word that they follow.
    next_word = number[0] + (number[1] == ".") if isinstance(number, tuple) else number
    if number is None or next_word != expected:
        found = f"ID is {row['ID']}, but {expected} is the next word"
        raise Malformed(line, found, "Number the words from 1; a blank line ends a sentence")
    if not isinstance(number, int):
        source.left_out["empty nodes" if number[1] == "." else "forms of multiword tokens"] += 1
        return []
    if head is None or head < 0 or row["DEPREL"] == "_":
        found = f"HEAD is {row['HEAD']} and DEPREL is {row['DEPREL']}, but a word needs both"
        raise Malformed(line, found, "Parse the sentence, or write 0 and root")
    given = {name: None if value == "_" else value for name, value in row.items()}
    if row["FORM"] == row["LEMMA"] == "_":  # the word is an underscore
        given |= {"FORM": "_", "LEMMA": "_"}
    node = node_of(line, *(given[name] for name in ("FORM", "LEMMA", "UPOS", "XPOS", "FEATS")))
    return [Word(number, head, row["DEPREL"], node, line)]
