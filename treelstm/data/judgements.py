"""A table of judged pairs (SICK, STS, MRPC): its rows, joined to the trees of its ids or sentences."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from treelstm.config import did_you_mean
from treelstm.data.problems import DataError, Problems, data_error
from treelstm.data.reading import read_text
from treelstm.errors import UserError

# Names of columns that are known, without capitals and signs: first, second, similarity, label.
_KNOWN = [
    "first id1 sentencea sentence1 text1 texta s1 question1 code1 func1 1string".split(),
    "second id2 sentenceb sentence2 text2 textb s2 question2 code2 func2 2string".split(),
    "similarity score relatednessscore".split(),
    "label quality isduplicate isclone".split(),
]
_REMEDY = "Correct the row or remove it"


class PairingError(UserError, ValueError):
    """These trees give no such pairs, or there are pairs already."""


class Known(NamedTuple):
    """A tree to make pairs of."""

    id: str
    label: str
    sentence: str
    source: str  # its file
    digest: bytes  # equal trees have equal ones
    part: bytes  # what the line of a pair holds of it


Row = tuple[Known, Known, dict[str, float]]  # a label, a similarity or both
Groups = dict[str, list[Known]]  # a group is in training or in validation, never in both
Chosen = tuple[list[Row], list[Row]]  # similar and dissimilar pairs
Choice = Callable[[Groups, int | None, int | None, Random], Chosen]  # of some groups, as many as asked


def number_of(kind: str, wanted: int | None, usual: int, possible: int) -> int:
    """How many pairs of a kind to make: `wanted`, or the usual number, or all; PairingError if fewer
    than `wanted` are possible.
    """
    if wanted is None:
        wanted = min(usual, possible)
    if not 0 < wanted <= possible:
        raise PairingError(f"{wanted:,} {kind} pairs were asked for, {possible:,} are possible here.")
    return wanted


def judged(trees: list[Known], path: Path, columns: list[str]) -> list[Row]:
    """The pairs of the rows of a table with tabs or commas. A column of 0 and 1 alone is a label, any
    other a similarity. `columns` are names, or numbers from 1: those of two trees, then of the values.

    Raises:
        DataError: rows that no tree or number is found for, by line, or no rows.
        PairingError: there are no such columns.
    """
    problems, pairs = Problems(), list[tuple[Known, Known, list[float]]]()
    lines = [f"{text}\n" for _, text in read_text(path, problems)]
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}  # there, quotes are text
    reader = csv.reader(lines, **(tabs if "\t" in "".join(lines[:1]) else {}))
    try:
        rows = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise data_error(path, f"line {reader.line_num}: {error}", _REMEDY) from None
    places = _places(path, rows[0][1], columns) if rows else []
    named = defaultdict[str, list[Known]](list)
    for tree in sorted(trees, key=lambda tree: tree.id):
        for name in {tree.id, " ".join(tree.sentence.split())} - {""}:
            named[name].append(tree)
    for number, (line, cells) in enumerate(rows):
        first, second = (" ".join("".join(cells[n : n + 1]).split()) for n in places[:2])
        values = _numbers(cells, places[2:])
        if number == 0 and not (values or first in named or second in named):
            continue  # the header
        if not values:
            found = f"a column is missing, or is not a number: {', '.join(cells)[:80]}"
            problems.add(path, line, found, _REMEDY)
        for name in (first, second):
            count = len({tree.digest for tree in named[name]})
            if count != 1:
                found = f"{name[:80]!r} is the id or sentence of {count or 'no'} tree(s), expected one"
                problems.add(path, line, found, "Parse the sentence, or remove the row")
        if not problems.count:
            pairs.append((named[first][0], named[second][0], values))
    if not (pairs or problems.count):
        problems.add(path, 0, "holds no rows", "Write a header, and a row for each pair")
    if problems.count:
        raise DataError(problems)
    values_of = zip(*(values for *_, values in pairs), strict=True)
    kinds = ["label" if {*column} <= {0, 1} else "similarity" for column in values_of]
    if len({*kinds}) < len(kinds):
        raise PairingError(f"{path}: two columns of {kinds[0]}s. Name one of them in columns.")
    return [(a, b, dict(zip(kinds, values, strict=True))) for a, b, values in pairs]


def _places(path: Path, header: list[str], columns: list[str]) -> list[int]:
    """The columns of both trees and of the values, from 0."""
    if columns and all(name.isdecimal() for name in columns):
        places = [int(name) - 1 for name in columns]
    elif columns:
        places = [header.index(name) if name in header else -1 for name in columns]
    else:
        names = ["".join(filter(str.isalnum, name.lower())) for name in header]
        known = [next((names.index(name) for name in each if name in names), -1) for each in _KNOWN]
        places = [*known[:2], *(place for place in known[2:] if place >= 0)]
    if len(places) < 3 or min(places) < 0:
        wrong = next((name for name in columns if name not in header), "")
        lacking = f"{wrong or 'a known name'} is not in the header: {', '.join(header)[:200]}"
        remedy = "Say columns: those of both trees, then of the score, by name or number"
        raise PairingError(f"{path}: {lacking}. {did_you_mean(wrong, header)}{remedy}.")
    return places


def _numbers(cells: list[str], places: list[int]) -> list[float]:
    """The finite numbers that are there; none if one is missing or is another text."""
    try:
        values = [float(cells[place]) for place in places]
    except (ValueError, IndexError):
        return []
    return values if all(map(math.isfinite, values)) else []
