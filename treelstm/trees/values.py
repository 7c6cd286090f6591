"""What an AST may hold: what JSON has a word for, and what else of Python is a mapping or a sequence."""

from __future__ import annotations

import json
import math
import sys
from collections import UserString
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np

from treelstm.errors import UserError

_OF_JSON = {dict, list, str, int, float, bool, type(None)}
_PATH = 200  # the most characters of a path that are shown
_NO_LISTS = bytes, bytearray, memoryview, UserString  # though they are sequences
_KINDS: dict[type, Callable[[Any], Any]] = {bool: bool, str: str.__str__, int: int.__int__}
_KINDS |= {float: float.__float__, Mapping: lambda value: dict(value.items()), Sequence: list}


class NotJson(UserError, ValueError):
    """A value for which JSON has no word; says what it is."""


def as_json(value: Any) -> Any:
    """The value as a dict, a list, str, int, float, bool or None, of that type, or raises NotJson."""
    if type(value) in _OF_JSON:
        return value
    try:
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            value = value.item()  # a bool, an int or a float
        for one_kind, converted in _KINDS.items():
            if isinstance(value, one_kind) and not isinstance(value, _NO_LISTS):
                return converted(value)
    except Exception as error:  # whatever the methods of a user's own class raise
        found = f"a {type(value).__name__} that cannot be read ({type(error).__name__})"
        raise NotJson(found) from error
    raise NotJson(f"{kind(value)}, for which JSON has no word")


def written(value: Any) -> str:
    """A number or a boolean as JSON writes it; raises NotJson where it cannot."""
    if isinstance(value, float) and not math.isfinite(value):
        raise NotJson(f"the number {value}, which JSON does not have")
    try:
        return str(value).lower() if isinstance(value, bool) else str(value)
    except ValueError:  # Python's limit for integers
        limit = f"{sys.get_int_max_str_digits():,} digits"
        raise NotJson(f"a number of more than {limit}, which must be a text") from None


def kind(value: Any) -> str:
    """What a value is, in words."""
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", dict: "an object"}
    if type(value) is list:
        return "a list" if value else "an empty list"
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def brief(value: Any) -> str:
    """A value of JSON in at most 40 characters."""
    return kind(value) if isinstance(value, list | dict) else json.dumps(value)[:40]


def first_problem(ast: Any, ignored: Container[str]) -> str | None:
    """Where an AST holds itself, or something that JSON has no word for, and what; None if nowhere.

    The place comes first, as in ".body[0] is a set". Each object is visited once.
    """
    waiting: list[tuple[Any, str | None]] = [(ast, "")]
    seen: dict[int, Any] = {}  # by id; as long as an object is here, no other one has its id
    above = set[int]()  # ids of the objects that hold the next one
    while waiting:
        value, path = waiting.pop()
        if path is None:  # all that it holds has been visited
            above.remove(id(value))
            continue
        if len(path) > _PATH:
            path = f"{path[: _PATH // 2]} ... {path[-_PATH // 2 :]}"
        if id(value) in above:
            return f"{path} is one of the objects that hold it, a tree without end"
        items = list[tuple[Any, str]]()
        try:
            found = as_json(value)
            if isinstance(found, list):
                items = [(item, f"{path}[{i}]") for i, item in enumerate(found)]
            elif isinstance(found, dict):
                items = [(item, path + _step(key)) for key, item in found.items() if key not in ignored]
            elif isinstance(found, int | float):
                written(found)
        except NotJson as error:
            return f"{path} is {error}"
        if items and id(value) not in seen:
            seen[id(value)] = value
            above.add(id(value))
            waiting += [(value, None), *reversed(items)]
    return None


def _step(key: Any) -> str:
    if not isinstance(key, str):
        raise NotJson(f"a mapping with a key that is {kind(key)}, expected texts as keys")
    return f".{key}" if key.isidentifier() else f"[{key!r:.40}]"
