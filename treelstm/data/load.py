"""The pairs of a directory: compiled once, checked for what the objective needs, split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from treelstm.config import Config, EncoderSettings, require_config
from treelstm.data.files import pair_files
from treelstm.data.pairs import Corpus, Pairs
from treelstm.data.problems import DataError, Problems, data_error
from treelstm.data.store import make_store, open_store
from treelstm.randomness import SPLIT, generator
from treelstm.trees.arrays import Array
from treelstm.trees.vocabulary import Vocabulary


class TooFewPairs(DataError):
    """The files can be used, but not be split."""


def load_corpus(config: Config) -> Corpus:
    """Training and validation pairs of a run, and the vocabulary of the training trees.

    Raises:
        DataError: files are missing, damaged, too small to split or without what the objective needs;
            the message lists the problems.
    """
    require_config(config)
    needed = Needed.by(config)
    training = _load(config.data_path, config, needed, "data_dir")
    fingerprint = {f"training/{name}": sha for name, sha in training.fingerprint.items()}
    if config.validation_path is None:
        training, validation = _split(training, config)
        needed.check(training, "leaves for training")
        needed.check(validation, "leaves for validation")
    else:
        validation = _load(config.validation_path, config, needed, "validation_dir")
        fingerprint |= {f"validation/{name}": sha for name, sha in validation.fingerprint.items()}
    if config.objective == "ranking":
        training = training[np.flatnonzero(training.label == 1)]
    return Corpus(training, validation, Vocabulary.of(training.forest, training.distinct), fingerprint)


def _split(pairs: Pairs, config: Config) -> tuple[Pairs, Pairs]:
    """A stratified split: the same share of each class, drawn from the seed alone."""
    held_out = np.zeros(len(pairs), bool)
    for label in np.unique(pairs.label).tolist():
        members = np.flatnonzero(pairs.label == label)
        take = max(1, round(config.validation_fraction * len(members)))
        if take >= len(members):
            text = f"holds {len(members)} pair(s), too few to hold out validation_fraction="
            text += f"{config.validation_fraction} and train on the rest"
            path = pairs.paths[pairs.file[members[0]]]
            raise TooFewPairs(data_error(path, text, "Add pairs or set validation_dir").problems)
        order = torch.randperm(len(members), generator=generator(config.seed, SPLIT, label % 3))
        held_out[members[order[:take].numpy()]] = True
    return pairs[np.flatnonzero(~held_out)], pairs[np.flatnonzero(held_out)]


def load_pairs(
    directory: Path | str,
    ignored_keys: tuple[str, ...] = EncoderSettings.ignored_keys,
    objective: str | None = Config.objective,
    child_order: bool = EncoderSettings.child_order,
) -> Pairs:
    """All pairs of `directory`: from the cache, or compiled if files or these settings have changed.

    Raises:
        DataError: the files cannot be used, or lack what `objective` needs ("contrastive": both classes,
            "graded": a similarity for every pair, "ranking": similar pairs, None: nothing); the message
            lists the problems.
        ConfigError: `ignored_keys` is not a list of texts, or `child_order` not True or False.
    """
    settings = EncoderSettings(ignored_keys=ignored_keys, child_order=child_order)  # checks them
    return _load(Path(directory), settings, Needed(objective))


def every_pair(directory: Path, config: Config) -> Pairs:
    """All pairs of `directory`, held out or not, read as the run reads its own. Raises DataError."""
    return load_pairs(directory, config.ignored_keys, config.objective, config.child_order)


@dataclass(frozen=True)
class Needed:
    """What an objective asks of pairs."""

    objective: str | None
    low: float = -math.inf  # of every similarity
    high: float = math.inf

    @classmethod
    def by(cls, config: Config) -> Self:
        return cls(config.objective, config.similarity_low, config.similarity_high)

    def check(self, pairs: Pairs, holds: str = "holds") -> None:
        """Raises DataError where pairs lack a label or a similarity, or have too little to learn from.

        Of the pairs with one problem, it names the first and counts the others.
        """
        problems, reason = Problems(), f'objective="{self.objective}" needs'

        def require(wrong: Array, found: str, remedy: str) -> None:
            """`found` may show the similarity of the first pair that is wrong."""
            if wrong.any():
                first, more = int(np.argmax(wrong)), int(wrong.sum()) - 1
                said = found.format(pairs.similarity[first])
                said += f", and {more:,} more pairs have this problem" if more else ""
                problems.add(pairs.paths[pairs.file[first]], int(pairs.line[first]), said, remedy)

        def require_some(some: bool, found: str, remedy: str) -> None:
            if not some and not problems.count:
                problems.add(pairs.paths[0], 0, f"{holds} {found}", f"{reason} {remedy}")

        similar = pairs.label == 1
        if self.objective == "graded":
            given = pairs.similarity
            one = f"{reason} one from {self.low:g} to {self.high:g}"
            require(np.isnan(given), "similarity is missing", f"{one}: add it")
            outside = (given < self.low) | (given > self.high)
            scale = "correct it, or set similarity_low and similarity_high to the scale of these pairs"
            require(outside, "similarity is {:g}", f"{one}: {scale}")
            span = f"{len(pairs)} pairs with similarities from {given.min():g} to {given.max():g}"
            enough = len(pairs) >= 3 and float(np.ptp(given)) > 0
            require_some(enough, span, "at least 3, which are not all equally similar: add pairs")
        elif self.objective == "contrastive":
            other = 'add 1 or 0; for pairs with similarities only, set objective="graded"'
            require(pairs.label < 0, "label is missing", f"{reason} one: {other}")
            require_some(bool(similar.any()), "no similar pairs", "some: add pairs")
            require_some(bool((pairs.label == 0).any()), "no dissimilar pairs", "some: add pairs")
        elif self.objective == "ranking":
            require_some(bool(similar.any()), "no similar pairs", "some: add pairs with label 1")
            differ = pairs.of_two_trees & similar
            text = "no similar pair of two different trees"
            require_some(bool(differ.any()), text, "some: check that the pairs are the right ones")
        if problems.count:
            raise DataError(problems)


def _load(directory: Path, settings: EncoderSettings, needed: Needed, setting: str = "") -> Pairs:
    paths = pair_files(directory, needed.objective, setting)
    if (pairs := open_store(paths, settings)) is None:
        pairs = make_store(paths, settings)
    needed.check(pairs)
    return pairs
