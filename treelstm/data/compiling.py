"""Pair files -> the arrays of a compiled corpus."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from treelstm.config import EncoderSettings
from treelstm.data.foreign import looks_like
from treelstm.data.pairs import DataError, Problems, label_of_file
from treelstm.data.reading import REPAIR, read_jsonl
from treelstm.trees.builder import ForestBuilder, TreeError
from treelstm.trees.forest import Forest, entries, pointers_of
from treelstm.trees.values import brief, kind

_LOOKS = "expected a JSON object: it looks like"
_PARSE_AGAIN = "Parse the sentence again or remove the line"
FOREST_ARRAYS = [column.name for column in fields(Forest) if column.type == "Array"]


def compile_pairs(
    paths: tuple[Path, ...], settings: EncoderSettings, into: Path, workers: int | None = None
) -> None:
    """Writes the arrays of `Forest` and `Pairs` into an empty directory; raises DataError."""
    problems = Problems()
    builder = ForestBuilder(settings.ignored_keys, child_order=settings.child_order)
    rows: list[tuple[int, float | None, int, int]] = []  # label, similarity, file, line
    sentences: list[str | None] = []
    for number, path in enumerate(paths):
        before, label = (problems.count, len(rows)), label_of_file(path)
        no_trees: dict[tuple[str, str], list[int]] = {}  # what is there instead -> lines
        for line, record in read_jsonl(path, problems):
            found = list(_record_problems(record, label, builder))
            for problem in found:
                if _LOOKS in problem[0]:  # there may be thousands of one kind, which are said once
                    no_trees.setdefault(problem, []).append(line)
                else:
                    problems.add(path, line, *problem)
            if not found:
                own = record["label"] if record.get("label") is not None else -1
                rows.append((own, record.get("similarity"), number, line))
                sentences += [record["ast1"].get("sentence"), record["ast2"].get("sentence")]
        for (said, remedy), wrong in no_trees.items():
            problems.add(path, wrong[0], f"{said} ({len(wrong):,} line(s) of this file)", remedy)
        if before == (problems.count, len(rows)):
            problems.add(path, 0, "holds no pairs", "Add pairs, or remove the file")
    if problems.count:
        raise DataError(problems)
    labels, similarities, files, lines = zip(*rows, strict=True)
    forest = builder.forest()
    numbers: dict[tuple[int, str | None], int] = {}
    of_tree = zip(forest.root.tolist(), sentences, strict=True)
    tree = np.array([numbers.setdefault(each, len(numbers)) for each in of_tree])
    kept = np.unique(tree, return_index=True)[1]  # the first of each
    arrays = {name: getattr(forest, name) for name in FOREST_ARRAYS}
    for ptr, values in (("tree_ptr", "tree_subtrees"), ("bag_ptr", "bag")):
        positions, lengths = entries(arrays[ptr], kept)
        arrays |= {ptr: pointers_of(lengths), values: arrays[values][positions]}
    arrays |= {name: arrays[name][kept] for name in ("root", "tree_nodes", "tree_digest")}
    arrays |= {"first": tree[::2], "second": tree[1::2], "label": np.array(labels, np.int8)}
    given = np.array(similarities, np.float64)  # None becomes NaN
    arrays["similarity"] = given[: 0 if np.isnan(given).all() else None]
    arrays |= {"file": np.array(files), "line": np.array(lines)}
    given_texts = [sentences[each] for each in kept.tolist()]
    arrays["has_sentence"] = np.array([text is not None for text in given_texts])
    for name, texts in (("symbols", forest.symbols), ("sentences", given_texts)):
        raw = [(text or "").encode("utf-8", "surrogatepass") for text in texts]
        arrays[name] = np.frombuffer(b"".join(raw), np.uint8)
        arrays[f"{name}_ptr"] = pointers_of(np.array([len(each) for each in raw]))
    for name, array in arrays.items():
        narrow = array.dtype == np.int64
        type_ = np.min_scalar_type(int(array.max(initial=0))) if narrow else array.dtype
        np.save(into / f"{name}.npy", array.astype(type_))


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
            if isinstance(root := part["ast"], str | list):
                what, remedy = looks_like(root)
                yield f"{side}.ast is {kind(root)}, {_LOOKS} {what}", remedy
                break  # the other side is like it
            try:
                builder.add(part["ast"], f"{side}.ast")
            except TreeError as error:
                yield str(error), _PARSE_AGAIN
    found, similarity = record.get("label"), record.get("similarity")
    allowed = (label,) if label is not None else (0, 1, None)
    if label is None and found is None and similarity is None:
        yield "label and similarity are missing", "Add one of them, or both"
    elif isinstance(found, bool) or found not in allowed:
        said = f"label is {brief(found)}" if "label" in record else "label is missing"
        expected = f"the file's name says {label}" if label is not None else "1 or 0 was expected"
        yield f"{said}, but {expected}", "Correct the label" + " or move the line" * (label is not None)
    if isinstance(similarity, int) and abs(similarity) > sys.float_info.max:
        yield "similarity is too large a number", "Correct or remove it"
    elif isinstance(similarity, bool) or not isinstance(similarity, int | float | None):
        yield "similarity is not a number", "Correct or remove it"
