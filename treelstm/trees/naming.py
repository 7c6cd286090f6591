"""Which keys of the ASTs name a node in figures and tables."""

from collections.abc import Sequence

import numpy as np

from treelstm.config import ConfigError, did_you_mean
from treelstm.trees.arrays import Array, rows_of
from treelstm.trees.forest import Forest
from treelstm.trees.vocabulary import LIST, ROLE, key_of, value_of

LONGEST_NAME = 60  # characters; figures cut it to what fits


def label_keys(forest: Forest, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The keys that name a node, by the first of them that it has: `given`, else chosen from the data.

    The last one says what kind a node is: of those that most nodes have, the one with the fewest values,
    but at least four (`type`, `upos`). Before it come the keys that name nodes which the ones before
    them do not, most values first (`word`, `id`).

    Raises:
        ConfigError: no node has a given key.
    """
    keys = [None if _is_place(symbol) else key_of(symbol) for symbol in forest.symbols]
    if given is not None:
        known = sorted({key for key in keys if key is not None})
        for key in (key for key in given if key not in known):
            words = f"label_keys names {key!r}, which no node of these trees has"
            raise ConfigError(f"{words}. {did_you_mean(key, known)}Their keys are {', '.join(known)}.")
        return tuple(given)
    found = _names_by_key(forest, keys)
    most = max((len(nodes) for nodes, _ in found.values()), default=0)
    kinds = {key: values for key, (nodes, values) in found.items() if len(nodes) > 0.95 * most}
    kind = min(kinds, key=lambda key: (kinds[key] < 4, kinds[key]), default=None)
    named, chosen = np.zeros(len(forest.height), bool), list[str]()
    for key in sorted(found, key=lambda key: (key == kind, -found[key][1])):
        nodes, _ = found[key]
        if key == kind or 1000 * np.count_nonzero(~named[nodes]) >= len(named):
            chosen.append(key)
            named[nodes] = True
    return tuple(chosen)


def _names_by_key(forest: Forest, keys: Sequence[str | None]) -> dict[str, tuple[Array, int]]:
    """The nodes of each key that can name some, and how many values it has there.

    Keys of numbers, of ids, of true and false, of long texts, of one value and of lists name nothing.
    """
    uses = np.maximum(np.bincount(forest.child, minlength=len(forest.height)), 1)
    values = [value_of(symbol) for symbol in forest.symbols]
    is_name = np.array(list(map(_is_name, values)))
    digits = np.array([2 * sum(map(str.isdigit, value)) >= len(value) for value in values])
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    of_key = np.array([number[key] for key in keys])[forest.symbol]
    order = np.argsort(of_key, kind="stable")
    node = rows_of(forest.symbol_ptr)[order]
    ends = np.searchsorted(of_key[order], np.arange(1, len(number)))
    found = {}
    for key, mine, symbols in zip(
        number, np.split(node, ends), np.split(forest.symbol[order], ends), strict=True
    ):
        nodes, different = np.unique(mine), len(np.unique(symbols))
        ids = digits[symbols].mean() > 0.5 and different > 0.8 * uses[nodes].sum()
        fits = is_name[symbols].mean() > 0.05 and len(mine) <= 2 * len(nodes)
        if key is not None and fits and not ids and different > 1:
            found[key] = nodes, different
    return found


def _is_place(symbol: str) -> bool:
    """Whether a symbol says where a node is, not what."""
    return symbol == LIST or symbol.startswith(ROLE)


def _is_name(value: str) -> bool:
    """Not a number, a position, true or false, nor long."""
    number = value.lstrip("+-.([")[:1].isdigit()
    return 0 < len(value) <= LONGEST_NAME and value not in ("true", "false") and not number
