"""Pairs from trees: trees of one class are similar, or a table says how similar two trees are."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain, combinations
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from treelstm.data.judgements import Known, PairingError, Row, judged
from treelstm.data.pairs import DataError, Problems
from treelstm.data.readers.formats import as_json, iterate_trees, write_lines
from treelstm.files import listed, make_directory, write_whole
from treelstm.trees.builder import ForestBuilder, TreeError


def make_pairs(
    trees: Path | str | Iterable[Path | str],
    to: Path | str,
    by: str | None = None,
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
    `scores` is instead a table with a header: two columns of ids or sentences, and columns of numbers.
    `columns` names them (or gives their numbers, from 1) where the header is none that is known.

    Raises:
        DataError: trees or table cannot be read, or do not fit; the message lists the problems.
        PairingError: the trees give no such pairs, or `to` holds pairs already.
    """
    if (by is None) == (scores is None) or by not in (None, "label"):
        raise PairingError('Say either by="label" or scores=FILE.')
    to, second = Path(to), Path(validation_to or f"{to}-validation")
    inputs = [trees] if isinstance(trees, Path | str) else trees
    about: dict[str, Any] = {"seed": seed} if by else {"scores": str(scores)}
    found = _read([Path(each) for each in inputs], by is not None, about)
    if scores is not None:
        return {to: _write(to, {"pairs": judged(found, Path(scores), [*columns])}, about)}
    groups = _groups(found, about)
    held_out = _held_out(groups, validation, seed)
    shares = {to: (1 - validation, groups.keys() - held_out), second: (validation, held_out)}
    made = {}
    for directory, (share, labels) in shares.items():
        if labels:
            counts = [None if n is None else max(1, round(n * share)) for n in (positives, negatives)]
            ours = {label: groups[label] for label in sorted(labels)}
            draw = Random(f"treelstm pairs {seed} {directory == second}")
            similar = _similar(ours, counts[0], draw)
            dissimilar = _dissimilar(ours, counts[1], len(similar), neighbours, draw)
            made[directory] = {"positive_pairs": similar, "negative_pairs": dissimilar}
    return {directory: _write(directory, files, about) for directory, files in made.items()}


def _read(paths: list[Path], needs_label: bool, about: dict[str, Any]) -> list[Known]:
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
    digests = builder.forest().tree_digest.tolist()
    return [tree._replace(digest=digest) for tree, digest in zip(found, digests, strict=True)]


def _groups(trees: list[Known], about: dict[str, Any]) -> dict[str, list[Known]]:
    """The trees of each label that has two or more, as `make_pairs` says, in an order of their own."""
    labels_of = defaultdict[bytes, set[str]](set)
    for tree in trees:
        labels_of[tree.digest].add(tree.label)
    groups = defaultdict[str, dict[bytes, Known]](dict)
    for tree in sorted(trees, key=lambda tree: (tree.label, tree.digest, tree.id)):
        if len(labels_of[tree.digest]) == 1:
            groups[tree.label].setdefault(tree.digest, tree)
    several = {label: [*group.values()] for label, group in groups.items() if len(group) > 1}
    other, kept = sum(len(labels_of[t.digest]) > 1 for t in trees), sum(map(len, groups.values()))
    about["labels"] = len(several)
    about["left out: trees equal to one of another label"] = other
    about["left out: trees equal to one of their label"] = len(trees) - other - kept
    about["left out: trees alone with their label"] = len(groups) - len(several)
    return several


def _held_out(groups: dict[str, list[Known]], validation: float, seed: int) -> set[str]:
    """Labels, in random order, until they have that share of the trees; at least two, if any."""
    if not 0 <= validation < 1:
        raise PairingError(f"validation is {validation}, expected at least 0 and under 1.")
    if len(groups) < (4 if validation else 2):
        found = (
            f"{len(groups)} label(s) have two different trees, expected at least 2, 4 with validation"
        )
        raise PairingError(f"{found}. Add trees, or labels that say more, or set validation to 0.")
    order, held_out, enough = sorted(groups), set[str](), validation * sum(map(len, groups.values()))
    Random(f"treelstm pairs {seed}").shuffle(order)
    for label in order[: len(order) - 2 if validation else 0]:
        if len(held_out) >= 2 and sum(len(groups[each]) for each in held_out) >= enough:
            break
        held_out.add(label)
    return held_out


