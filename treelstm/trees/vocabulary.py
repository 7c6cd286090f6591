"""The symbols that an encoder knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from treelstm.trees.forest import Array, Forest, entries

UNKNOWN = "?"  # `key=?` stands for the unknown values of a key, `?` for symbols of unknown keys


class Vocabulary:
    """Symbols that an encoder knows, in a fixed order, with one unknown symbol per key.

    Known symbols come first (by frequency, then alphabetically), then `key=?` for each key, then `?`
    for symbols whose key is unknown. The order of the trees does not matter.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}

    @classmethod
    def of(cls, forest: Forest, trees: Array) -> Vocabulary:
        """The vocabulary of `trees`; repeated trees count once."""
        _, first = np.unique(forest.root[trees], return_index=True)
        subtrees = forest.tree_subtrees[entries(forest.tree_ptr, trees[first])[0]]
        trees_with = np.bincount(subtrees, minlength=len(forest.height))  # each subtree
        weights = np.repeat(trees_with, np.diff(forest.symbol_ptr))
        frequency = np.bincount(forest.symbol, weights, minlength=len(forest.symbols))
        known = [int(i) for i in np.argsort(-frequency, kind="stable") if frequency[i] > 0]
        keys = sorted({key_of(forest.symbols[i]) for i in known})
        return cls([forest.symbols[i] for i in known] + [f"{key}={UNKNOWN}" for key in keys] + [UNKNOWN])

    def __len__(self) -> int:
        return len(self.symbols)

    def ids(self, symbols: Sequence[str]) -> Array:
        """[len(symbols)] id of each symbol, or of its key's unknown symbol if it is not known."""
        last = len(self.symbols) - 1
        get = self._ids.get
        ids = [get(symbol, get(f"{key_of(symbol)}={UNKNOWN}", last)) for symbol in symbols]
        return np.array(ids, np.int64)

    def is_unknown(self, ids: Array) -> Array:
        """True for the ids of unknown symbols."""
        keys = len({key_of(symbol) for symbol in self.symbols[:-1]})
        return ids >= len(self.symbols) - 1 - keys


def key_of(symbol: str) -> str:
    """The key of a symbol `key=value`."""
    return symbol.partition("=")[0]
