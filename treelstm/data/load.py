"""Pair files: read, check, compile once, split.

A directory holds `positive_pairs.jsonl` and `negative_pairs.jsonl`, whose names label their pairs, or
`pairs.jsonl`, where each pair has a label, a similarity or both; plain or gzipped (`.jsonl.gz`), one
pair per line. Which of them must be there depends on the objective. The problems of all files are
collected and reported in one error.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from treelstm.config import Config, EncoderSettings, require_config
from treelstm.data.pairs import FILES, Corpus, DataError, Pairs, Problems, data_error, label_of_file
from treelstm.data.reading import REPAIR, digest_of, read_jsonl
from treelstm.data.store import read_store, write_store
from treelstm.files import is_there
from treelstm.randomness import SPLIT, generator
from treelstm.trees.builder import ForestBuilder, TreeError
from treelstm.trees.vocabulary import Vocabulary

_ENDINGS = (".jsonl", ".jsonl.gz")
_PARSE_AGAIN = "Parse the sentence again or remove the line"


def load_corpus(config: Config) -> Corpus:
    """Training and validation pairs of a run, and the vocabulary of the training trees.

    Raises:
        DataError: files are missing, damaged, too small to split or without what the objective needs;
            the message lists the problems.
    """
    require_config(config)
    needed = Needed.by(config)
    training = _load(config.data_path, config.ignored_keys, needed, "data_dir")
    fingerprint = {f"training/{name}": sha for name, sha in training.fingerprint.items()}
    if config.validation_path is None:
        training, validation = _split(training, config)
    else:
        validation = _load(config.validation_path, config.ignored_keys, needed, "validation_dir")
        fingerprint |= {f"validation/{name}": sha for name, sha in validation.fingerprint.items()}
    if config.objective == "ranking":
        training = training[np.flatnonzero(training.label == 1)]
    return Corpus(training, validation, Vocabulary.of(training.forest, training.trees), fingerprint)


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
            raise data_error(path, text, "Add pairs or set validation_dir")
        order = torch.randperm(len(members), generator=generator(config.seed, SPLIT, label % 3))
        held_out[members[order[:take].numpy()]] = True
    return pairs[np.flatnonzero(~held_out)], pairs[np.flatnonzero(held_out)]


def load_pairs(
    directory: Path | str,
    ignored_keys: tuple[str, ...] = EncoderSettings.ignored_keys,
    objective: str = Config.objective,
) -> Pairs:
    """All pairs of `directory`: from the cache, or compiled if files or ignored keys have changed.

    Raises:
        DataError: the files cannot be used, or lack what `objective` needs ("contrastive": both classes,
            "graded": a similarity for every pair, "ranking": similar pairs); the message lists the
            problems.
        ConfigError: `ignored_keys` is not a list of texts.
    """
    ignored_keys = EncoderSettings(ignored_keys=ignored_keys).ignored_keys  # checks them
    return _load(Path(directory), ignored_keys, Needed(objective))


@dataclass(frozen=True)
class Needed:
    """What an objective asks of pairs."""

    objective: str
    low: float = -math.inf  # of every similarity
    high: float = math.inf

    @classmethod
    def by(cls, config: Config) -> Self:
        return cls(config.objective, config.similarity_low, config.similarity_high)

    def lacking(self, stems: Iterable[str]) -> str | None:
        """The stem of a file that is missing, when these are there."""
        if "pairs" in stems or (self.objective == "graded" and stems):
            return None
        needed = ["positive_pairs", "negative_pairs"][: 1 if self.objective == "ranking" else 2]
        return next((stem for stem in needed if stem not in stems), None)

    def check(self, pairs: Pairs) -> None:
        """Raises DataError where pairs lack a label or a similarity, or a class is missing."""
        problems, reason = Problems(), f'objective="{self.objective}" needs'
        if self.objective == "graded":
            with np.errstate(invalid="ignore"):
                wrong = ~((pairs.similarity >= self.low) & (pairs.similarity <= self.high))
            for pair in np.flatnonzero(wrong).tolist():
                value = pairs.similarity[pair]
                found = "similarity is missing" if math.isnan(value) else f"similarity is {value:g}"
                remedy = f"{reason} one from {self.low:g} to {self.high:g} (similarity_low, _high)"
                problems.add(pairs.paths[pairs.file[pair]], int(pairs.line[pair]), found, remedy)
        else:
            classes = {1: "similar"} | ({0: "dissimilar"} if self.objective == "contrastive" else {})
            for label, name in classes.items():
                if not (pairs.label == label).any():
                    problems.add(
                        pairs.paths[0], 0, f"holds no {name} pairs", f"{reason} some: add pairs"
                    )
            if self.objective == "contrastive":
                for pair in np.flatnonzero(pairs.label < 0).tolist():
                    where = pairs.paths[pairs.file[pair]], int(pairs.line[pair])
                    problems.add(*where, "label is missing", f"{reason} one: add 1 or 0")
        if problems.count:
            raise DataError(problems)


def _load(directory: Path, ignored_keys: tuple[str, ...], needed: Needed, setting: str = "") -> Pairs:
    paths, fingerprint = pair_files(directory, needed, setting), {}
    for path in paths:
        try:
            fingerprint[path.name] = digest_of(path)
        except OSError as error:
            raise _unreachable(path, error) from error
    source = {"paths": paths, "fingerprint": fingerprint, "ignored_keys": ignored_keys}
    pairs = read_store(directory, source)
    if pairs is None:
        pairs = _compile(paths, ignored_keys)  # the files may have changed: it takes digests of its own
        write_store(directory, pairs)
    needed.check(pairs)
    return pairs


def _unreachable(path: Path, error: OSError) -> DataError:
    found = f"cannot be read ({error.strerror})"
    return data_error(path, found, "Correct that, then run the same command again")


def pair_files(directory: Path | str, needed: Needed, setting: str = "") -> tuple[Path, ...]:
    """The pair files of a directory.

    Raises:
        DataError: one is missing or cannot be looked for; names `setting`, which leads to the directory.
    """
    directory, problems = Path(directory), Problems()
    try:
        if not directory.is_dir():
            todo = f"Set {setting} to where its pairs are now" if setting else "Put pair files there"
            todo += ", or make a sample: python -m treelstm sample --data-dir DIR"
            is_file = is_there(directory)
            text = "is a file, expected a directory" if is_file else "no such directory"
            raise data_error(directory, text, todo)
        names = {stem: [directory / f"{stem}{ending}" for ending in _ENDINGS] for stem in FILES}
        there = {stem: [path for path in both if is_there(path)] for stem, both in names.items()}
    except OSError as error:
        raise _unreachable(Path(error.filename), error) from error
    found = {stem: paths for stem, paths in there.items() if paths}
    for paths in found.values():
        if len(paths) > 1:
            problems.add(paths[0], 0, f"{paths[1].name} is there too", "Keep one of the two")
    if lacking := needed.lacking(found):
        remedy = f'objective="{needed.objective}" needs it: add it'
        if needed.objective == "contrastive":
            remedy = "Both classes are needed: add it, or pairs.jsonl with labels"
        problems.add(names[lacking][0], 0, f"no such file, nor {_ENDINGS[1]}", remedy)
    if problems.count:
        raise DataError(problems)
    return tuple(paths[0] for paths in found.values())


def _compile(paths: tuple[Path, ...], ignored_keys: tuple[str, ...]) -> Pairs:
    problems, fingerprint = Problems(), dict[str, str]()
    builder = ForestBuilder(ignored_keys)
    rows: list[tuple[int, float | None, int, int]] = []  # label, similarity, file, line
    sentences: list[str | None] = []
    for number, path in enumerate(paths):
        before, label = (problems.count, len(rows)), label_of_file(path)
        for line, record in read_jsonl(path, problems, fingerprint):
            found = list(_record_problems(record, label, builder))
            for problem in found:
                problems.add(path, line, *problem)
            if not found:
                own = record["label"] if record.get("label") is not None else -1
                rows.append((own, record.get("similarity"), number, line))
                sentences += [record["ast1"].get("sentence"), record["ast2"].get("sentence")]
        if before == (problems.count, len(rows)):
            problems.add(path, 0, "holds no pairs", "Add pairs, or remove the file")
    if problems.count:
        raise DataError(problems)
    labels, similarities, files, lines = zip(*rows, strict=True)
    return Pairs(
        forest=builder.forest(),
        first=np.arange(0, 2 * len(rows), 2),
        second=np.arange(1, 2 * len(rows), 2),
        label=np.array(labels, np.int64),
        similarity=np.array(similarities, np.float64),  # None becomes NaN
        file=np.array(files, np.int64),
        line=np.array(lines, np.int64),
        sentences=tuple(sentences),
        paths=paths,
        fingerprint=fingerprint,
        ignored_keys=ignored_keys,
    )


def _record_problems(
    record: dict[str, Any], label: int | None, builder: ForestBuilder
) -> Iterator[tuple[str, str]]:
    """Adds both trees of a record to the forest; yields each problem found, and its remedy."""
    for side in ("ast1", "ast2"):
        if (part := record.get(side)) is None:
            yield f"{side} is missing", REPAIR
        elif not isinstance(part, dict):
            yield f"{side} is not a JSON object", REPAIR
        elif "ast" not in part:
            yield f"{side}.ast is missing", _PARSE_AGAIN
        else:
            if not isinstance(part.get("sentence"), str | None):
                yield f"{side}.sentence is not a string", "Correct or remove it"
            try:
                builder.add(part["ast"])
            except TreeError as error:
                yield f"{side}.ast {error}", _PARSE_AGAIN
    found, similarity = record.get("label"), record.get("similarity")
    allowed = (label,) if label is not None else (0, 1) if similarity is None else (0, 1, None)
    if isinstance(found, bool) or found not in allowed:
        said = f"label is {json.dumps(found)[:40]}" if "label" in record else "label is missing"
        expected = f"the file's name says {label}" if label is not None else "1 or 0 was expected"
        yield f"{said}, but {expected}", "Correct the label or move the line"
    if isinstance(similarity, int) and abs(similarity) > sys.float_info.max:
        yield "similarity is too large a number", "Correct or remove it"
    elif isinstance(similarity, bool) or not isinstance(similarity, int | float | None):
        yield "similarity is not a number", "Correct or remove it"
