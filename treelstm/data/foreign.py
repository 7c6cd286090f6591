"""What parsers write that is not a tree yet: token lists with heads, lists of parents, brackets."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any

_COMMAND = "python -m treelstm trees FILE --to trees.jsonl.gz"
CONVERT = f"Convert what the parser wrote ({_COMMAND}), then pair those trees"
_PARSE = f"Parse it first, then pair the trees; source code: {_COMMAND}"
_LINK = re.compile("head|parent|gov|child", re.IGNORECASE)
_ID = re.compile(r"(?=.*\d).{1,40}")
_NO_HEAD = (0, -1, None, "0", "-1")


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
    if names := links(first if isinstance(first, list) else value):
        by_children = "child" in names[-1]
        kind = "a list of nodes with ids of children" if by_children else "a token list with heads"
        return f"{kind} ({', '.join(names)})", CONVERT
    if isinstance(first, str) and any(isinstance(item, list) for item in value):
        return "a tree of nested lists", 'Write each list as {"label": ..., "children": [...]}'
    if isinstance(first, str):
        return "a list of words", _PARSE
    if type(first) is int:
        return "a list of parents", CONVERT
    return "several trees, or none", 'Give each tree its own place, or one root: {"children": [...]}'


def flat_trees(node: dict[str, Any], ignored: Collection[str]) -> Iterator[str]:
    """The lists of an object that stand for a tree, as token lists do: "tokens: id, head"."""
    lists = {k: v for k, v in node.items() if isinstance(v, list) and v and k not in ignored}
    lengths = {len(items) for items in lists.values() if isinstance(items[0], str | dict)}
    for key, items in lists.items():
        rows = items[0] if isinstance(items[0], list) else items  # a list of sentences
        names = links(rows) if len(rows) > 1 else ()
        if names and names[-1] not in node:  # a node with a head of its own nests
            yield f"{key}: {', '.join(names)}"
        elif len(items) in lengths and _are_parents(items):
            yield f"{key}: a list of parents"


def links(items: list[Any]) -> tuple[str, ...]:
    """The keys by which the objects of a list name parents or children: ("id", "head"); or ()."""
    items = items[:-1] if items and items[-1] == 0 else items  # as the lists of js150 end
    if not items or not all(isinstance(item, dict) for item in items):
        return ()
    columns = {key: [item.get(key) for item in items] for key in {**items[0], **items[-1]}}
    unique = {k: c for k, c in columns.items() if all(map(_is_id, c)) and len({*c}) == len(c)}
    for key, column in columns.items():
        named = bool(_LINK.search(key))
        for name, ids in unique.items():
            if name != key and _are_links(ids, column, named):
                return name, key
        children = any(isinstance(link, list) for link in column)
        if _are_links(range(len(column)), column, named) if children else named and _are_parents(column):
            return (key,)
    return ()


def _is_id(value: Any) -> bool:
    """An integer, or a short text with a digit."""
    return type(value) is int or (isinstance(value, str) and bool(_ID.fullmatch(value)))


def _are_parents(heads: list[Any]) -> bool:
    """Whether numbers are the places of parents: from 1, or from 0 with -1 or itself at the root."""
    if not all(type(head) is int for head in heads if head is not None) or len({*heads}) == 1:
        return False
    return any(_are_links(range(first, len(heads) + first), heads, True) for first in (1, 0))


def _are_links(ids: Sequence[Any], links: list[Any], named: bool) -> bool:
    """Whether each link is the id of a parent, or a list of ids of children, and they make trees.

    Unless their key is named so, numbers may merely count: then it takes one root, and branches.
    """
    edges = list[tuple[Any, Any]]()  # child, parent
    for own, link in zip(ids, links, strict=True):
        if isinstance(link, list):
            edges += [(child, own) for child in link]
        elif link not in (own, *_NO_HEAD):
            edges.append((own, link))
    if not all(map(_is_id, chain.from_iterable(edges))):
        return False
    parent, children = dict(edges), defaultdict[Any, list[Any]](list)
    for child, above in edges:
        children[above].append(child)
    roots = [own for own in ids if own not in parent]
    reached = roots[:]
    if len(parent) == len(edges):  # each has one parent at most
        for own in reached:  # it grows during the loop
            reached += children.get(own, [])
    branches = any(len(below) > 1 for below in children.values())
    whole = {*reached} == {*ids} and (len(edges) > 0 or len(ids) == 1)
    return whole and (named or (len(roots) == 1 and branches))
