"""Which keys of the ASTs name a node in figures and tables."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from treelstm.config import ConfigError, did_you_mean
from treelstm.trees.forest import Forest
from treelstm.trees.vocabulary import LIST, ROLE, key_of, value_of

LONGEST_NAME = 60  # characters; figures cut it to what fits
_SUBTREES = 200_000  # that are looked at, at most


def label_keys(forest: Forest, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The keys that name a node, by the first of them that it has: `given`, else chosen from the data.

    One key says what kind a node is: of those that most nodes have, the one with the fewest values, but
    at least four (`type`, `upos`). Keys that tell more about the nodes that have them come before it
    (`word`, `id`), the others after it, for nodes without it. Keys of numbers, of ids, of true and
    false, of long texts and of one value name nothing.

    Raises:
        ConfigError: no node has a given key.
    """
    if given is not None:
        known = sorted({key_of(symbol) for symbol in forest.symbols if not _is_place(symbol)})
        for key in (key for key in given if key not in known):
            words = f"label_keys names {key!r}, which no node of these trees has"
            raise ConfigError(f"{words}. {did_you_mean(key, known)}Their keys are {', '.join(known)}.")
        return tuple(given)
    subtrees = range(0, len(forest.height), 1 + len(forest.height) // _SUBTREES)
    found = _values_by_key(forest, subtrees)
    if not found:
        return ()
    most = max(map(len, found.values()))
    different = {key: len({*of.values()}) for key, of in found.items() if len(of) > 0.95 * most}
    kind = min(different, key=lambda key: (different[key] < 4, different[key]))
    kinds = found[kind]
    tells = {k: _entropy(of.values()) - _entropy(map(kinds.get, of)) for k, of in found.items()}
    named, chosen = set[int](), list[str]()
    for key in sorted(found, key=lambda key: (-tells[key], key != kind)):
        if key == kind or len(found[key].keys() - named) * 1000 >= len(subtrees):
            chosen.append(key)
            named |= found[key].keys()
    return tuple(chosen)


def _values_by_key(forest: Forest, subtrees: Sequence[int]) -> dict[str, dict[int, str]]:
    """For each key that can name nodes, the nodes that have it, each with a value."""
    uses = np.maximum(np.bincount(forest.child, minlength=len(forest.height)), 1)
    keys = [None if _is_place(symbol) else key_of(symbol) for symbol in forest.symbols]
    values = [value_of(symbol) for symbol in forest.symbols]
    is_name = [_is_name(value) for value in values]
    digits = [2 * sum(map(str.isdigit, value)) >= len(value) for value in values]
    occurrences = defaultdict[str, list[tuple[int, int]]](list)  # nodes and symbols
    for node in subtrees:
        for symbol in forest.symbol[forest.symbol_ptr[node] : forest.symbol_ptr[node + 1]].tolist():
            if (key := keys[symbol]) is not None:
                occurrences[key].append((node, symbol))
    found = {}
    for key, each in occurrences.items():
        symbols, of = [symbol for _, symbol in each], dict(reversed(each))
        different = len({*symbols})
        ids = np.mean([digits[s] for s in symbols]) > 0.5 and different > 0.8 * uses[[*of]].sum()
        fits = np.mean([is_name[s] for s in symbols]) > 0.05 and len(each) <= 2 * len(of)
        if fits and not ids and different > 1:
            found[key] = {node: values[symbol] for node, symbol in of.items()}
    return found


def _is_place(symbol: str) -> bool:
    """Whether a symbol says where a node is, not what."""
    return symbol == LIST or symbol.startswith(ROLE)


def _is_name(value: str) -> bool:
    """Not a number, a position, true or false, nor long."""
    number = value.lstrip("+-.([")[:1].isdigit()
    return 0 < len(value) <= LONGEST_NAME and value not in ("true", "false") and not number


def _entropy(values: Iterable[str | None]) -> float:
    """Bits that a value tells."""
    share = np.sort([*Counter(values).values()])
    share = share / share.sum()
    return float(-(share * np.log2(share)).sum())
