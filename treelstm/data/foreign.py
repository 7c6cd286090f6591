"""What parsers write that is not a tree yet: token lists with heads, lists of parents, brackets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_COMMAND = "python -m treelstm trees FILE --to trees.jsonl.gz"
CONVERT = f"Convert what the parser wrote ({_COMMAND}), then pair those trees"
_PARSE = f"Parse it first, then pair the trees; source code: {_COMMAND}"
_HEAD = re.compile("head|parent|gov", re.IGNORECASE)
_NO_HEAD = (0, -1, None, "0", "-1", "", "_")


def looks_like(value: str | list[Any]) -> tuple[str, str]:
    """What stands in the place of a tree, in words, and what to do about it."""
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in ("{", "["):
            return "JSON inside a text", "Write the tree itself: json.loads(text)"
        if re.fullmatch(r"-?[0-9]+([\s,]+-?[0-9]+)*", text):
            return "a list of parents", CONVERT
        if text[:1] == "(":
            return "a tree in brackets, as in the Penn Treebank", CONVERT
        return ("CoNLL-U", CONVERT) if "\t" in text else ("text that was not parsed", _PARSE)
    first = value[0] if value else None
    if said := links(first if isinstance(first, list) else value):
        kind = "a token list with heads"
        return f"{'a list of nodes with ids of children' if 'child' in said else kind} ({said})", CONVERT
    if isinstance(first, str) and any(isinstance(item, list) for item in value):
        return "a tree of nested lists", 'Write each list as {"label": ..., "children": [...]}'
    if isinstance(first, str):
        return "a list of words", _PARSE
    if type(first) is int:
        return "a list of parents", CONVERT
    return "several trees, or none", 'Give each tree its own place, or one root: {"children": [...]}'


def links(items: list[Any]) -> str:
    """The keys by which the objects of a list name parents or children, as in "id, head"; or ""."""
    items = items[:-1] if items and items[-1] == 0 else items  # as the lists of js150 end
    if not items or not all(isinstance(item, dict) for item in items):
        return ""
    either = {**items[0], **items[-1]}  # they cannot both lack a head, or both be without children
    linking = [key for key, value in either.items() if isinstance(value, list) or _is_id(value)]
    columns = {key: [item.get(key) for item in items] for key in linking}
    ids = {k: c for k, c in columns.items() if all(map(_is_id, c)) and len({*c}) == len(c)}
    for key, column in columns.items():
        if any(isinstance(value, list) and value for value in column):
            for name, own in {**ids, "": range(len(items))}.items():
                if _has_children(own, column):
                    return f"{name}, {key}".removeprefix(", ")
        elif all(value is None or _is_id(value) for value in column):
            named = bool(_HEAD.search(key))
            for name, own in ids.items():
                if name != key and _is_tree(own, column, named):
                    return f"{name}, {key}"
            if named and len({*column}) > 1 and is_parents(column):
                return str(key)
    return ""


def _is_id(value: Any) -> bool:
    """An integer, or a short text with a digit."""
    if isinstance(value, str):
        return len(value) <= 40 and any(map(str.isdigit, value))
    return type(value) is int


def is_parents(heads: list[Any]) -> bool:
    """Whether each number is the place of a parent: from 1, or from 0 with -1 or itself at the root."""
    return len(heads) > 1 and any(
        _is_tree(range(first, len(heads) + first), heads, True) for first in (1, 0)
    )


def _has_children(own: Iterable[Any], lists: list[Any]) -> bool:
    """Whether these lists hold each id but that of the root once."""
    parent = dict.fromkeys(own)
    found = [(child, mine) for mine, one in zip([*parent], lists, strict=True) for child in one or ()]
    if len(found) != len(parent) - 1 or not all(_is_id(child) for child, _ in found):
        return False
    parent |= dict(found)
    heads = [None if head is None else f"#{head}" for head in parent.values()]  # as 0 would be a root
    return len(parent) == len(lists) and _is_tree([f"#{key}" for key in parent], heads, True)


def _is_tree(own: Iterable[Any], heads: list[Any], named: bool) -> bool:
    """Whether all heads lead to a root; unless a name tells so, numbers that merely count do not."""
    children: dict[Any, list[Any]] = {}
    for key, head in zip(own, heads, strict=True):
        children.setdefault("root" if head == key or head in _NO_HEAD else head, []).append(key)
    reached = children.get("root", [])[:]
    roots = len(reached)
    for key in reached:  # it grows during the loop
        reached += children.get(key, [])
    if not roots or len(reached) < len(heads) or len(children) == 1 < len(heads):
        return False
    return named or (roots == 1 and any(len(each) > 1 for each in children.values()))
