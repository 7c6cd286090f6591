"""Many trees and their encodings: to search in, and as files for other tools.

Shapes: n trees, O output.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from treelstm.data.pairs import Pairs
from treelstm.data.problems import DataError, Problems, data_error
from treelstm.data.readers.formats import as_json, iterate_trees
from treelstm.data.readers.source import Tree
from treelstm.data.reading import digest_of
from treelstm.errors import UserError
from treelstm.evaluation import distinct_trees
from treelstm.files import clear_leftovers, whole_file
from treelstm.model.encoder import TreeEncoder, distances
from treelstm.sealed import CheckpointError, read_sealed, write_sealed
from treelstm.trees.arrays import Array, npy_header
from treelstm.trees.asts import ast_of
from treelstm.trees.builder import TreeError

_FORMAT = 1  # raised whenever what is kept beside a file changes
_ROWS = 2**16  # distances computed at once; bounds the memory
_OLD = 3600.0  # seconds: what a killed process left is that old

_Block = tuple[list[tuple[str, str | None]], Tensor, Array]  # ids and sentences, encodings, digests


class NotATree(UserError, ValueError):
    """What was given leads to no tree; says where, and what to do."""


class Neighbour(NamedTuple):
    """A tree of a collection, and how far it is from another one."""

    number: int
    id: str
    sentence: str | None
    distance: float


@dataclass(frozen=True)
class Collection:
    """Trees with their encodings, to ask for the nearest ones; see `load_collection`, `of_pairs`."""

    encoder: TreeEncoder
    ids: Sequence[str]
    sentences: Sequence[str | None]
    vectors: Tensor  # float32 [n, O], on the CPU
    digests: Array  # [n] of the trees as the encoder reads them: equal trees have equal ones
    ast: Callable[[int], dict[str, Any]]  # the tree of a number, from 0
    about: str  # which trees these are, and whether their encodings are kept

    @classmethod
    def of_pairs(cls, pairs: Pairs, encoder: TreeEncoder) -> Self:
        """The distinct trees of pairs that were read as the encoder reads trees."""
        forest, numbers = pairs.forest, distinct_trees(pairs)[0].tolist()
        return cls(
            encoder,
            ids=[*map(str, range(len(numbers)))],
            sentences=[pairs.sentences[tree] for tree in numbers],
            vectors=encoder.encode_trees(forest, numbers).cpu(),
            digests=forest.tree_digest[numbers],
            ast=lambda number: ast_of(forest, numbers[number]),
            about=f"{len(numbers):,} distinct trees of {pairs}",
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return self.about

    @cached_property
    def _number(self) -> dict[str, int]:
        return {own: number for number, own in enumerate(self.ids)}

    def find(self, name: int | str) -> int | None:
        """The number of the tree of an id, else of a position, from 0; None if there is none."""
        if isinstance(name, str) and (number := self._number.get(name)) is not None:
            return number
        at = int(name) if isinstance(name, int) or name.isdecimal() else -1
        return at if 0 <= at < len(self) else None

    def nearest(self, tree: int | str | Mapping[str, Any], count: int = 5) -> list[Neighbour]:
        """The nearest trees to one of these (its id, or its position from 0), which is not among them,
        or to an AST; equally near ones in their order. Equal trees have distance 0.

        Raises:
            NotATree: no tree has this id or position.
            TreeError: the AST is no tree.
        """
        if isinstance(tree, Mapping):
            own, (forest,) = None, self.encoder.forests([tree])
            vector, digest = self.encoder.encode_trees(forest, [0]).cpu(), forest.tree_digest[0]
        elif (own := self.find(tree)) is None:
            ends = f"{self.ids[0]!r} to {self.ids[-1]!r}"
            raise NotATree(f"no tree has the id or position {tree!r}. Their ids are {ends}. Correct it.")
        else:
            vector, digest = self.vectors[own : own + 1], self.digests[own]
        parts = [distances(each, vector) for each in self.vectors.split(_ROWS)]
        distance = torch.cat(parts).numpy()
        # Computed in another batch, the encoding of an equal tree may differ in its last bits.
        distance[self.digests == digest] = 0
        order = np.argsort(distance, kind="stable")[: count + 1].tolist()
        found = [number for number in order if number != own][:count]
        return [Neighbour(n, self.ids[n], self.sentences[n], float(distance[n])) for n in found]


def load_collection(path: Path | str, encoder: TreeEncoder, format: str | None = None) -> Collection:
    """The trees of a file, of any format that `read_trees` takes, encoded once.

    The encodings are kept beside the file as `.NAME.vectors.pt`, and made again where file or encoder
    are others, or what is kept is damaged. Where they cannot be kept, `about` says why.

    Raises:
        DataError: the file cannot be read, or an AST is no tree; names the lines.
        FormatError: there is no such format.
    """
    path = Path(path)
    kept = path.with_name(f".{path.name}.vectors.pt")
    key = _key(path, encoder, format)
    said = f"their encodings are kept in {kept.name}"
    if (found := _kept(kept, key)) is None:
        blocks = [*encoded(encoder, iterate_trees([path], format))]
        rows = [row for each, _, _ in blocks for row in each]
        found = {
            "key": key,
            "vectors": torch.cat([each for _, each, _ in blocks]),
            "digests": b"".join(each.tobytes() for _, _, each in blocks).decode(),
            "ids": [own for own, _ in rows],
            "sentences": [sentence for _, sentence in rows],
        }
        try:
            clear_leftovers(kept.parent, kept.name.__eq__, _OLD)
            if key == _key(path, encoder, format):  # it has not changed while it was read
                write_sealed(kept, found)
        except OSError as error:
            said = f"their encodings cannot be kept beside them ({error})"
    return Collection(
        encoder,
        found["ids"],
        found["sentences"],
        found["vectors"],
        digests=np.frombuffer(found["digests"].encode(), "S32"),
        ast=lambda number: next(islice(iterate_trees([path], format), number, None)).ast,
        about=f"{len(found['ids']):,} trees of {path}; {said}",
    )


def _key(path: Path, encoder: TreeEncoder, format: str | None) -> str:
    """Names the content of a file, the encoder, and how it reads and computes."""
    try:
        digest = digest_of(path)
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise data_error(path, found, "Name a file of trees") from error
    known, on = encoder.vocabulary, encoder.embedding.device.type
    how = [_FORMAT, digest, format, encoder.settings.to_dict(), known.symbols, known.typed]
    key = hashlib.sha256(json.dumps([*how, torch.__version__, on]).encode())
    for tensor in encoder.state_dict().values():
        key.update(tensor.cpu().contiguous().numpy().tobytes())
    return key.hexdigest()


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    """What is kept beside a file, if it is whole and of this key."""
    try:
        found = read_sealed(path)
    except CheckpointError:  # there is none, or it is damaged
        return None
    return found if found.get("key") == key else None


def encoded(encoder: TreeEncoder, trees: Iterable[Tree]) -> Iterator[_Block]:
    """The encodings of a stream of trees, in blocks of bounded memory: joined, they are what
    `encoder.encode` gives, to the bit.

    Raises:
        DataError: an AST is no tree; names its file and line.
    """
    rows, last = list[tuple[str, str | None]](), list[Tree]()

    def asts() -> Iterator[Any]:
        for tree in trees:
            rows.append((tree.id, tree.sentence))
            last[:] = [tree]
            yield tree.ast

    try:
        for forest in encoder.forests(asts()):
            vectors = encoder.encode_trees(forest, np.arange(len(forest))).cpu()
            yield rows[:], vectors, forest.tree_digest
            rows.clear()
    except TreeError as error:
        found = "the tree" + str(error).partition("]")[2].removesuffix(". Correct or remove it.")
        problems = Problems()
        problems.add(last[0].file, last[0].line, found, "Correct or remove it")
        raise DataError(problems) from error


def write_vectors(path: Path, encoder: TreeEncoder, trees: Iterable[Tree]) -> tuple[int, Path]:
    """Writes encodings as a float32 [n, O] .npy file; beside it, as `NAME.ids.jsonl`, a line with the
    id and the sentence of each; how many, and the second path. Both are whole, or not written.

    Raises DataError as `encoded`, WriteFailed as `whole_file`.
    """
    size, count, beside = encoder.settings.output_dim, 0, path.with_suffix(".ids.jsonl")
    begin = npy_header(np.dtype("<f4"), 0, size)
    with whole_file(path) as file, whole_file(beside) as names:
        file.write(begin)
        for rows, vectors, _ in encoded(encoder, trees):
            count += len(rows)
            file.write(vectors.numpy().astype("<f4", copy=False).tobytes())
            for own, sentence in rows:
                says = {} if sentence is None else {"sentence": sentence}
                names.write(as_json({"id": own, **says}) + b"\n")
        header = npy_header(np.dtype("<f4"), count, size)
        assert len(header) == len(begin)  # numpy leaves room for a number of any length
        file.seek(0)
        file.write(header)
    return count, beside
