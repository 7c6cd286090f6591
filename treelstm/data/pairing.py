"""Pairs from trees: trees of one class or of many common symbols are similar, or a table says how
similar two trees are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from tqdm import tqdm

from treelstm.data.classes import by_label
from treelstm.data.judgements import Groups, Known, PairingError, Row, judged
from treelstm.data.overlap import by_overlap
from treelstm.data.problems import DataError, Problems
from treelstm.data.readers.formats import as_json, iterate_trees, write_lines
from treelstm.files import listed, make_directory, write_whole
from treelstm.trees.builder import ForestBuilder, TreeError
from treelstm.trees.forest import Forest


def make_pairs(
    trees: Path | str | Iterable[Path | str],
    to: Path | str,
    by: str | None = None,
    keys: Iterable[str] = (),
    similar: float = 0.3,
    dissimilar: float = 0.1,
    scores: Path | str | None = None,
    columns: Iterable[str] = (),
    positives: int | None = None,
    negatives: int | None = None,
    neighbours: bool = False,
    seed: int = 0,
    validation: float = 0.1,
    validation_to: Path | str | None = None,
) -> dict[Path, dict[str, Any]]:
    """Writes directories of pairs; each, and what its metadata.json says. Equal trees and arguments give
    equal bytes, in whatever order the trees come.

    `trees`: files and directories that `read_trees` reads. With `by="label"`, two trees of one label are
    a similar pair, two of different labels a dissimilar one (`neighbours`: of one source file), in equal
    numbers if none is said. A label is in training or in validation (a share of the trees, written to
    `validation_to`, else to `to` + "-validation"), never in both. A tree that is equal to one of its
    label is taken once; it is left out if it is equal to one of another label, or alone with its label.
    With `keys`, what counts is the overlap (Jaccard) of the sets of two trees' values of these keys:
    from `similar` on a pair is similar, up to `dissimilar` it is dissimilar. Equal trees are taken once,
    those without such a key left out; near copies (overlap 0.8) are on one side of the split.
    `scores` is instead a table with a header: two columns of ids or sentences, and columns of numbers.
    `columns` names them (or gives their numbers, from 1) where the header is none that is known.

    Raises:
        DataError: trees or table cannot be read, or do not fit; the message lists the problems.
        PairingError: the trees give no such pairs, or `to` holds pairs already.
    """
    keys = [keys] if isinstance(keys, str) else [*keys]
    if [by is None, scores is None, not keys].count(False) != 1 or by not in (None, "label"):
        raise PairingError('Say one of by="label", keys=[...] and scores=FILE.')
    if not 0 <= dissimilar < similar <= 1:
        given = f"dissimilar is {dissimilar:g}, similar {similar:g}"
        raise PairingError(f"{given}, expected 0 <= dissimilar < similar <= 1. Change one.")
    to, second = Path(to), Path(validation_to or f"{to}-validation")
    inputs = [trees] if isinstance(trees, Path | str) else trees
    about: dict[str, Any] = {"scores": str(scores)} if scores else {"seed": seed}
    found, forest = _read([Path(each) for each in inputs], by is not None, about)
    if scores is not None:
        return {to: _write(to, {"pairs": judged(found, Path(scores), [*columns])}, about)}
    if by is not None:
        groups, choose = by_label(found, neighbours, about)
    else:
        groups, choose = by_overlap(found, forest, keys, (similar, dissimilar), about)
    parts = "label(s) have two different trees" if by else "group(s) of trees are to stay together"
    held_out = _held_out(groups, parts, validation, seed)
    made = {}
    for directory, share, ours in (
        (to, 1 - validation, groups.keys() - held_out),
        (second, validation, held_out),
    ):
        if ours:
            few = {name: groups[name] for name in sorted(ours)}
            wanted, unwanted = (n and max(1, round(n * share)) for n in (positives, negatives))
            draw = Random(f"treelstm pairs {seed} {directory == second}")
            positive, negative = choose(few, wanted, unwanted, draw)
            made[directory] = {"positive_pairs": positive, "negative_pairs": negative}
    return {directory: _write(directory, files, about) for directory, files in made.items()}


def _read(paths: list[Path], needs_label: bool, about: dict[str, Any]) -> tuple[list[Known], Forest]:
    problems, builder, found, left_out = Problems(), ForestBuilder(), list[Known](), Counter[str]()
    for tree in tqdm(iterate_trees(paths, left_out=left_out), unit=" trees", disable=None, leave=False):
        try:
            builder.add(tree.ast)
        except TreeError as error:
            problems.add(tree.file, tree.line, str(error), "Leave it out")
        if needs_label and tree.label is None:
            remedy = "Add it; of code it is the name of a function, in CoNLL-U a comment: # label = ..."
            problems.add(tree.file, tree.line, f"the tree {tree.id} has no label", remedy)
        said = {"sentence": tree.sentence, "source_file": tree.source_file, "sentence_id": tree.id}
        part = as_json({k: v for k, v in said.items() if v is not None} | {"ast": tree.ast})
        label, sentence = tree.label or "", tree.sentence or ""
        found.append(Known(tree.id, label, sentence, tree.source_file, b"", part))
    if problems.count:
        raise DataError(problems)
    about |= {"trees": len(found), **{f"left out: {what}": n for what, n in left_out.items() if n}}
    forest = builder.forest()
    named = zip(found, forest.tree_digest.tolist(), strict=True)
    return [tree._replace(digest=digest) for tree, digest in named], forest


def _held_out(groups: Groups, parts: str, validation: float, seed: int) -> set[str]:
    """Groups, in random order, until they have that share of the trees; at least two, if any."""
    if not 0 <= validation < 1:
        raise PairingError(f"validation is {validation}, expected at least 0 and under 1.")
    if len(groups) < (4 if validation else 2):
        found = f"{len(groups)} {parts}, expected at least 2, 4 with validation"
        raise PairingError(f"{found}. Add trees, or labels that say more, or set validation to 0.")
    order, held_out, enough = sorted(groups), set[str](), validation * sum(map(len, groups.values()))
    Random(f"treelstm pairs {seed}").shuffle(order)
    for label in order[: len(order) - 2 if validation else 0]:
        if len(held_out) >= 2 and sum(len(groups[each]) for each in held_out) >= enough:
            break
        held_out.add(label)
    return held_out


def _write(directory: Path, files: dict[str, list[Row]], about: dict[str, Any]) -> dict[str, Any]:
    """Writes the files and metadata.json, which it returns."""
    if there := listed(directory, "*pairs*.[jt]s*"):
        raise PairingError(f"{there[0]} exists already. Choose another directory or remove it.")
    make_directory(directory)
    for name, rows in files.items():
        write_lines(directory / f"{name}.jsonl.gz", map(_line, rows))
    labels = [values.get("label") for rows in files.values() for _, _, values in rows]
    counts = {"num_positive_pairs": labels.count(1), "num_negative_pairs": labels.count(0)}
    about = {**counts, "total_pairs": len(labels), **about}
    for label, name in ((1, "positive_similarity"), (0, "negative_similarity")):
        of = [row[2] for rows in files.values() for row in rows if row[2].get("label") == label]
        if given := [each["similarity"] for each in of if "similarity" in each]:
            about[name] = {"mean": fmean(given), "min": min(given), "max": max(given)}
    write_whole(directory / "metadata.json", json.dumps(about, indent=1).encode())
    return about


def _line(row: Row) -> bytes:
    first, second, values = row
    return b'{"ast1": %b, "ast2": %b, %b' % (first.part, second.part, json.dumps(values).encode()[1:])
