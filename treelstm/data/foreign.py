"""What parsers write that is not a tree yet: token lists with heads, lists of parents, brackets."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

_COMMAND = "python -m treelstm trees FILE --to trees.jsonl.gz"
CONVERT = f"Convert what the parser wrote ({_COMMAND}), then pair those trees"
_PARSE = f"Parse it first, then pair the trees; source code: {_COMMAND}"
# How parsers call them: head, parentId, governor, children.
_LINK = re.compile(r"(head|kapo|parent|gov(ernor)?|child(ren)?)([ _-]?(id|idx|index))?s?", re.IGNORECASE)
_ID = re.compile(r"(?=.*\d).{1,40}")


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
    if name := link(first if isinstance(first, list) else value):
        by_children = "child" in name.lower()
        kind = "a list of nodes with ids of children" if by_children else "a token list with heads"
        return f"{kind} ({name})", CONVERT
    if isinstance(first, str) and any(isinstance(item, list) for item in value):
        return "a tree of nested lists", 'Write each list as {"label": ..., "children": [...]}'
    if isinstance(first, str):
        return "a list of words", _PARSE
    if type(first) is int:
        return "a list of parents", CONVERT
    return "several trees, or none", 'Give each tree its own place, or one root: {"children": [...]}'


def flat_trees(node: dict[str, Any], ignored: Collection[str]) -> Iterator[str]:
    """The lists of an object that stand for a tree, as token lists do: "tokens: head"."""
    for key, items in node.items():
        if key in ignored or not isinstance(items, list) or not items:
            continue
        rows = items[0] if isinstance(items[0], list) else items  # a list of sentences
        name = link(rows) if len(rows) > 1 else ""
        if name and name not in node:  # a node with a head of its own nests
            yield f"{key}: {name}"
        elif _LINK.fullmatch(key) and "child" not in key.lower() and _are_links(items):
            yield f"{key}: a list of parents"


def link(items: list[Any]) -> str:
    """The key by which the objects of a list name parents or children, such as "head"; or ""."""
    items = items[:-1] if items and items[-1] == 0 else items  # as the lists of js150 end
    if not items or not all(isinstance(item, dict) for item in items):
        return ""
    names = filter(_LINK.fullmatch, {**items[0], **items[-1]})
    return next((name for name in names if _are_links([item.get(name) for item in items])), "")


def _are_links(values: list[Any]) -> bool:
    """Whether they are ids, or lists of ids, and differ."""
    ids = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return all(each is None or _is_id(each) for each in ids) and len({*ids}) > 1


def _is_id(value: Any) -> bool:
    """An integer, or a short text with a digit."""
    return type(value) is int or (isinstance(value, str) and bool(_ID.fullmatch(value)))
