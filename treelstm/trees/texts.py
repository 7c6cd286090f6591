"""Many texts as bytes and pointers, decoded when they are used, so that they can lie in mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import eq
from typing import Any

import numpy as np

from treelstm.trees.arrays import Array


class Texts(Sequence[Any]):
    """Equal to a tuple of the same texts; None where `there` says that one is missing."""

    def __init__(self, data: Array, pointers: Array, there: Array | None = None) -> None:
        self.data, self.pointers = data, pointers  # text i is data[pointers[i]:pointers[i + 1]]
        self.there = there  # [texts]

    def __len__(self) -> int:
        return len(self.pointers) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(len(self))[index])
        index = range(len(self))[index]
        if self.there is not None and not self.there[index]:
            return None
        return _decoded(self.data[self.pointers[index] : self.pointers[index + 1]])

    def __iter__(self) -> Iterator[Any]:
        data, there = self.data.data, self.there
        there = np.ones(len(self), bool) if there is None else there
        for (start, end), is_there in zip(pairwise(self.pointers.tolist()), there.tolist(), strict=True):
            yield _decoded(data[start:end]) if is_there else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Texts | tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))


def _decoded(raw: Any) -> str:
    return bytes(raw).decode("utf-8", "surrogatepass")
