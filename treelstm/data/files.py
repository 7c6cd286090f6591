"""Which files of a directory hold its pairs, and the trees that pairs name. Imports no torch.

`positive_pairs` and `negative_pairs`, whose names label their pairs, or `pairs`, where each pair has a
label, a similarity or both; beside `trees`, pairs name their trees by id. Each may lie in one file,
`STEM.jsonl`, and in shards, `STEM-ANYTHING.jsonl`; plain or gzipped, pairs that name trees also `.tsv`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from treelstm.data.problems import DataError, Problems, data_error, unreachable
from treelstm.files import is_there, listed

# Stem of a pair file -> label of its pairs; None: each pair says its own.
FILES = {"positive_pairs": 1, "negative_pairs": 0, "pairs": None}
# The files that an objective needs where there are no pairs.jsonl; any others can do with one of them.
_STEMS = {"contrastive": ["positive_pairs", "negative_pairs"], "ranking": ["positive_pairs"]}
_ORDER = [*FILES, "trees"]
_NAME = re.compile(r"(positive_pairs|negative_pairs|pairs|trees)(-.+?)?\.(jsonl|tsv)(\.gz)?", re.DOTALL)
_NEARLY = re.compile(
    r"(?:(positives?|negatives?)(?:[-_ .]?pairs?)?|pairs?|(trees?))(?:[-_ .]+(.*?)|(\d+))?"
    r"\.(?:jsonl?|ndjson|(tsv))(\.gz)?",
    re.IGNORECASE | re.DOTALL,
)


def _stem(path: Path) -> str:
    return re.split("[-.]", path.name, maxsplit=1)[0]


def label_of_file(path: Path) -> int | None:
    """The label that a pair file's name gives its pairs."""
    return FILES.get(_stem(path))


def holds_trees(path: Path) -> bool:
    return _stem(path) == "trees"


def is_table(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".tsv")


def _shard(path: Path) -> tuple[int, str]:
    """Its place among all: by stem, the file without a suffix first, then by name."""
    name = _NAME.fullmatch(path.name)
    assert name
    return _ORDER.index(name[1]), name[2] or ""


def misnamed(directory: Path) -> Iterator[tuple[Path, str]]:
    """Files that are not read, since their names are not quite those of pair files, and right names."""
    for path in listed(directory, "*"):
        if (name := _NEARLY.fullmatch(path.name)) and not _is_ours(path):
            label, trees, shard, number, table, packed = name.groups(default="")
            stem = "trees" if trees else label.lower().removesuffix("s") + "_pairs" * bool(label)
            shard, kind = shard or number, "tsv" if table and not trees else "jsonl"
            yield path, f"{stem or 'pairs'}{'-' * bool(shard)}{shard}.{kind}{packed.lower()}"


def _is_ours(path: Path) -> bool:
    name = _NAME.fullmatch(path.name)
    return name is not None and (name[1], name[3]) != ("trees", "tsv")


def pair_files(directory: Path | str, objective: str | None, setting: str = "") -> tuple[Path, ...]:
    """The pair files of a directory in the order of their pairs, then the files of trees.

    Raises:
        DataError: one that the objective needs is missing, two hold the same, or they cannot be looked
            for; names `setting`, which leads to the directory.
    """
    directory, problems = Path(directory), Problems()
    try:
        if not directory.is_dir():
            todo = f"Set {setting} to where its pairs are now" if setting else "Put pair files there"
            todo += (
                ", or make a sample: a button of 01 and 02, or python -m treelstm sample --data-dir DIR"
            )
            is_file = is_there(directory)
            text = "is a file, expected a directory" if is_file else "no such directory"
            raise data_error(directory, text, todo)
        paths = [path for path in listed(directory, "*") if _is_ours(path) and is_there(path)]
        other_names = dict(misnamed(directory))
    except OSError as error:
        raise unreachable(Path(error.filename), error) from error
    paths.sort(key=_shard)
    for _, same in groupby(paths, key=_shard):
        first, *others = same
        for other in others:
            problems.add(first, 0, f"{other.name} is there too", "Keep one of the two")
    by_stem = {stem: [*each] for stem, each in groupby(paths, key=_stem)}
    trees = by_stem.pop("trees", [])
    if "pairs" in by_stem and len(by_stem) > 1:
        other = next(each[0] for stem, each in by_stem.items() if stem != "pairs")
        remedy = "Keep pairs.jsonl, or the files of the two classes"
        problems.add(by_stem["pairs"][0], 0, f"{other.name} is there too", remedy)
    if not trees and (tables := [path for path in paths if is_table(path)]):
        remedy = "Add trees.jsonl with the trees that it names"
        problems.add(tables[0], 0, "there is no trees.jsonl, nor .jsonl.gz, beside it", remedy)
    stems = _STEMS.get(objective or "", ["pairs"])
    missing = [stem for stem in stems if stem not in by_stem]
    if missing and "pairs" not in by_stem and not (by_stem and stems == ["pairs"]):
        text = f"no such file, nor .jsonl.gz, which objective={objective!r} needs"
        remedy = "Add it, or pairs.jsonl with a label or a similarity for each pair"
        if trees:
            remedy += f". {trees[0].name} holds trees only; python -m treelstm pairs makes pairs of them"
        for path, right in other_names.items():
            remedy += f". If {path.name} is meant, name it {right}"
        problems.add(directory / f"{missing[0]}.jsonl", 0, text, remedy)
    if problems.count:
        raise DataError(problems)
    return (*(path for each in by_stem.values() for path in each), *trees)
