"""Parent pointers in files side by side, as the preprocessing of stanfordnlp/treelstm writes them.

X.parents or X.cparents with X.toks, X.rels, X.labels and X.txt; or parents.txt or dparents.txt with
sents.txt, rels.txt, and labels.txt or dlabels.txt. Each line belongs to one tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest

from treelstm.data.readers.source import Malformed, Source, Tree
from treelstm.data.readers.words import Word, nested

_CORRECT = "Correct the lines, which belong together"


def read_parents(source: Source) -> Iterator[Tree]:
    """One tree a line; of the files beside, only that of the words must be there."""
    path = source.path
    stem, _, ending = path.name.removesuffix(".gz").rpartition(".")
    of_phrases = ending == "cparents" or stem == "parents"
    if ending == "txt":
        names = [path.name, "sents.txt", "rels.txt", f"{stem.removesuffix('parents')}labels.txt"]
    else:
        names = [f"{stem}.{'cparents' if of_phrases else 'parents'}"]
        names += [f"{stem}.{each}" for each in ("toks", "rels", "labels", "txt")]
    files = {}
    for kind, name in zip(("parents", "words", "relations", "labels", "text"), names, strict=False):
        there = [each for each in (path.with_name(name), path.with_name(f"{name}.gz")) if each.is_file()]
        if there and not (of_phrases and kind == "relations"):
            files[kind] = there[0]
        elif kind in ("parents", "words"):
            return source.problem(0, f"{name} is not beside it", "Put the file there")
    for line, rows in enumerate(zip_longest(*map(source.lines, files.values())), 1):
        if None in rows:
            short = list(files.values())[rows.index(None)].name
            return source.problem(line, f"{short} ends before this line", "Write one line for each tree")
        try:
            yield _tree(source, line, {kind: text for kind, (_, text) in zip(files, rows, strict=True)})
        except Malformed as error:
            source.malformed(error)


def _tree(source: Source, line: int, texts: dict[str, str]) -> Tree:
    """0 is the head of a root, -1 that of a word outside of the tree. Phrases have a number, no word."""
    parts = {kind: re.findall(r"[^ \t]+", text) for kind, text in texts.items()}
    count, forms = len(parts["parents"]), parts["words"]
    if wrong := [each for each in parts["parents"] if not re.fullmatch(r"-1|\d{1,9}", each)]:
        raise Malformed(line, f"{wrong[0][:40]} is no number of a parent", _CORRECT)
    heads = [int(each) for each in parts["parents"]]
    phrases = set(heads) if count > len(forms) else set()
    leaves = [number for number in range(1, count + 1) if number not in phrases]
    relations, labels = (parts.get(kind, ["#"] * count) for kind in ("relations", "labels"))
    if not count or len(forms) != len(leaves) or {len(relations), len(labels)} != {count}:
        found = ", ".join(f"{len(each)} {kind}" for kind, each in parts.items() if kind != "text")
        raise Malformed(line, f"{found}, which do not fit each other", _CORRECT)
    nodes = {number: {"form": form} for number, form in zip(leaves, forms, strict=True)}
    words, gold = list[Word](), None
    for number, (head, relation, label) in enumerate(zip(heads, relations, labels, strict=True), 1):
        node = nodes.get(number, {})
        if label != "#" and source.keep_labels:
            node["label"] = label
        if label != "#" and head == 0:
            gold = label
        role = relation if "relations" in parts else "children" if phrases else "dep"
        if head >= 0:
            words.append(Word(number, head, role, node, line))
    source.left_out["words outside of the tree"] += heads.count(-1)
    return source.tree(line, nested(words), sentence=texts.get("text", " ".join(forms)), label=gold)
