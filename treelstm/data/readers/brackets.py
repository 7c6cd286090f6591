"""Trees in brackets: the Penn Treebank's, parsers', labelled ones as in the Stanford Sentiment Treebank.

`(NP-SBJ-1 (DT the) (NN dog))` is a node with `tag` NP and `function` SBJ; its children have tag, form.
Traces (-NONE-), what is empty without them, and their indices are left out, as usual. Where all labels
of a tree are numbers, they are gold labels: the root's becomes the tree's, the others stay out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from treelstm.data.readers.source import Source, Tree

_PARTS = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r"\s*(\*x\*|[#%;<])")  # corpora's headers, between trees
_TRACE = "-NONE-"
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
_ESCAPED = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}


def read_brackets(source: Source) -> Iterator[Tree]:
    return _trees(source, source.lines())


def of_brackets(source: Source, line: int, value: str) -> Iterator[Tree]:
    """Of a text that stands on one line of another file."""
    return _trees(source, ((line, text) for text in value.split("\n")))


def _trees(source: Source, lines: Iterable[tuple[int, str]]) -> Iterator[Tree]:
    """The trees in these lines, of which one may hold several, and one tree several lines."""
    stack = list[list[Any]]()  # of each open bracket: its label, which may be None, and what follows
    nodes, words, begins = list[dict[str, Any]](), list[str](), 0
    for line, text in lines:
        if not stack and _COMMENT.match(text):
            source.left_out["comment lines"] += 1
            continue
        for part in _PARTS.findall(text):
            if part == "(":
                if not stack:
                    nodes, words, begins = [], [], line
                elif not stack[-1]:
                    stack[-1].append(None)
                stack.append([])
            elif not stack:
                found = f"{part[:40]} stands outside of any brackets"
                source.problem(line, found, "Balance the brackets or remove the line")
                break
            elif part != ")":
                if stack[-1] and stack[-1][0] != _TRACE:
                    part = re.sub(r"\\([/*])", r"\1", _ESCAPED.get(part.upper(), part))
                    words.append(part)
                stack[-1].append(part)
            else:
                if not (parts := stack.pop()):
                    source.problem(line, "a pair of brackets holds nothing", "Write its label and words")
                node = _closed(source, parts, nodes)
                if stack:
                    stack[-1].append(node)
                elif node is not None:
                    gold = _named(source, nodes)
                    yield source.tree(begins, node, sentence=" ".join(words), label=gold)
    if stack:
        source.problem(begins, f"{len(stack)} brackets of this tree stay open", "Balance the brackets")


def _closed(source: Source, parts: list[Any], nodes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The node of a pair of brackets, added to `nodes`; None for a trace, and where nothing else is."""
    label, *below = parts or [None]
    inside = [part for part in below if part is not None]
    if label == _TRACE or (below and not inside):
        source.left_out["traces"] += label == _TRACE
        return None
    if label is None and len(inside) == 1 and isinstance(inside[0], dict):
        return inside[0]  # ( (S ...))
    node: dict[str, Any] = {} if label is None else {"tag": label}
    if len(inside) == 1 and isinstance(inside[0], str):
        node["form"] = inside[0]
    elif inside:
        node["children"] = [{"form": part} if isinstance(part, str) else part for part in inside]
    nodes.append(node)
    return node


def _named(source: Source, nodes: list[dict[str, Any]]) -> str | None:
    """Divides the labels of a tree's nodes, root last; returns the root's gold label if it has one."""
    labels: list[str] = [node["tag"] for node in nodes if "tag" in node]
    if labels and all(map(_NUMBER.fullmatch, labels)):
        for node in nodes:
            if (label := node.pop("tag", None)) and source.keep_labels:
                node["label"] = label
        return labels[-1]
    for node in nodes:
        if not node.get("tag", "-").startswith("-"):  # -LRB- is a tag
            node["tag"], *others = re.split("[-=]", node["tag"])
            functions = [each for each in others if each and not each.isdecimal()]
            if functions:
                node["function"] = functions[0] if len(functions) == 1 else functions
            source.left_out["indices of traces"] += len(others) > len(functions)
    return None
