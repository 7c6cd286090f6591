"""How symbols are spelled, and which of them an encoder knows.

A symbol is `key=value`. In a key, `\\` and `=` have a backslash before them, and the key "role" is
spelled `\\role`, because `role=key` says where a node hangs. A backslash before a value marks a number
or a boolean (`\\1`, `\\true`), the text `?`, and a text that begins with one. So different keys and
values have different symbols.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from treelstm.trees.arrays import Array, entries

if TYPE_CHECKING:
    from treelstm.trees.forest import Forest  # imports torch

UNKNOWN = "?"  # `key=?` stands for the unknown values of a key, `?` for symbols of unknown keys
ROLE = "role="
LIST = r"\list=\[]"  # the symbol of a list that is an item of a list

_KEY = re.compile(r"(?:[^\\=]+|\\.)*", re.DOTALL)  # up to the first = that has no backslash


def spelled_key(key: str) -> str:
    """The part of a symbol up to its value."""
    return r"\role=" if key == "role" else key.replace("\\", r"\\").replace("=", r"\=") + "="


def spelled_text(text: str) -> str:
    """The value part of a symbol."""
    return f"\\{text}" if text == UNKNOWN or text.startswith("\\") else text


def _key_part(symbol: str) -> str:
    if "\\" not in symbol:  # nearly all: four times faster
        return symbol.partition("=")[0]
    return _KEY.match(symbol)[0]  # type: ignore[index]  # it matches anything


def key_of(symbol: str) -> str:
    """The key of a symbol, as the tree has it."""
    return re.sub(r"\\(.)", r"\1", _key_part(symbol), flags=re.DOTALL)


def value_of(symbol: str) -> str:
    """The value of a symbol, as the tree has it; a number as JSON writes it."""
    return symbol[len(_key_part(symbol)) + 1 :].removeprefix("\\")


def readable(symbol: str) -> str:
    """A symbol without what marks and escapes its parts, to be shown."""
    return f"{key_of(symbol)}={value_of(symbol)}" if symbol != UNKNOWN else symbol


class Vocabulary:
    """Symbols that an encoder knows, in a fixed order, with one unknown symbol per key.

    Known symbols come first (by frequency, then alphabetically), then `key=?` for each key, then `?`
    for symbols whose key is unknown. The order of the trees does not matter.

    `typed=False`: an earlier version spelled these symbols, without marking and escaping anything but
    the text `?`. Symbols of a tree are looked up in the spelling that the vocabulary has.
    """

    def __init__(self, symbols: Sequence[str], typed: bool = True) -> None:
        self.symbols, self.typed = tuple(symbols), typed
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}
        self._known = len(self.symbols) - 1 - len(set(map(_key_part, self.symbols[:-1])))

    @classmethod
    def of(cls, forest: Forest, trees: Array) -> Vocabulary:
        """The vocabulary of `trees`; repeated trees count once."""
        subtrees = forest.tree_subtrees[entries(forest.tree_ptr, forest.distinct(trees))[0]]
        trees_with = np.bincount(subtrees, minlength=len(forest.height))  # each subtree
        weights = np.repeat(trees_with, np.diff(forest.symbol_ptr))
        frequency = np.bincount(forest.symbol, weights, minlength=len(forest.symbols))
        known = [int(i) for i in np.argsort(-frequency, kind="stable") if frequency[i] > 0]
        keys = sorted({_key_part(forest.symbols[i]) for i in known})
        return cls([forest.symbols[i] for i in known] + [f"{key}={UNKNOWN}" for key in keys] + [UNKNOWN])

    def __len__(self) -> int:
        return len(self.symbols)

    def spelled(self, symbols: Sequence[str]) -> Sequence[str]:
        """Symbols of a forest, as this vocabulary spells them."""
        if self.typed:
            return symbols
        return [each if each.endswith(rf"=\{UNKNOWN}") else readable(each) for each in symbols]

    def ids(self, symbols: Sequence[str]) -> Array:
        """[len(symbols)] id of each symbol, or of its key's unknown symbol if it is not known."""
        last, get = len(self.symbols) - 1, self._ids.get
        ids = (
            get(symbol) if symbol in self._ids else get(f"{_key_part(symbol)}={UNKNOWN}", last)
            for symbol in self.spelled(symbols)
        )
        return np.fromiter(ids, np.int64, len(symbols))

    def is_unknown(self, ids: Array) -> Array:
        """True for the ids of unknown symbols."""
        return ids >= self._known
