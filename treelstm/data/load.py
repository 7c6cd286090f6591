"""Pair files: read, check, compile once, split.

A directory holds `positive_pairs.jsonl` and `negative_pairs.jsonl`, plain or gzipped (`.jsonl.gz`),
one pair per line. The problems of all files are collected and reported in one error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from treelstm.config import Config, EncoderSettings, require_config
from treelstm.data.pairs import Corpus, DataError, Pairs, Problems, data_error
from treelstm.data.reading import REPAIR, digest_of, read_jsonl
from treelstm.data.store import read_store, write_store
from treelstm.files import is_there
from treelstm.randomness import SPLIT, generator
from treelstm.trees.builder import ForestBuilder, TreeError
from treelstm.trees.vocabulary import Vocabulary

CLASSES = {"positive_pairs": 1, "negative_pairs": 0}  # file stem -> label
_ENDINGS = (".jsonl", ".jsonl.gz")
_PARSE_AGAIN = "Parse the sentence again or remove the line"


def load_corpus(config: Config) -> Corpus:
    """Training and validation pairs of a run, and the vocabulary of the training trees.

    Raises:
        DataError: files are missing, damaged or too small to split; the message lists the problems.
    """
    require_config(config)
    training = _load(config.data_path, config.ignored_keys, "data_dir")
    fingerprint = {f"training/{name}": sha for name, sha in training.fingerprint.items()}
    if config.validation_path is None:
        training, validation = _split(training, config)
    else:
        validation = _load(config.validation_path, config.ignored_keys, "validation_dir")
        fingerprint |= {f"validation/{name}": sha for name, sha in validation.fingerprint.items()}
    if config.objective == "ranking":
        training = training[np.flatnonzero(training.label == 1)]
    return Corpus(training, validation, Vocabulary.of(training.forest, training.trees), fingerprint)


def _split(pairs: Pairs, config: Config) -> tuple[Pairs, Pairs]:
    """A stratified split: the same share of each class, drawn from the seed alone."""
    held_out = np.zeros(len(pairs), bool)
    for label, path in pairs.paths.items():
        members = np.flatnonzero(pairs.label == label)
        take = max(1, round(config.validation_fraction * len(members)))
        if take >= len(members):
            text = f"holds {len(members)} pair(s), too few to hold out validation_fraction="
            text += f"{config.validation_fraction} and train on the rest"
            raise data_error(path, text, "Add pairs or set validation_dir")
        order = torch.randperm(len(members), generator=generator(config.seed, SPLIT, label))
        held_out[members[order[:take].numpy()]] = True
    return pairs[np.flatnonzero(~held_out)], pairs[np.flatnonzero(held_out)]


def load_pairs(
    directory: Path | str, ignored_keys: tuple[str, ...] = EncoderSettings.ignored_keys
) -> Pairs:
    """All pairs of `directory`: from the cache, or compiled if files or ignored keys have changed.

    Raises:
        DataError: the files cannot be used; the message lists the problems.
        ConfigError: `ignored_keys` is not a list of texts.
    """
    ignored_keys = EncoderSettings(ignored_keys=ignored_keys).ignored_keys  # checks them
    return _load(Path(directory), ignored_keys)


def _load(directory: Path, ignored_keys: tuple[str, ...], setting: str = "") -> Pairs:
    paths, fingerprint = pair_files(directory, setting), {}
    for path in paths.values():
        try:
            fingerprint[path.name] = digest_of(path)
        except OSError as error:
            raise _unreachable(path, error) from error
    source = {"paths": paths, "fingerprint": fingerprint, "ignored_keys": ignored_keys}
    pairs = read_store(directory, source)
    if pairs is None:
        pairs = _compile(paths, ignored_keys)  # the files may have changed: it takes digests of its own
        write_store(directory, pairs)
    return pairs


def _unreachable(path: Path, error: OSError) -> DataError:
    found = f"cannot be read ({error.strerror})"
    return data_error(path, found, "Correct that, then run the same command again")


def pair_files(directory: Path | str, setting: str = "") -> dict[int, Path]:
    """The file of each label.

    Raises:
        DataError: one is missing or cannot be looked for; names `setting`, which leads to the directory.
    """
    directory, problems, paths = Path(directory), Problems(), {}
    try:
        if not directory.is_dir():
            todo = f"Set {setting} to where its pairs are now" if setting else "Put pair files there"
            todo += ", or make a sample: python -m treelstm sample --data-dir DIR"
            is_file = is_there(directory)
            text = "is a file, expected a directory" if is_file else "no such directory"
            raise data_error(directory, text, todo)
        names = [[directory / f"{stem}{ending}" for ending in _ENDINGS] for stem in CLASSES]
        there = [[path for path in both if is_there(path)] for both in names]
    except OSError as error:
        raise _unreachable(Path(error.filename), error) from error
    for label, both, found in zip(CLASSES.values(), names, there, strict=True):
        if len(found) == 1:
            paths[label] = found[0]
        elif found:
            problems.add(found[0], 0, f"{found[1].name} is there too", "Keep one of the two")
        else:
            absent = f"no such file, nor {_ENDINGS[1]}"
            problems.add(both[0], 0, absent, "Both classes are needed: add it")
    if problems.count:
        raise DataError(problems)
    return paths


def _compile(paths: dict[int, Path], ignored_keys: tuple[str, ...]) -> Pairs:
    problems, fingerprint = Problems(), dict[str, str]()
    builder = ForestBuilder(ignored_keys)
    rows: list[tuple[int, float | None, int]] = []  # label, similarity, line
    sentences: list[str | None] = []
    for label, path in paths.items():
        before = problems.count, len(rows)
        for line, record in read_jsonl(path, problems, fingerprint):
            found = list(_record_problems(record, label, builder))
            for problem in found:
                problems.add(path, line, *problem)
            if not found:
                rows.append((label, record.get("similarity"), line))
                sentences += [record["ast1"].get("sentence"), record["ast2"].get("sentence")]
        if before == (problems.count, len(rows)):
            problems.add(path, 0, "holds no pairs", "Both classes are needed: add pairs")
    if problems.count:
        raise DataError(problems)
    labels, similarities, lines = zip(*rows, strict=True)
    return Pairs(
        forest=builder.forest(),
        first=np.arange(0, 2 * len(rows), 2),
        second=np.arange(1, 2 * len(rows), 2),
        label=np.array(labels, np.int64),
        similarity=np.array(similarities, np.float64),  # None becomes NaN
        line=np.array(lines, np.int64),
        sentences=tuple(sentences),
        paths=paths,
        fingerprint=fingerprint,
        ignored_keys=ignored_keys,
    )


def _record_problems(
    record: dict[str, Any], label: int, builder: ForestBuilder
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
    found = record.get("label")
    if isinstance(found, bool) or found != label:
        found = f"label is {json.dumps(found)[:40]}" if "label" in record else "label is missing"
        yield f"{found}, but the file's name says {label}", "Correct the label or move the line"
    similarity = record.get("similarity")
    if isinstance(similarity, int) and abs(similarity) > sys.float_info.max:
        yield "similarity is too large a number", "Correct or remove it"
    elif isinstance(similarity, bool) or not isinstance(similarity, int | float | None):
        yield "similarity is not a number", "Correct or remove it"
