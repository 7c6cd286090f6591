"""Labelled pairs of trees, and the corpus of a run.

Shapes: P pairs, T trees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from treelstm.data.files import label_of_file
from treelstm.trees.arrays import Array, entries, pieces
from treelstm.trees.check import check_forest, check_texts, require, within
from treelstm.trees.forest import Forest
from treelstm.trees.vocabulary import Vocabulary

_AT_ONCE = 2**18  # pairs; bounds the memory


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs of trees of one forest; an array of indices selects some of them."""

    forest: Forest
    first: Array  # [P] tree numbers
    second: Array  # [P] tree numbers
    label: Array  # [P] 1 similar, 0 dissimilar, -1 not labelled
    similarity: Array  # [P] float64, NaN if the file gives none; one number seen P times if none does
    file: Array  # [P] number of the pair's file among `paths`
    line: Array  # [P] line number in the file, from 1
    sentences: Sequence[str | None]  # [T] None if the file gives none
    paths: tuple[Path, ...]  # the files
    fingerprint: dict[str, str]  # file name -> SHA-256 of its bytes
    ignored_keys: tuple[str, ...]  # of the ASTs that were left out of the trees
    child_order: bool  # whether the order of lists was kept

    def __repr__(self) -> str:
        similar = int((self.label == 1).sum())
        return f"{len(self):,} pairs ({similar:,} similar) of {self.paths[0].parent}"

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, indices: Array) -> Pairs:
        columns = {name: getattr(self, name)[indices] for name in PAIR_ARRAYS if name != "similarity"}
        if self.similarity.strides == (0,):  # it takes no memory, and should not
            similarity = np.broadcast_to(self.similarity[:1], columns["label"].shape)
        else:
            similarity = self.similarity[indices]
        return replace(self, similarity=similarity, **columns)

    def check(self, thorough: bool) -> None:
        """Raises ValueError unless all numbers lie within the arrays that they point into; `thorough`:
        unless the arrays are in all as compiled ones are.
        """
        check_forest(self.forest, thorough)
        places = len(self.forest.place) == len(self.forest.child) * self.child_order
        require(places, "children have places without child_order, or none with it")
        trees, columns = len(self.forest), [getattr(self, name) for name in PAIR_ARRAYS]
        require({len(column) for column in columns} == {len(self)}, "columns differ in length")
        require(len(self) > 0, "there are no pairs")
        require(len(self.sentences) == trees, "there is not one sentence for each tree")
        check_texts("sentences", self.sentences)
        both = within(self.first, trees) and within(self.second, trees)
        require(both, "a pair has a tree that does not exist")
        require(within(self.label, 2, start=-1), "a label is not 1, 0 or -1")
        require(within(self.file, len(self.paths)), "a pair has a file that does not exist")
        if not thorough:
            return
        for _ in self.sentences:  # each is decoded
            pass
        of_files = np.array([label_of_file(path) for path in self.paths], float)[self.file]
        agree = np.isnan(of_files) | (of_files == self.label)
        require(bool(agree.all()), "a label is not that of its file")
        require(not np.isinf(self.similarity).any(), "a similarity is infinite")
        require(bool((self.line > 0).all()), "a line number is not positive")

    @property
    def content_digest(self) -> str:
        """SHA-256 of trees, labels and similarities in their order, however the files hold them."""
        digest, trees = hashlib.sha256(), self.forest.tree_digest
        for numbers in (self.first, self.second):
            for some in pieces(numbers, _AT_ONCE):
                digest.update(trees[some].tobytes())
        for column, kind in ((self.label, np.int64), (self.similarity, np.float64)):
            for some in pieces(column, _AT_ONCE):
                digest.update(some.astype(kind).tobytes())
        return digest.hexdigest()

    @property
    def trees(self) -> Array:
        """[2 P] tree numbers of all pairs: the first trees, then the second ones."""
        return np.concatenate((self.first, self.second))

    @property
    def distinct(self) -> Array:
        """Numbers of the distinct trees of all pairs."""
        return self.forest.distinct(self.first, self.second)

    @property
    def of_two_trees(self) -> Array:
        """[P] whether the trees of a pair differ."""
        return np.asarray(self.forest.root[self.first] != self.forest.root[self.second])

    @cached_property
    def similar_roots(self) -> csr_array:
        """[N, N] whether some pair labels two distinct subtrees, its trees' roots, as similar."""
        similar, count = self.label == 1, len(self.forest.height)
        first, second = (self.forest.root[trees[similar]] for trees in (self.first, self.second))
        return csr_array((np.ones(len(first), bool), (first, second)), (count, count))

    @property
    def has_classes(self) -> bool:
        """Whether every pair is labelled, and both classes are there."""
        return bool((self.label >= 0).all()) and 0 < int((self.label == 1).sum()) < len(self)

    @property
    def has_grades(self) -> bool:
        """Whether similarities are given, and differ, so that distances can be compared with them."""
        given = self.similarity[~np.isnan(self.similarity)]
        return len(given) > 2 and np.ptp(given) > 0

    @property
    def in_words(self) -> str:
        """How many pairs there are of each kind."""
        if self.has_classes:
            return f"{len(self):,} pairs, majority rate {self.majority_rate:.3f}"
        counts = {"similar": 1, "dissimilar": 0, "not labelled": -1}
        parts = [f"{(self.label == label).sum():,} {name}" for name, label in counts.items()]
        return f"{len(self):,} pairs, {', '.join(parts)}"

    @property
    def majority_rate(self) -> float:
        """Accuracy of always predicting the more frequent class."""
        similar = float(self.label.mean())
        return max(similar, 1 - similar)

    def kind(self, pair: int) -> str:
        """Its label in words, or its similarity."""
        label = int(self.label[pair])
        return ("dissimilar", "similar", f"similarity {self.similarity[pair]:g}")[label]

    def where(self, pair: int) -> str:
        """File and line of a pair, as text."""
        return f"{self.paths[int(self.file[pair])]}:{self.line[pair]}"


PAIR_ARRAYS = [column.name for column in fields(Pairs) if column.type == "Array"]


@dataclass(frozen=True)
class Corpus:
    """The training and validation data of a run."""

    training: Pairs
    validation: Pairs
    vocabulary: Vocabulary
    fingerprint: dict[str, str]

    @cached_property
    def content_digest(self) -> dict[str, str]:
        """Of the training and of the validation pairs; computed once."""
        training, validation = self.training.content_digest, self.validation.content_digest
        return {"training": training, "validation": validation}

    @property
    def overlap(self) -> float:
        """Share of the distinct validation trees that also occur in training."""
        both = self.training, self.validation
        training, validation = ({*each.forest.tree_digest[each.distinct].tolist()} for each in both)
        return len(validation & training) / len(validation)

    @property
    def unknown_share(self) -> float:
        """Share of the symbols in the distinct validation trees that do not occur in training."""
        forest = self.validation.forest
        subtrees = forest.tree_subtrees[entries(forest.tree_ptr, self.validation.distinct)[0]]
        symbols = forest.symbol[entries(forest.symbol_ptr, subtrees)[0]]
        unknown = self.vocabulary.is_unknown(self.vocabulary.ids(forest.symbols))
        return float(unknown[symbols].mean())
