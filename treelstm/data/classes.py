"""Pairs of labelled trees: two of one label are similar, two of different labels are not."""

import math
from collections import Counter, defaultdict
from itertools import chain, combinations
from random import Random
from typing import Any

from treelstm.data.judgements import Choice, Chosen, Groups, Known, Row, number_of


def by_label(trees: list[Known], neighbours: bool, about: dict[str, Any]) -> tuple[Groups, Choice]:
    """The trees of each label that has two or more, as `make_pairs` says, in an order of their own; and
    how to choose pairs of some of them.
    """
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

    def choose(ours: Groups, positives: int | None, negatives: int | None, draw: Random) -> Chosen:
        similar = _similar(ours, positives, draw)
        return similar, _dissimilar(ours, negatives, len(similar), neighbours, draw)

    return several, choose


def _similar(groups: Groups, wanted: int | None, draw: Random) -> list[Row]:
    """Pairs within groups, of each as many as of the others, as far as it has them."""
    possible = {label: math.comb(len(group), 2) for label, group in groups.items()}
    wanted = number_of("similar", wanted, sum(map(len, groups.values())), sum(possible.values()))
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
    groups: Groups, wanted: int | None, usual: int, neighbours: bool, draw: Random
) -> list[Row]:
    """Pairs across groups; each tree with some tree of another label in its pool is as likely first."""
    pools = defaultdict[str, list[Known]](list)
    for tree in chain.from_iterable(groups.values()):
        pools[tree.source if neighbours else ""].append(tree)
    several = [pool for pool in pools.values() if len({tree.label for tree in pool}) > 1]
    within = [n for pool in several for n in Counter(tree.label for tree in pool).values()]
    possible = sum(math.comb(len(pool), 2) for pool in several) - sum(math.comb(n, 2) for n in within)
    wanted = number_of("dissimilar", wanted, usual, possible)
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
