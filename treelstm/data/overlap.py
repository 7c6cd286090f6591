"""Pairs of trees by how many of their symbols they share: Jaccard overlap |A and B| / |A or B|.

Shapes: T trees, S symbols. A tree's set is a row of a sparse matrix [T, S] of ones.
"""

from collections import defaultdict
from random import Random
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from sparse_dot_topn import sp_matmul_topn

from treelstm.config import did_you_mean
from treelstm.data.judgements import Choice, Chosen, Groups, Known, PairingError, Row, number_of
from treelstm.trees.arrays import Array
from treelstm.trees.forest import Forest
from treelstm.trees.vocabulary import ROLE, key_of

NEAR_COPY = 0.8  # trees of at least this overlap are never on both sides of a split
_ROWS = 10_000  # compared at a time with all others
_KEPT = 100  # partners of a tree, before it is looked at again
_ALL_PAIRS = 1_000_000  # up to so many, dissimilar pairs are chosen from all instead of drawn


def overlaps(sets: csr_matrix, first: Array, second: Array) -> Array:
    """[P] float64: the overlap of each pair of rows that are not empty."""
    size = np.diff(sets.indptr)
    both = np.asarray(sets[first].multiply(sets[second]).sum(axis=1), np.int64).ravel()
    return np.asarray(both / (size[first] + size[second] - both))


def similar_pairs(sets: csr_matrix, at_least: float) -> tuple[Array, Array, Array]:
    """All pairs (first < second) of at least this overlap, in this order, and the overlap.

    An overlap of J implies a cosine of at least 2 J / (1 + J), by which candidates are found.
    """
    size, kept = np.diff(sets.indptr), min(_KEPT, sets.shape[0])
    unit = csr_matrix(
        (sets.data / np.repeat(np.sqrt(size), size), sets.indices, sets.indptr), sets.shape
    )
    columns, bound = unit.T.tocsr(), 2 * at_least / (1 + at_least) - 1e-9
    blocks = list[tuple[Array, Array, Array]]()
    for start in range(0, sets.shape[0], _ROWS):
        rows = np.arange(start, min(start + _ROWS, sets.shape[0]))
        near = sp_matmul_topn(unit[rows], columns, kept, threshold=bound)
        full = np.diff(near.indptr) == kept
        firsts, seconds = np.repeat(rows, np.diff(near.indptr)), near.indices
        if full.any():  # these may have more
            again = sp_matmul_topn(unit[rows[full]], columns, sets.shape[0], threshold=bound)
            other = ~np.isin(firsts, rows[full])
            firsts = np.append(firsts[other], np.repeat(rows[full], np.diff(again.indptr)))
            seconds = np.append(seconds[other], again.indices)
        once = firsts < seconds
        first, second = firsts[once], seconds[once].astype(np.int64)
        order = np.lexsort((second, first))
        first, second = first[order], second[order]
        overlap = overlaps(sets, first, second)
        enough = overlap >= at_least
        blocks.append((first[enough], second[enough], overlap[enough]))
    first, second, overlap = map(np.concatenate, zip(*blocks, strict=True))
    return first, second, overlap


def _connected(trees: int, first: Array, second: Array) -> Array:
    """[T] the component of each tree, where these pairs are connected."""
    links = coo_matrix((np.ones(len(first)), (first, second)), shape=(trees, trees))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def kept_together(trees: int, first: Array, second: Array, overlap: Array) -> Array:
    """[T] the group of each tree, which is in training or in validation as a whole.

    Trees that similar pairs connect are one group, so that few pairs are lost. Where these are more than
    a twentieth of all, near copies are, and what is a near copy of one of them.
    """
    near = overlap >= NEAR_COPY
    group, copies = _connected(trees, first, second), _connected(trees, first[near], second[near])
    is_large = np.bincount(group)[group] > trees / 20
    return np.where(is_large, trees + copies, group)


