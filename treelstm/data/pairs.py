"""Labelled pairs of trees, and the corpus of a run.

Shapes: P pairs, T trees.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from treelstm.trees.arrays import Array, entries
from treelstm.trees.check import check_forest, require, within
from treelstm.trees.forest import Forest
from treelstm.trees.vocabulary import Vocabulary

# Stem of a pair file -> label of its pairs; None: each pair says its own.
FILES = {"positive_pairs": 1, "negative_pairs": 0, "pairs": None}


def label_of_file(path: Path) -> int | None:
    """The label that a pair file's name gives its pairs."""
    return FILES[path.name.partition(".")[0]]


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs of trees of one forest; an array of indices selects some of them."""

    forest: Forest
    first: Array  # [P] tree numbers
    second: Array  # [P] tree numbers
    label: Array  # [P] 1 similar, 0 dissimilar, -1 not labelled
    similarity: Array  # [P] float64, NaN if the file gives none
    file: Array  # [P] number of the pair's file among `paths`
    line: Array  # [P] line number in the file, from 1
    sentences: tuple[str | None, ...]  # [T] None if the file gives none
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
        return replace(self, **{name: getattr(self, name)[indices] for name in PAIR_ARRAYS})

    def check(self) -> None:
        """Raises ValueError unless the arrays fit each other and the forest, as compiled ones do."""
        check_forest(self.forest)
        places = len(self.forest.place) == len(self.forest.child) * self.child_order
        require(places, "children have places without child_order, or none with it")
        trees, columns = len(self.forest), [getattr(self, name) for name in PAIR_ARRAYS]
        require({len(column) for column in columns} == {len(self)}, "columns differ in length")
        require(len(self.sentences) == trees, "there is not one sentence for each tree")
        require(within(self.trees, trees), "a pair has a tree that does not exist")
        require(bool(np.isin(self.label, (-1, 0, 1)).all()), "a label is not 1, 0 or -1")
        require(within(self.file, len(self.paths)), "a pair has a file that does not exist")
        of_files = np.array([label_of_file(path) for path in self.paths], float)[self.file]
        agree = np.isnan(of_files) | (of_files == self.label)
        require(bool(agree.all()), "a label is not that of its file")
        require(not np.isinf(self.similarity).any(), "a similarity is infinite")
        require(bool((self.line > 0).all()), "a line number is not positive")

    @property
    def content_digest(self) -> str:
        """SHA-256 of trees, labels and similarities in their order, however the files hold them."""
        digest, trees = hashlib.sha256(), self.forest.tree_digest
        for part in (trees[self.first], trees[self.second], self.label, self.similarity):
            digest.update(part.tobytes())
        return digest.hexdigest()

    @property
    def trees(self) -> Array:
        """[2 P] tree numbers of all pairs: the first trees, then the second ones."""
        return np.concatenate((self.first, self.second))

    @property
    def of_two_trees(self) -> Array:
        """[P] whether the trees of a pair differ."""
        return np.asarray(self.forest.root[self.first] != self.forest.root[self.second])

    @property
    def has_classes(self) -> bool:
        """Whether every pair is labelled, and both classes are there."""
        return bool((self.label >= 0).all()) and len(np.unique(self.label)) == 2

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
        training = self.training.forest.tree_digest[self.training.trees]
        validation = np.unique(self.validation.forest.tree_digest[self.validation.trees])
        return float(np.isin(validation, training).mean())

    @property
    def unknown_share(self) -> float:
        """Share of the symbols in the distinct validation trees that do not occur in training."""
        forest = self.validation.forest
        trees = np.unique(self.validation.trees)
        subtrees = forest.tree_subtrees[entries(forest.tree_ptr, trees)[0]]
        symbols = forest.symbol[entries(forest.symbol_ptr, subtrees)[0]]
        unknown = self.vocabulary.is_unknown(self.vocabulary.ids(forest.symbols))
        return float(unknown[symbols].mean())
