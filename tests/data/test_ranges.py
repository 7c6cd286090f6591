"""The fast way to read a line gives what the strict way gives: the same trees, or the same errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from treelstm.data.problems import DataError
from treelstm.data.ranges import RangeReader, Task, quick
from treelstm.data.reading import Unreadable, parse

SPACES = st.sampled_from(["", "", " ", "\t", "  ", "\r"])
_COMMON = r"a b b a:b \" \": \u003a \u003A \u0061 \\u003a é { } \\ ] , {\"a\":1} \ud83d\ude00 \ud83d"
TEXTS = st.sampled_from([*_COMMON.split(), r"\udE00\ud83d", r"\x", "\x7f", "\x01", "\t"])
NUMBERS = st.sampled_from(
    "0 -0 1 -1 1.0 -0.0 1e2 1E+2 1e-400 1e999 01 1. .5 - +1 NaN Infinity -Infinity 4.35 1e23 0x1 5e-324"
    " 123456789012345.678901234567890 2.2250738585072011e-308".split()
) | st.sampled_from(["9" * 18, "9" * 19, "-" + "9" * 25, "1" * 4301, "0." + "3" * 40])
NUMBERS |= st.floats(allow_nan=False, allow_infinity=False).map(repr)


@st.composite
def spelled(draw: st.DrawFn, depth: int = 0) -> str:
    """JSON, or nearly: with any spaces, escapes and numbers, and keys that occur twice."""
    kind = draw(st.integers(0, 9 if depth < 4 else 5))
    space = draw(SPACES)
    if kind < 3:
        text = '"' + "".join(draw(st.lists(TEXTS, max_size=3))) + '"'
    elif kind < 5:
        text = draw(NUMBERS)
    elif kind == 5:
        text = draw(st.sampled_from(["null", "true", "false", "nul", "{}", "[]", "", "[,]", "{,}"]))
    else:
        items = [draw(spelled(depth + 1)) for _ in range(draw(st.integers(0, 3)))]
        if kind > 7:
            keys = ['"' + "".join(draw(st.lists(TEXTS, max_size=2))) + '"' for _ in items]
            items = [f"{key}{space}:{item}" for key, item in zip(keys, items, strict=True)]
        brackets = "{}" if kind > 7 else "[]"
        text = brackets[0] + draw(SPACES) + ",".join(items) + brackets[1]
    return space + text + draw(SPACES)


def outcome(function: Any, *arguments: Any) -> str:
    """What it gives, with types, or what it raises."""
    try:
        return repr(function(*arguments))
    except (Unreadable, DataError) as error:
        return f"{type(error).__name__} {error}"


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spelled())
@example('{"a": 1, "a": ":"}')
@example('{"a": 1, "a": "\\u003a"}')
@example('{"a": {"b": 1}, "a": {"b": 2, "c": 3}}')
@example('{"k": 18446744073709551616}')
def test_quick_is_parse(text):
    raw = text.encode("utf-8", "surrogatepass")
    assert outcome(quick, raw) == outcome(parse, raw)


@given(st.binary(max_size=6), spelled())
def test_quick_is_parse_for_bytes_that_are_no_text(odd, text):
    raw = text.encode("utf-8", "surrogatepass").replace(b"a", odd)
    assert outcome(quick, raw) == outcome(parse, raw)


def read(path: Path, lines: list[bytes], kind: str = "pairs") -> Any:
    """What a file holds: trees by their names, all else as it is; or its problems."""
    path.write_bytes(b"\n".join(lines))
    reader = RangeReader(("ignored",), child_order=True)
    task = Task(path, kind, None, 0, path.stat().st_size, path.with_suffix(".rows"))
    found = reader.read(task)
    if found.problems.count or found.once:
        # Where JSON breaks in a line depends on what stands before.
        return re.sub(r"(column|byte) \d+|char \d+", "", f"{found.problems} {[*found.once]}")
    part, roots, sentences = reader.trees()
    rows = np.fromfile(task.rows, [("first", "u4"), ("second", "u4"), ("rest", "V17")])
    names = [(part.digest[part.root[root]], text) for root, text in zip(roots, sentences, strict=True)]
    trees = [[names[number] for number in rows[side].tolist()] for side in ("first", "second")]
    return trees, rows["rest"].tolist(), found.ids


SIDES = st.tuples(
    st.lists(st.sampled_from(['"sentence": "s"', r'"sentence": "\u0073"', '"x": [0]']), max_size=2),
    spelled() | spelled(2).map(lambda text: '{"k":' + text + "}"),
    st.lists(st.sampled_from(['"y": 1', '"sentence": 3', '"ast": {"k": 1}', '"x": NaN']), max_size=1),
)
REST = [
    *('"label": 1', '"label": 0', '"label": true', '"similarity": 0.5', '"similarity": 1e400'),
    *('"similarity": "high"', '"ast1": [10]', '"x": {"ast": 1}', r'"x": "\ud83d"', '"x": {"k":"a"}'),
]
RECORDS = st.tuples(SIDES, SIDES, st.lists(st.sampled_from(REST), max_size=3))


def record_of(first: Any, second: Any, rest: list[str], twice: bool) -> bytes:
    """A record; `twice`: with its first tree under one more key, where the fast way stops."""
    sides = first, second
    texts = ["{" + ", ".join([*before, f'"ast":{ast}', *after]) + "}" for before, ast, after in sides]
    keys = [f'"ast{number}": {text}' for number, text in enumerate(texts, 1)]
    items = [*rest[:1], *([f'"0": {texts[0]}'] if twice else []), *keys, *rest[1:]]
    return ("{" + ", ".join(items) + "}").encode("utf-8", "surrogatepass")


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_lines_read_fast_are_lines_read_slowly(tmp_path, records):
    """The fast way begins when trees have come again some times."""
    fast, slow = (
        read(tmp_path / "pairs.jsonl", [record_of(*each, twice) for each in [*records] * 15])
        for twice in (False, True)
    )
    assert fast == slow


@pytest.mark.parametrize("line", ['{"id": 1, "ast": %s}', '{"ast": %s, "id": "1"}', '{"ast":%s,"id":1}'])
@pytest.mark.parametrize(
    "ast", ['{"k": "v"}', '{"k": "v", "k": "w"}', '{"k": 1e999}', r'{"k": "\ud83d"}', "{}"]
)
def test_lines_of_trees_are_read_as_strictly(tmp_path, line, ast):
    found = read(tmp_path / "trees.jsonl", [(line % ast).encode()], "trees")
    try:
        assert parse(ast.encode()) and found[2] == ["1"]
    except (Unreadable, AssertionError) as error:
        assert str(error) in found or "is an empty tree" in found


def test_a_tree_that_was_seen_is_known_whatever_stands_beside_it(tmp_path):
    ast = json.dumps({"k": ["x", {"k": "y"}]})
    lines = [
        f'{{"ast1": {{"ast": {ast}, "n": {n}}}, "ast2": {{"n": 0, "ast": {ast}}}, "label": 1}}'.encode()
        for n in range(1500)
    ]
    (first, second), *_ = read(tmp_path / "pairs.jsonl", lines)
    assert len({*first, *second}) == 1
