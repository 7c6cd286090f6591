"""Pair files to arrays, in one process or in several, in memory that does not grow with the pairs.

Files are cut into ranges of lines. Who reads some of them holds their distinct trees, and writes the
pairs to files. In the end parts of the forest merge by the digests of subtrees, trees are numbered in
the order in which pairs name them, and the columns of pairs are written piece by piece. So the arrays
depend neither on the ranges nor on who read them.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from tqdm import tqdm

from treelstm.config import EncoderSettings
from treelstm.data.files import holds_trees, label_of_file
from treelstm.data.problems import DataError, Problems, unreachable
from treelstm.data.ranges import ROW, Found, Once, RangeReader, Task, Trees
from treelstm.data.reading import LINE_BYTES, encoding_of
from treelstm.errors import UserError
from treelstm.files import open_file
from treelstm.process import usable_cores
from treelstm.trees.arrays import Array, npy_header, pointers_of
from treelstm.trees.parts import arrays_of_forest, merged

log = logging.getLogger("treelstm")

_WORTH_A_PROCESS = 48_000_000  # bytes: to start one takes as long as to compile a third of them
_UNPACKED = 8  # bytes of text in each of a gzipped file, about
_RANGE = 64_000_000  # the most bytes
_ROWS = 2**15  # rows of pairs held at once
_SECONDS_BETWEEN_LINES = 30.0
_WORKER = "import sys\nsys.path[:] = {}\nfrom treelstm.data.ranges import work\nwork()"

Piece = tuple[Path, dict[str, Array]]  # columns of some pairs of a file


class CompilingFailed(UserError, RuntimeError):
    """A process that compiles has been killed."""


def compile_pairs(
    paths: Sequence[Path], settings: EncoderSettings, into: Path, workers: int | None = None
) -> None:
    """Writes the arrays of `Forest` and `Pairs` into the empty directory `into`, as .npy files.

    Each has the narrowest unsigned type that holds it; labels are int8, similarities float64 (none at
    all if no pair has one). Texts are bytes and pointers: symbols, symbols_ptr, sentences, sentences_ptr
    and has_sentence. Trees differ in their roots or in their sentences. `workers`: processes; None: as
    many as are of use.

    Raises:
        DataError: the files cannot be used; the message lists the problems.
        CompilingFailed: one of the processes was killed.
    """
    trees = tuple(path for path in paths if holds_trees(path))
    options: tuple[Any, ...] = settings.ignored_keys, settings.child_order
    with tempfile.TemporaryDirectory(dir=into, prefix="rows-") as name:
        place, kind = Path(name), "references" if trees else "pairs"
        if trees:
            tasks, found, readers = _read(trees, "trees", options, place, workers)
            numbering = _Numbering(readers)
            options = (*options, _ids(tasks, found, numbering))
        pairs = [path for path in paths if not holds_trees(path)]
        tasks, found, readers = _read(pairs, kind, options, place, workers)
        if not trees:
            numbering = _Numbering(readers)
        number = (lambda reader, names: names) if trees else numbering
        _write_pairs(into, paths, _rows(tasks, found, number), found, numbering.trees)
        fields = numbering.fields(settings.child_order)
    for name, value in fields.items():
        if isinstance(value, tuple):
            texts = [(text or "").encode("utf-8", "surrogatepass") for text in value]
            _save(into, f"{name}_ptr", pointers_of(np.array([len(text) for text in texts], np.int64)))
            value = np.frombuffer(b"".join(texts), np.uint8)
        _save(into, name, value)


def _save(into: Path, name: str, array: Array) -> None:
    kind = _narrow(int(array.max(initial=0))) if array.dtype == np.int64 else array.dtype
    np.save(into / f"{name}.npy", array.astype(kind, copy=False), allow_pickle=False)


def _narrow(largest: int) -> np.dtype[Any]:
    return np.dtype(np.min_scalar_type(largest))


class _Numbering:
    """Numbers the distinct trees of all readers in the order in which they are asked for."""

    def __init__(self, readers: Sequence[Trees]) -> None:
        self._part = merged([part for part, _, _ in readers])
        begins = np.cumsum([0, *(len(part.root) for part, _, _ in readers)])
        roots = np.concatenate([begins[k] + own for k, (_, own, _) in enumerate(readers)])
        every = [text for *_, own in readers for text in own]
        texts = {text: number for number, text in enumerate(dict.fromkeys(every))}
        sentences = np.fromiter(map(texts.__getitem__, every), np.int64, len(every))
        both = self._part.root[roots] * len(texts) + sentences
        _, first, same = np.unique(both, return_index=True, return_inverse=True)
        self._same = np.split(same, np.cumsum([len(own) for *_, own in readers])[:-1])
        self._root, self._sentence = roots[first], sentences[first]
        self._texts, self._number, self._count = [*texts], np.full(len(first), -1), 0

    @property
    def trees(self) -> int:
        return len(self._number)

    def __call__(self, reader: int, names: Array) -> Array:
        """The numbers of trees that a reader calls so."""
        trees = self._same[reader][names]
        new = trees[self._number[trees] < 0]
        if len(new):
            new = new[np.sort(np.unique(new, return_index=True)[1])]
            self._number[new] = np.arange(self._count, self._count + len(new))
            self._count += len(new)
        return self._number[trees]

    def fields(self, child_order: bool) -> dict[str, Any]:
        """The fields of a forest, and the sentences, when all trees have been asked for."""
        assert self._count == len(self._number)
        order = np.argsort(self._number)
        sentences = [self._texts[each] for each in self._sentence[order].tolist()]
        there = np.array([text is not None for text in sentences])
        forest = arrays_of_forest(self._part, self._root[order], child_order)
        return {**forest, "sentences": tuple(sentences), "has_sentence": there}


def _rows(
    tasks: Sequence[Task], found: Sequence[Found], number: Callable[[int, Array], Array]
) -> Iterator[Piece]:
    """The columns of all pairs, piece by piece."""
    for path, ranges in groupby(zip(tasks, found, strict=True), lambda each: each[0].path):
        before = 0  # lines
        for task, held in ranges:
            with task.rows.open("rb") as file:
                while len(rows := np.fromfile(file, ROW, _ROWS)):
                    names = np.stack((rows["first"], rows["second"]), 1).ravel()
                    first, second = number(held.reader, names).reshape(-1, 2).T
                    piece = {name: rows[name] for name in ("label", "similarity")}
                    piece |= {"first": first, "second": second, "line": rows["line"] + np.uint64(before)}
                    yield path, piece
            before += held.lines


def _write_pairs(
    into: Path, paths: Sequence[Path], pieces: Iterator[Piece], found: Sequence[Found], trees: int
) -> None:
    """Writes the columns without ever holding them."""
    pairs, lines = sum(each.rows for each in found), sum(each.lines for each in found)
    kinds: dict[str, np.dtype[Any]] = {"label": np.dtype("i1"), "similarity": np.dtype("f8")}
    kinds |= {"line": _narrow(lines), "file": _narrow(len(paths) - 1)}
    kinds |= dict.fromkeys(("first", "second"), _narrow(trees - 1))
    lengths = dict.fromkeys(kinds, pairs) | {"similarity": pairs * any(each.graded for each in found)}
    with ExitStack() as stack:
        files = {name: stack.enter_context((into / f"{name}.npy").open("wb")) for name in kinds}
        for name, file in files.items():
            file.write(npy_header(kinds[name], lengths[name]))
        for path, piece in pieces:
            piece["file"] = np.full(len(piece["label"]), paths.index(path))
            for name, file in files.items():
                if lengths[name]:
                    file.write(piece[name].astype(kinds[name]).tobytes())


def _ids(tasks: Sequence[Task], found: Sequence[Found], numbering: _Numbering) -> dict[str, int]:
    """The number of the tree of each id; raises DataError where two trees have one."""

    def named() -> Iterator[tuple[str, Path, int, int]]:
        texts = (text for each in found for text in each.ids)
        for path, piece in _rows(tasks, found, numbering):
            for line, number in zip(piece["line"].tolist(), piece["first"].tolist(), strict=True):
                yield next(texts), path, line, number

    problems, numbers, first = Problems(), dict[str, int](), dict[str, str]()
    for text, _, _, number in named():
        if text in numbers:
            first[text] = ""
        numbers[text] = number
    for text, path, line, _ in named() if first else ():
        if first.get(text):
            said = f"the id {text} is that of {first[text]}, too"
            problems.add(path, line, said, "Give each tree an id of its own")
        elif text in first:
            first[text] = f"{path}:{line}"
    if first:
        raise DataError(problems)
    return numbers


def _read(
    paths: Sequence[Path], kind: str, options: tuple[Any, ...], place: Path, workers: int | None
) -> tuple[list[Task], list[Found], list[Trees]]:
    """Reads all files; what their ranges hold, and the trees of each reader.

    Raises:
        DataError: there are problems.
    """
    sizes = {path: _size(path) for path in paths}
    worth = sum(size * (_UNPACKED if path.suffix == ".gz" else 1) for path, size in sizes.items())
    count = workers or max(1, min(usable_cores(), worth // _WORTH_A_PROCESS))
    step = max(1, min(_RANGE, sum(sizes.values()) // (16 * count)))
    tasks = [
        Task(path, kind, label_of_file(path), *cut, place / f"{kind}-{number}-{place_in_file}")
        for number, path in enumerate(paths)
        for place_in_file, cut in enumerate(_cuts(path, step) if count > 1 else [(0, sizes[path])])
    ]
    with _progress(sum(sizes.values())) as told:
        if count == 1:
            reader, done = RangeReader(*options), 0
            found = list[Found]()
            for task in tasks:
                found.append(reader.read(task, lambda at: told(done + at)))  # noqa: B023
                done += task.end - task.begin
            _require_no_problems(tasks, found)
            return tasks, found, [reader.trees()]
        with _Workers(min(count, len(tasks)), options) as started:
            found = started.read(tasks, told)
            _require_no_problems(tasks, found)
            return tasks, found, started.trees()


def _size(path: Path) -> int:
    try:
        with open_file(path) as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise unreachable(path, error) from error


def _cuts(path: Path, step: int) -> list[tuple[int, int]]:
    """Where ranges begin and end, at ends of lines. A file that is gzipped or not UTF-8 is one range."""
    with open_file(path) as raw, io.BufferedReader(raw) as file:
        size, cuts = os.fstat(raw.fileno()).st_size, [0]
        if path.suffix != ".gz" and not encoding_of(file.read(4)).startswith(("utf-16", "utf-32")):
            for at in range(step, size, step):
                if at > cuts[-1]:
                    file.seek(at)
                    if file.readline(LINE_BYTES).endswith(b"\n") and file.tell() < size:
                        cuts.append(file.tell())
    return [*zip(cuts, [*cuts[1:], size], strict=True)]


def _require_no_problems(tasks: Sequence[Task], found: Sequence[Found]) -> None:
    problems = Problems()
    for path, group in groupby(zip(tasks, found, strict=True), lambda each: each[0].path):
        ranges, once, before = [*group], Once(), problems.count
        for _, held in ranges:
            problems.extend(held.problems)
            for problem, (line, count) in held.once.items():
                first, earlier = once.get(problem, (line, 0))
                once[problem] = first, earlier + count
        for (said, remedy), (line, count) in once.items():
            problems.add(path, line, f"{said} ({count:,} line(s) of this file)", remedy)
        if before == problems.count and not any(held.rows for _, held in ranges):
            what = "trees" if ranges[0][0].kind == "trees" else "pairs"
            problems.add(path, 0, f"holds no {what}", f"Add {what}, or remove the file")
    if problems.count:
        raise DataError(problems)


class _Workers:
    """Processes that read ranges, started anew, since a copy of one with threads may hang.

    They end when this process does, however it ends, and Ctrl-C in a terminal reaches this one alone.
    """

    def __init__(self, count: int, options: tuple[Any, ...]) -> None:
        self._options, self._count = options, count
        self._answers = SimpleQueue[tuple[int, Any]]()
        self._processes, self._threads = list[subprocess.Popen[bytes]](), list[threading.Thread]()

    def __enter__(self) -> _Workers:
        words, pipe = [sys.executable, "-c", _WORKER.format(sys.path)], subprocess.PIPE
        try:
            for number in range(self._count):
                process = subprocess.Popen(words, stdin=pipe, stdout=pipe, start_new_session=True)
                self._processes.append(process)
                listener = threading.Thread(target=self._listen, args=(number, process.stdout))
                listener.start()
                self._threads.append(listener)
            for number in range(self._count):
                self._tell(number, self._options)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            with suppress(BrokenPipeError):  # of what was not yet sent
                process.__exit__(None, None, None)

    def read(self, tasks: Sequence[Task], told: Callable[[int], None]) -> list[Found]:
        """The largest ranges are read first, so that all processes end at about the same time."""
        waiting = sorted(range(len(tasks)), key=lambda task: tasks[task].begin - tasks[task].end)
        waiting.reverse()
        reading = {number: waiting.pop() for number in range(self._count)}
        found, at, done = dict[int, Found](), dict[int, int](), 0
        for number, task in reading.items():
            self._tell(number, tasks[task])
        while len(found) < len(tasks):
            number, kind, value = self._answer()
            task = reading[number]
            if kind == "at":
                at[number] = value - tasks[task].begin
            else:
                at.pop(number, None)
                done += tasks[task].end - tasks[task].begin
                value.reader = number
                found[task] = value
                if waiting:
                    reading[number] = waiting.pop()
                    self._tell(number, tasks[reading[number]])
            told(done + sum(at.values()))
        return [found[task] for task in range(len(tasks))]

    def trees(self) -> list[Trees]:
        for number in range(self._count):
            self._tell(number, None)
        answers = [self._answer() for _ in range(self._count)]
        return [value for _, _, value in sorted(answers, key=lambda answer: answer[0])]

    def _tell(self, number: int, message: Any) -> None:
        with suppress(BrokenPipeError):  # `_answer` says that it has ended
            stream: Any = self._processes[number].stdin
            pickle.dump(message, stream, protocol=5)
            stream.flush()

    def _listen(self, number: int, stream: Any) -> None:
        with suppress(EOFError, pickle.UnpicklingError):  # it has ended, perhaps within a message
            while True:
                self._answers.put((number, pickle.load(stream)))
        self._answers.put((number, None))

    def _answer(self) -> tuple[int, str, Any]:
        """The next answer of any: its number, kind and content."""
        number, answer = self._answers.get()
        if answer is None:
            status = self._processes[number].wait()
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            remedy = "Make sure that there is memory left, then run the same command again"
            raise CompilingFailed(f"A process that compiles pairs has ended ({how}). {remedy}.")
        kind, value = answer
        if kind == "failed":
            raise value
        return number, kind, value


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Hears how many bytes were read; shows a bar after two seconds, or a line twice a minute."""
    began = last = time.monotonic()
    settings = {"unit": "B", "unit_scale": True, "delay": 2.0, "disable": None, "leave": False}
    with tqdm(total=total, desc="compiling", **settings) as bar:

        def told(done: int) -> None:
            nonlocal last
            bar.update(done - bar.n)
            now = time.monotonic()
            if bar.disable and now - last > _SECONDS_BETWEEN_LINES:
                last = now
                left = tqdm.format_interval((now - began) * (total - done) / max(done, 1))
                log.info("compiling: %.2f of %.2f GB, %s left", done / 1e9, total / 1e9, left)

        yield told