def _similar(groups: dict[str, list[Known]], wanted: int | None, draw: Random) -> list[Row]:
    """Pairs within groups, of each as many as of the others, as far as it has them."""
    possible = {label: math.comb(len(group), 2) for label, group in groups.items()}
    wanted = _possible("similar", wanted, sum(map(len, groups.values())), sum(possible.values()))
    rows = list[Row]()
    for done, label in enumerate(sorted(groups, key=lambda label: (possible[label], label))):
        quota = min(possible[label], (wanted - len(rows)) // (len(groups) - done))
        for number in draw.sample(range(possible[label]), quota):  # (1, 0), (2, 0), (2, 1), (3, 0), ...
            second = (1 + math.isqrt(8 * number + 1)) // 2
            first = groups[label][number - math.comb(second, 2)]
            rows.append((first, groups[label][second], {"label": 1}))
    draw.shuffle(rows)
    return rows


def _dissimilar(
    groups: dict[str, list[Known]], wanted: int | None, usual: int, neighbours: bool, draw: Random
) -> list[Row]:
    """Pairs across groups; each tree with some tree of another label in its pool is as likely first."""
    pools = defaultdict[str, list[Known]](list)
    for tree in chain.from_iterable(groups.values()):
        pools[tree.source if neighbours else ""].append(tree)
    several = [pool for pool in pools.values() if len({tree.label for tree in pool}) > 1]
    within = [n for pool in several for n in Counter(tree.label for tree in pool).values()]
    possible = sum(math.comb(len(pool), 2) for pool in several) - sum(math.comb(n, 2) for n in within)
    wanted = _possible("dissimilar", wanted, usual, possible)
    if possible < 4 * wanted:
        every = [(a, b) for pool in several for a, b in combinations(pool, 2) if a.label != b.label]
        return [(first, second, {"label": 0}) for first, second in draw.sample(every, wanted)]
    drawn: dict[frozenset[str], Row] = {}
    first_ones = [(tree, pool) for pool in several for tree in pool]
    while len(drawn) < wanted:
        first, pool = draw.choice(first_ones)
        second = draw.choice(pool)
        if first.label != second.label:
            drawn.setdefault(frozenset((first.id, second.id)), (first, second, {"label": 0}))
    return [*drawn.values()]


def _possible(kind: str, wanted: int | None, usual: int, possible: int) -> int:
    if wanted is None:
        wanted = min(usual, possible)
    if not 0 < wanted <= possible:
        raise PairingError(f"{wanted:,} {kind} pairs were asked for, {possible:,} are possible here.")
    return wanted


def _write(directory: Path, files: dict[str, list[Row]], about: dict[str, Any]) -> dict[str, Any]:
    """Writes the files and metadata.json, which it returns."""
    if there := listed(directory, "*pairs.jsonl*"):
        raise PairingError(f"{there[0]} exists already. Choose another directory or remove it.")
    make_directory(directory)
    for name, rows in files.items():
        write_lines(directory / f"{name}.jsonl.gz", map(_line, rows))
    labels = [values.get("label") for rows in files.values() for _, _, values in rows]
    counts = {"num_positive_pairs": labels.count(1), "num_negative_pairs": labels.count(0)}
    about = {**counts, "total_pairs": len(labels), **about}
    write_whole(directory / "metadata.json", json.dumps(about, indent=1).encode())
    return about


def _line(row: Row) -> bytes:
    first, second, values = row
    return b'{"ast1": %b, "ast2": %b, %b' % (first.part, second.part, json.dumps(values).encode()[1:])