def drawn_dissimilar(
    sets: csr_matrix, at_most: float, wanted: int, random: np.random.Generator
) -> tuple[Array, Array, Array]:
    """At most `wanted` different pairs of at most this overlap, and the overlap. They are fewer if there
    are no more, or, of many trees, if fewer than one pair in a thousand is one.
    """
    trees, found = sets.shape[0], np.empty(0, np.int64)
    is_small = trees * (trees - 1) // 2 <= _ALL_PAIRS
    while True:
        if is_small:
            first, second = random.permutation(np.stack(np.triu_indices(trees, 1)), axis=1)
        else:
            first, second = np.sort(random.integers(trees, size=(2, max(10_000, 2 * wanted))), axis=0)
        first, second = first[first < second], second[first < second]
        low = overlaps(sets, first, second) <= at_most
        before, found = len(found), np.append(found, first[low] * trees + second[low])
        found = found[np.sort(np.unique(found, return_index=True)[1])]  # each once, as drawn
        few = len(found) - before < len(first) / 1000
        if len(found) >= wanted or is_small or few:
            first, second = np.divmod(found[:wanted], trees)
            return first, second, overlaps(sets, first, second)


def by_overlap(
    trees: list[Known],
    forest: Forest,
    keys: list[str],
    bounds: tuple[float, float],
    about: dict[str, Any],
) -> tuple[Groups, Choice]:
    """The trees that have one of these keys, each once, by groups to be kept together; and how to choose
    pairs of some of them: similar from the first bound on, dissimilar up to the second.
    """
    known = {key_of(symbol) for symbol in forest.symbols if not symbol.startswith(ROLE)}
    if unknown := [key for key in keys if key not in known]:
        guess = did_you_mean(unknown[0], known) or f"They have {', '.join(sorted(known)[:20])}."
        raise PairingError(f"keys names {unknown[0]}: no tree has this key. {guess}")
    columns = [n for n, s in enumerate(forest.symbols) if not s.startswith(ROLE) and key_of(s) in keys]
    shape = (len(trees), len(forest.symbols))
    sets = csr_matrix((np.ones(len(forest.bag)), forest.bag, forest.bag_ptr), shape)[:, columns]
    rows, digests = list[int](), set[bytes]()
    for row in sorted(range(len(trees)), key=lambda row: (trees[row].digest, trees[row].id)):
        if sets.indptr[row] < sets.indptr[row + 1] and trees[row].digest not in digests:
            digests.add(trees[row].digest)
            rows.append(row)
    empty = int((np.diff(sets.indptr) == 0).sum())
    about |= {"keys": keys, "similar_from": bounds[0], "dissimilar_to": bounds[1]}
    about["left out: trees without these keys"] = empty
    about["left out: trees equal to another"] = len(trees) - empty - len(rows)
    sets, groups = sets[rows], defaultdict[str, list[Known]](list)
    firsts, seconds, overlap = similar_pairs(sets, bounds[0])
    for row, group in enumerate(kept_together(len(rows), firsts, seconds, overlap).tolist()):
        groups[str(group)].append(trees[rows[row]])
    about["groups kept together"] = len(groups)
    place = {trees[row].digest: number for number, row in enumerate(rows)}

    def choose(ours: Groups, positives: int | None, negatives: int | None, draw: Random) -> Chosen:
        some = sorted((tree for group in ours.values() for tree in group), key=lambda tree: tree.digest)
        rows = np.array([place[tree.digest] for tree in some])
        own = np.full(len(place), -1)
        own[rows] = np.arange(len(rows))
        random = np.random.default_rng(draw.getrandbits(64))

        def pairs(label: int, *drawn: Array) -> list[Row]:
            columns = (each.tolist() for each in drawn)
            return [
                (some[i], some[j], {"label": label, "similarity": s})
                for i, j, s in zip(*columns, strict=True)
            ]

        there = np.flatnonzero((own[firsts] >= 0) & (own[seconds] >= 0))
        wanted = number_of("similar", positives, len(some), len(there))
        drawn = there[np.argsort(random.random(len(there)), kind="stable")[:wanted]]
        enough = wanted if negatives is None else negatives
        dissimilar = drawn_dissimilar(sets[rows], bounds[1], enough, random)
        number_of("dissimilar", negatives, enough, len(dissimilar[0]))
        similar = own[firsts[drawn]], own[seconds[drawn]], overlap[drawn]
        return pairs(1, *similar), pairs(0, *dissimilar)

    return groups, choose
