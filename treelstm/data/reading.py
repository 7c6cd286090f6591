"""The lines of a pair file, parsed strictly, of bounded size."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import json
import math
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from treelstm.data.problems import Problems
from treelstm.errors import UserError
from treelstm.files import open_file
from treelstm.plain import shown

LINE_BYTES = 64 * 2**20  # the longest line that is read; it bounds the memory that a file can ask for
_CHUNK = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]|(u[dD][89a-fA-F]..)|.)")  # 1: half of one
REPAIR = "Repair or remove the line"


class Unreadable(UserError, ValueError):
    """Bytes that are not JSON as this package reads it: what was found, and what to do."""

    def __init__(self, found: str, remedy: str = REPAIR) -> None:
        super().__init__(found)
        self.remedy = remedy


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes; raises OSError if it is not a file that can be read."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_jsonl(
    path: Path, problems: Problems, wanted: Container[int] | None = None
) -> Iterator[tuple[int, Any]]:
    """The JSON objects of a file with their line numbers; any other line becomes a problem.

    Lines that are not `wanted` are not parsed.
    """
    for line, raw in read_lines(path, problems):
        try:
            if raw and not raw.isspace() and (wanted is None or line in wanted):
                record = parse(raw)
                if not isinstance(record, dict):
                    raise Unreadable("not a JSON object, expected one with ast1, ast2 and label")
                yield line, record
        except Unreadable as error:
            problems.add(path, line, str(error), error.remedy)


def read_lines(
    path: Path,
    problems: Problems,
    begin: int = 0,
    end: int | None = None,
    before: int = 0,
    told: Callable[[int], None] = lambda position: None,
) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, which may be gzipped, with their numbers.

    Of a plain file, only those from byte `begin`, where the line after line `before` begins, to byte
    `end`. `told` hears now and then up to which byte the file was read. A file that cannot be read to
    its end, or whose next line is too long, becomes a problem.
    """
    line = before
    try:
        with open_file(path) as source, io.BufferedReader(source, _CHUNK) as raw_file:
            raw_file.seek(begin)
            for line, raw in enumerate(_lines(path, raw_file, begin, end), before + 1):
                yield line, raw
                if not line % 1000:
                    told(raw_file.tell())
    except Unreadable as error:
        problems.add(path, line + 1, str(error), error.remedy)
    except (EOFError, OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        found = f"cannot be read after line {line} ({reason})"
        problems.add(path, line + 1, found, "Make it readable, or copy it again if it is damaged")


def read_text(path: Path, problems: Problems, *part: Any) -> Iterator[tuple[int, str]]:
    """Number and text of each line, without its end; what is no text becomes a problem.

    `part`: as in `read_lines`.
    """
    for line, raw in read_lines(path, problems, *part):
        text = raw.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")
        if odd := re.search("[\0\r\udc80-\udcff]", text):
            byte = odd[0].encode(errors="surrogateescape").hex()
            found = f"not UTF-8 text (character {odd.start() + 1} of the line is 0x{byte})"
            problems.add(path, line, found, "Save the file as UTF-8 text")
            text = shown(text)
        yield line, text


def _lines(path: Path, raw_file: BinaryIO, begin: int, end: int | None) -> Iterator[bytes]:
    """Raises Unreadable where a line is too long, or if the file is not UTF-8 but UTF-16 or UTF-32."""
    file = gzip.GzipFile(fileobj=raw_file) if path.suffix == ".gz" else raw_file
    at = begin
    while (end is None or at < end) and (raw := file.readline(LINE_BYTES + 1)):
        if len(raw) > LINE_BYTES:
            found = f"longer than {LINE_BYTES:,} bytes, which no pair of trees should be"
            raise Unreadable(found, "Write one pair on each line, with smaller trees")
        encoding = encoding_of(raw) if not at else "utf-8"
        if encoding.startswith(("utf-16", "utf-32")):
            raise Unreadable(f"saved as {encoding[:6].upper()}, expected UTF-8", "Save it as UTF-8")
        at += len(raw)
        yield raw.removeprefix(codecs.BOM_UTF8)  # also inside: files with a mark, joined by `cat`


def encoding_of(start: bytes) -> str:
    """The encoding of JSON that begins so."""
    return json.detect_encoding(start) if start[:4].strip(b"\0") else "utf-8"


def parse(raw: bytes) -> Any:
    """What JSON says, with keys that occur once, finite numbers, and text that can be written.

    Raises:
        Unreadable: it is anything else.
    """
    try:
        text = raw.decode()
        try:
            content = _DECODER.decode(text)
        except RecursionError:  # at a depth that depends on the version of Python and on the caller
            content = _decoded(text)
    except Unreadable:
        raise
    except UnicodeDecodeError as error:
        found = f"not UTF-8 (byte {error.start + 1} of the line is 0x{raw[error.start]:02x})"
        raise Unreadable(found, "Save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON ({error})") from None
    except ValueError:  # Python's limit for integers
        found = f"holds a number of more than {sys.get_int_max_str_digits():,} digits"
        raise Unreadable(found, "Write it as a text or remove the line") from None
    if b"\\ud" in raw or b"\\uD" in raw:
        for escape in _ESCAPE.finditer(text):
            if half := escape[1]:
                found = f"holds \\{half.lower()}, half of a character (a lone surrogate)"
                raise Unreadable(found, "Cut texts between characters, or remove the line")
    return content


def _decoded(text: str) -> Any:
    """What `_DECODER` makes of a text, to any depth: what is open is held in lists, not on the stack."""
    held, closings = [list[Any]()], list[str]()  # keys and values of what is open, and how it ends
    at = _next(text, 0)
    while True:
        if closings and closings[-1] == "}":
            _next(text, at, '"')
            key, at = _DECODER.raw_decode(text, at)
            held[-1].append(key)
            at = _next(text, _next(text, at), ":")
        if text.startswith(("{", "["), at):
            held.append([])
            closings.append("}" if text[at] == "{" else "]")
            at = _next(text, at + 1)
            if not text.startswith(closings[-1], at):
                continue
        else:
            value, at = _DECODER.raw_decode(text, at)
            held[-1].append(value)
            at = _next(text, at)
        while closings and text.startswith(closings[-1], at):
            items, at = held.pop(), _next(text, at + 1)
            is_list = closings.pop() == "]"
            held[-1].append(items if is_list else _object([*zip(items[::2], items[1::2], strict=True)]))
        if not closings:
            if at < len(text):
                raise json.JSONDecodeError("Extra data", text, at)
            return held[0][0]
        at = _next(text, at, ",")


def _next(text: str, at: int, mark: str = "") -> int:
    """The place behind `mark`, which must be at `at`, and behind spaces after it."""
    if not text.startswith(mark, at):
        raise json.JSONDecodeError(f"Expecting {mark!r} delimiter", text, at)
    return _SPACE.match(text, at + len(mark)).end()  # type: ignore[union-attr]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        said = f"the key {json.dumps(twice)[:80]} occurs twice in one object"
        raise Unreadable(said, "Give each value a key of its own, or make a list of them")
    return found


def _constant(text: str) -> NoReturn:
    raise Unreadable(f"holds {text}, which is not JSON", "Write null, or leave the key out")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Unreadable(f"holds the number {text[:40]}, which is too large", "Correct the number")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)
