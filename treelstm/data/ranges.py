"""A range of the lines of a pair file, compiled: in this process or, with others, in several.

A tree whose bytes were seen before is not parsed again. The trees of a line are cut out of it unparsed;
what is left of it is parsed strictly, and so is each tree, unless a faster parser must give the same
(`quick`). A line with any problem or doubt is read again as a whole, strictly, so that the fast way
finds no problems and never decides what is one. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import pickle
import re
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import msgspec
import numpy as np

from treelstm.data.files import is_table
from treelstm.data.foreign import looks_like
from treelstm.data.problems import Problems
from treelstm.data.reading import REPAIR, Unreadable, parse, read_lines, read_text
from treelstm.trees.arrays import Array
from treelstm.trees.builder import ForestBuilder, TreeError
from treelstm.trees.parts import Part
from treelstm.trees.values import brief, kind

# A pair as it is written to a file until all are known: trees by their numbers in one process.
ROW = np.dtype("u4, u4, u8, f8, i1")
ROW.names = ("first", "second", "line", "similarity", "label")
_ROWS = 2**14  # held at once
_KNOWN = 2**16  # byte strings that are remembered, more where there are more trees
_LOOKS = "expected a JSON object: it looks like"
_NAMES = "first and second name trees, but there is no trees.jsonl beside this file"
_BOTH = "ast1 or ast2 is there, but trees.jsonl is beside this file, so first and second were expected"
_ONCE = (_LOOKS, _NAMES, _BOTH)  # there may be thousands of one kind
_PARSE_AGAIN = "Parse the sentence again or remove the line"
_BEGINNING = 96  # bytes that mostly tell trees apart
_BRACE = ord("{")
_DIGITS = bytes(48 if 48 <= byte < 58 else byte for byte in range(256))  # all of them become 0
_LABELS: dict[Any, int] = {"0": 0, "1": 1}
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", re.ASCII)

Once = dict[tuple[str, str], tuple[int, int]]  # problem of many lines -> the first, how many
Wrong = Iterator[tuple[str, str]]  # what was found, and its remedy
Trees = tuple[Part, Array, list[str | None]]  # a part of a forest, the root and the sentence of each
Row = tuple[int, int, Any, Any]  # first and second tree, label, similarity


class Task(NamedTuple):
    """A range of a file: `kind` is "pairs", "trees" or "references", to trees in other files."""

    path: Path
    kind: str
    label: int | None  # of each pair of the file
    begin: int
    end: int
    rows: Path  # where its rows are written


@dataclass
class Found:
    """What a range holds."""

    problems: Problems = field(default_factory=Problems)
    once: Once = field(default_factory=dict)
    lines: int = 0
    rows: int = 0
    reader: int = 0  # which process read it
    graded: bool = False  # whether a pair has a similarity
    ids: list[str] = field(default_factory=list)  # of trees


class _Tree(msgspec.Struct):
    ast: msgspec.Raw


class _Pair(msgspec.Struct):
    ast1: msgspec.Raw
    ast2: msgspec.Raw


_TREE, _PAIR = msgspec.json.Decoder(_Tree), msgspec.json.Decoder(_Pair)
_ANY = msgspec.json.Decoder()


class RangeReader:
    """Reads ranges one after the other; holds their distinct trees, and nothing for each pair."""

    def __init__(
        self, ignored_keys: Iterable[str], child_order: bool, ids: Mapping[str, int] | None = None
    ) -> None:
        """`ids`: the numbers of the trees that pairs name."""
        self._builder, self._ids = ForestBuilder(ignored_keys, child_order=child_order), ids or {}
        self._trees: dict[tuple[int, str | None], int] = {}  # tree of the builder, sentence -> number
        self._sides: dict[bytes, int] = {}  # digest of a tree with its sentence -> number
        self._lengths: dict[int, int] = {}  # hash of their beginning -> bytes, of the latest
        self._asts: dict[bytes, int] = {}  # digest of an AST -> tree of the builder
        self._parsed = 0  # trees that were parsed or looked up in `_asts`, again and again
        self._rests: dict[bytes, Row] = {}  # lines without their trees

    def trees(self) -> Trees:
        """The trees of all ranges."""
        roots = np.fromiter((root for root, _ in self._trees), np.int64, len(self._trees))
        return self._builder.part(), roots, [sentence for _, sentence in self._trees]

    def read(self, task: Task, told: Callable[[int], None] = lambda position: None) -> Found:
        """Writes the pairs of a range, and says what else there is in it."""
        found = self._read(task, 0, told)
        if task.begin and (found.problems.count or found.once):  # now line numbers are needed
            before = sum(1 for _ in read_lines(task.path, Problems(), 0, task.begin))
            found = self._read(task, before, told)
        return found

    def _read(self, task: Task, before: int, told: Callable[[int], None]) -> Found:
        found, held = Found(), list[tuple[Any, ...]]()
        self._rests.clear()
        end = None if task.path.suffix == ".gz" else task.end
        lines = (task.path, found.problems, task.begin, end, before, told)
        rows = self._table(task, found, lines) if is_table(task.path) else self._json(task, found, lines)
        with task.rows.open("wb") as file:
            for line, (first, second, label, similarity) in rows:
                found.graded |= similarity is not None
                degree = math.nan if similarity is None else similarity
                held.append((first, second, line, degree, -1 if label is None else label))
                found.rows += 1
                if len(held) == _ROWS:
                    np.array(held, ROW).tofile(file)
                    held.clear()
            np.array(held, ROW).tofile(file)
        return found

    def _json(self, task: Task, found: Found, lines: Any) -> Iterator[tuple[int, Row]]:
        fast = {"pairs": self._fast_pair, "trees": self._fast_tree}.get(task.kind)
        slow, holds = {
            "pairs": (self._pair, "ast1, ast2 and label"),
            "trees": (self._tree_line, "id and ast"),
            "references": (self._reference, "first, second and label"),
        }[task.kind]
        for line, raw in read_lines(*lines):
            found.lines = line
            if raw.isspace() or not raw:
                continue
            # While no trees come again, it is faster to parse lines as a whole.
            if fast and self._parsed > 1.05 * len(self._trees) + 20:
                try:
                    yield line, fast(raw, task.label, found)
                    continue
                except (msgspec.MsgspecError, ValueError, RecursionError, LookupError, TypeError):
                    pass  # read slowly, it is found to be right, or told what is wrong with it
            row = list[Any]()
            try:
                record = quick(raw)
                if not isinstance(record, dict):
                    raise Unreadable(f"not a JSON object, expected one with {holds}")
                wrong = [*slow(record, task.label, found, row)]
            except Unreadable as error:
                wrong = [(str(error), error.remedy)]
            if not self._told(task.path, line, wrong, found):
                yield line, (row[0], row[1], row[2], row[3])

    def _table(self, task: Task, found: Found, lines: Any) -> Iterator[tuple[int, Row]]:
        """Rows of tab-separated text under a header."""
        columns = next(read_text(task.path, Problems()), (1, ""))[1].split("\t")
        given = Counter(columns)
        right = given["first"] == given["second"] == max(given.values()) == 1
        right &= given["label"] + given["similarity"] > 0
        for line, text in read_text(*lines):
            found.lines = line
            if line == 1 and not task.begin:
                if not right:
                    said = f"the header is {', '.join(columns)[:200]}, expected first, second, and "
                    said += "label, similarity or both, each once"
                    found.problems.add(task.path, line, said, "Write a header, separated by tabs")
                continue
            if not text.strip() or not right:
                continue
            fields, row = text.split("\t"), list[Any]()
            if len(fields) != len(columns):
                said = f"{len(fields)} fields, expected {len(columns)}, as the header has"
                wrong = [(said, "Separate them by tabs, and leave those that are not known empty")]
            else:
                record: dict[str, Any] = {k: v or None for k, v in zip(columns, fields, strict=True)}
                label, similarity = record.get("label"), record.get("similarity")
                record["label"] = _LABELS.get(label, label)
                if similarity and _NUMBER.fullmatch(similarity):
                    record["similarity"] = float(similarity)
                wrong = [*self._reference(record, task.label, found, row)]
            if not self._told(task.path, line, wrong, found):
                yield line, (row[0], row[1], row[2], row[3])

    def _told(self, path: Path, line: int, wrong: list[tuple[str, str]], found: Found) -> bool:
        """Whether there are problems in a line; they are kept."""
        for problem in wrong:
            if any(kind in problem[0] for kind in _ONCE):
                first, count = found.once.get(problem, (line, 0))
                found.once[problem] = first, count + 1
            else:
                found.problems.add(path, line, *problem)
        return bool(wrong)

    # The fast way: raises what it raises where there is any doubt.

    def _fast_pair(self, raw: bytes, label: int | None, found: Found) -> Row:
        if (guessed := self._guessed(raw)) is None:
            sides = _PAIR.decode(raw)
            one, two = memoryview(sides.ast1), memoryview(sides.ast2)
            guessed = _without(raw, one, two), self._fast_side(one), self._fast_side(two)
        rest, first, second = guessed
        if (row := self._rests.get(rest)) is None:
            record = quick(rest)
            if type(record) is not dict or (record.get("ast1"), record.get("ast2")) != ([10], [11]):
                raise Unreadable("")
            given = list[Any]()
            if [*_labels(record, label, given)]:
                raise Unreadable("")
            if len(self._rests) > _KNOWN:
                self._rests.clear()
            self._rests[rest] = row = (0, 0, given[0], given[1])
        return first, second, row[2], row[3]

    def _guessed(self, raw: bytes) -> tuple[bytes, int, int] | None:
        """What `_without` leaves, and both trees, if two that are known begin where objects do."""
        first = raw.find(b"{", 1)
        first_end = first + self._lengths.get(hash(raw[first : first + _BEGINNING]), 0)
        one = self._sides.get(_digest(raw[first:first_end]))
        second = raw.find(b"{", first_end)
        second_end = second + self._lengths.get(hash(raw[second : second + _BEGINNING]), 0)
        if one is None or (two := self._sides.get(_digest(raw[second:second_end]))) is None:
            return None
        kept = raw[:first], b"[10]", raw[first_end:second], b"[11]", raw[second_end:]
        return b"".join(kept), one, two

    def _fast_side(self, raw: memoryview) -> int:
        digest = _digest(raw)
        if (number := self._sides.get(digest)) is None:
            if len(self._sides) > 2 * len(self._trees) + _KNOWN:
                self._sides.clear()
                self._lengths.clear()
            self._sides[digest] = number = self._fast_sentence(bytes(raw))[0]
        self._lengths[hash(bytes(raw[:_BEGINNING]))] = len(raw)
        return number

    def _fast_sentence(self, raw: bytes) -> tuple[int, dict[str, Any]]:
        """The number of a tree with its sentence, and what else stands beside it.

        Where trees often come again beside other values, the AST is looked up alone.
        """
        self._parsed += 1
        if self._parsed < 2 * len(self._trees) + 1000:
            record = quick(raw)
            tree = self._builder.tree_of(record["ast"])
        else:
            ast = bytes(_TREE.decode(raw).ast)
            record = quick(_without(raw, ast))
            if record["ast"] != [10]:
                raise Unreadable("")
            digest = _digest(ast)
            if (known := self._asts.get(digest)) is None:
                self._asts[digest] = known = self._builder.tree_of(quick(ast))
                if len(self._asts) > 2 * len(self._trees) + _KNOWN:
                    self._asts.clear()
            tree = known
        sentence = record.get("sentence")
        if not isinstance(sentence, str | None):
            raise Unreadable("")
        return self._trees.setdefault((tree, sentence), len(self._trees)), record

    def _fast_tree(self, raw: bytes, label: int | None, found: Found) -> Row:
        number, record = self._fast_sentence(raw)
        found.ids.append(_id_text(record.get("id")))
        return number, number, None, None

    # The slow way: yields each problem, and its remedy; adds what the row has.

    def _pair(self, record: dict[str, Any], label: int | None, found: Found, row: list[Any]) -> Wrong:
        for side in ("ast1", "ast2"):
            if (part := record.get(side)) is None:
                if "first" in record and "second" in record:
                    yield _NAMES, "Add the trees, or write each pair with ast1 and ast2"
                    break
                yield f"{side} is missing", REPAIR
            elif not isinstance(part, dict):
                yield f"{side} is not a JSON object", REPAIR
            else:
                wrong = [*self._tree(part, f"{side}.", row)]
                yield from wrong
                if any(_LOOKS in said for said, _ in wrong):
                    break  # the other side is like it
        yield from _labels(record, label, row)

    def _tree(self, part: dict[str, Any], where: str, row: list[Any]) -> Wrong:
        self._parsed += 1
        if "ast" not in part:
            yield f"{where}ast is missing", _PARSE_AGAIN
            return
        sentence = part.get("sentence")
        if not isinstance(sentence, str | None):
            yield f"{where}sentence is not a string", "Correct or remove it"
            sentence = None
        if isinstance(root := part["ast"], str | list):
            what, remedy = looks_like(root)
            yield f"{where}ast is {kind(root)}, {_LOOKS} {what}", remedy
            return
        try:
            tree = self._builder.tree_of(root, f"{where}ast")
            row.append(self._trees.setdefault((tree, sentence), len(self._trees)))
        except TreeError as error:
            yield str(error), _PARSE_AGAIN

    def _tree_line(
        self, record: dict[str, Any], label: int | None, found: Found, row: list[Any]
    ) -> Wrong:
        wrong = [*self._tree(record, "", row)]
        try:
            text = _id_text(record.get("id"))
        except Unreadable as error:
            wrong.append((f"id {error}", error.remedy))
        if not wrong:
            found.ids.append(text)
            row += row[0], None, None
        yield from wrong

    def _reference(
        self, record: dict[str, Any], label: int | None, found: Found, row: list[Any]
    ) -> Wrong:
        if "ast1" in record or "ast2" in record:
            yield _BOTH, "Keep pairs with their trees and pairs that name them in different directories"
            return
        for side in ("first", "second"):
            try:
                row.append(self._ids[_id_text(record.get(side))])
            except Unreadable as error:
                yield f"{side} {error}", error.remedy
            except KeyError:
                said = f"{side} is {brief(record[side])}, but no tree has that id"
                yield said, "Correct the id, or add the tree"
        yield from _labels(record, label, row)


def _digest(raw: bytes | memoryview) -> bytes:
    return hashlib.sha256(raw).digest()[:16]


def _without(raw: bytes, *parts: bytes | memoryview) -> bytes:
    """A line with [10], [11] ... in the place of objects, which occur in this order; or raises.

    If that is strict JSON with these lists where the objects are to be, and each object is strict JSON,
    then so is the line.
    """
    kept, at = list[bytes](), 0
    for mark, part in zip((b"[10]", b"[11]"), parts, strict=False):
        begin = raw.find(part[:64], at)
        if begin < 0 or part[0] != _BRACE or not raw.startswith(part, begin):
            raise Unreadable("")
        kept += raw[at:begin], mark
        at = begin + len(part)
    kept.append(raw[at:])
    return b"".join(kept)


def quick(raw: bytes) -> Any:
    """What `parse` makes of these bytes, or what it raises, mostly in a fifth of its time.

    The faster parser differs in keys that occur twice, of which it takes the last: then there are fewer
    colons in what it read, unless \\u003a adds one. Numbers of 19 digits and more are left to `parse`.
    """
    no_colon = b"\\" not in raw or b"\\u003" not in raw  # the first is found out ten times faster
    if no_colon and b"0" * 19 not in raw.translate(_DIGITS):
        try:
            found = _ANY.decode(raw)
            if msgspec.json.encode(found).count(b":") == raw.count(b":"):
                return found
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # `parse` says what is wrong, or reads what is too deep
    return parse(raw)


def _id_text(found: Any) -> str:
    """The text of an id; raises Unreadable."""
    if found is None or found == "":
        raise Unreadable("is missing", "Give each tree an id, and name trees by their ids")
    if type(found) not in (str, int):
        raise Unreadable(f"is {brief(found)}, expected a text or a whole number", "Correct it")
    return str(found)


def _labels(record: dict[str, Any], label: int | None, row: list[Any]) -> Wrong:
    """Problems of a label and a similarity, which become part of the row."""
    found, similarity = record.get("label"), record.get("similarity")
    row += found, similarity
    allowed = (label,) if label is not None else (0, 1, None)
    if label is None and found is None and similarity is None:
        yield "label and similarity are missing", "Add one of them, or both"
    elif isinstance(found, bool) or found not in allowed:
        said = f"label is {brief(found)}" if "label" in record else "label is missing"
        expected = f"the file's name says {label}" if label is not None else "1 or 0 was expected"
        yield f"{said}, but {expected}", "Correct the label" + " or move the line" * (label is not None)
    if isinstance(similarity, int | float) and abs(similarity) > sys.float_info.max:
        yield "similarity is too large a number", "Correct or remove it"
    elif isinstance(similarity, bool) or not isinstance(similarity, int | float | None):
        yield "similarity is not a number", "Correct or remove it"


def work() -> None:
    """The loop of a process of its own: takes tasks from its standard input, answers on its output.

    It ends as soon as the process that started it has ended, however that came.
    """
    tasks, answers = SimpleQueue[Any](), sys.stdout.buffer
    sys.stdout = sys.stderr

    def receive() -> None:
        with contextlib.suppress(Exception):  # the pipe is closed, perhaps in the middle of a message
            while True:
                tasks.put(pickle.load(sys.stdin.buffer))
        os._exit(1)

    def answer(*message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens: `receive` ends this process
            pickle.dump(message, answers, protocol=5)
            answers.flush()

    threading.Thread(target=receive, daemon=True).start()
    try:
        reader = RangeReader(*tasks.get())
        while task := tasks.get():
            answer("found", reader.read(task, lambda position: answer("at", position)))
        answer("trees", reader.trees())
    except (OSError, MemoryError) as error:
        answer("failed", error)
    except Exception:
        traceback.print_exc()
        os._exit(1)  # Python would wait for the other thread
    tasks.get()  # until the pipe is closed
