"""Which keys of the ASTs name a node in figures and tables."""

from collections.abc import Sequence

import numpy as np

from treelstm.config import ConfigError, did_you_mean
from treelstm.trees.forest import Array, Forest, entries
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
    found, nodes = _values_by_key(forest)
    if not found:
        return ()
    most = max(len(having) for having, _ in found.values())
    different = {k: len(np.unique(v)) for k, (having, v) in found.items() if len(having) > 0.95 * most}
    kind = min(different, key=lambda key: (different[key] < 4, different[key]))
    kinds = np.full(nodes, -1)
    kinds[found[kind][0]] = found[kind][1]
    tells = {key: _entropy(values) - _entropy(kinds[having]) for key, (having, values) in found.items()}
    named, chosen = np.zeros(nodes, bool), list[str]()
    for key in sorted(found, key=lambda key: (-tells[key], key != kind)):
        having = found[key][0]
        if key == kind or np.sum(~named[having]) * 1000 >= nodes:
            chosen.append(key)
            named[having] = True
    return tuple(chosen)


def _values_by_key(forest: Forest) -> tuple[dict[str, tuple[Array, Array]], int]:
    """For each key that can name nodes: nodes that have it, and a value of each; the number of nodes."""
    subtrees = np.arange(0, len(forest.height), 1 + len(forest.height) // _SUBTREES)
    uses = np.maximum(np.bincount(forest.child, minlength=len(forest.height))[subtrees], 1)
    positions, each = entries(forest.symbol_ptr, subtrees)
    node = np.repeat(np.arange(len(subtrees)), each)
    symbols, value = np.unique(forest.symbol[positions], return_inverse=True)
    texts = [forest.symbols[symbol] for symbol in symbols.tolist()]
    values = list(map(value_of, texts))
    numbers: dict[str | None, int] = {}
    keys = [None if _is_place(text) else key_of(text) for text in texts]
    key = np.array([numbers.setdefault(each, len(numbers)) for each in keys], np.int64)[value]
    is_name = np.array(list(map(_is_name, values)), bool)[value]
    digits = np.array([2 * sum(map(str.isdigit, text)) >= len(text) for text in values], bool)[value]
    parts = np.split(np.argsort(key, kind="stable"), np.cumsum(np.bincount(key))[:-1])
    found = {}
    for name, part in zip(numbers, parts, strict=True):
        having, first = np.unique(node[part], return_index=True)
        different = len(np.unique(value[part]))
        ids = digits[part].mean() > 0.5 and different > 0.8 * uses[having].sum()
        fits = is_name[part].mean() > 0.05 and len(part) <= 2 * len(having)
        if name is not None and fits and not ids and different > 1:
            found[name] = (having, value[part][first])
    return found, len(subtrees)


def _is_place(symbol: str) -> bool:
    """Whether a symbol says where a node is, not what."""
    return symbol == LIST or symbol.startswith(ROLE)


def _is_name(value: str) -> bool:
    """Not a number, a position, true or false, nor long."""
    number = value.lstrip("+-.([")[:1].isdigit()
    return 0 < len(value) <= LONGEST_NAME and value not in ("true", "false") and not number


def _entropy(values: Array) -> float:
    """Bits that a value tells."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum())
