"""Checks of the pair files and of their content."""

import codecs
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from treelstm.checks.keys import keys
from treelstm.checks.report import ERROR, NOTE, OK, WARNING, Check, Finding, judged
from treelstm.config import Config
from treelstm.data.files import holds_trees, misnamed, pair_files
from treelstm.data.load import every_pair
from treelstm.data.pairs import Corpus, Pairs
from treelstm.data.reading import parse
from treelstm.data.store import changed_files
from treelstm.evaluation import distinct_trees
from treelstm.files import is_there, open_file
from treelstm.trees.arrays import Array
from treelstm.trees.values import brief

_METADATA_BYTES = 2**20


def data_files(config: Config, directory: Path, setting: str) -> Iterator[Finding]:
    for path in pair_files(directory, config.objective, setting):
        try:
            with open_file(path) as file:
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            found = f"{path} cannot be read ({error.strerror})"
            yield Finding("data.file", ERROR, found, "Put a file there that you may read")
            continue
        text = f"{path}: {size / 1e6:.1f} MB" if size else f"{path} is empty"
        yield judged("data.file", text, not size, ERROR, "Add pairs, or remove the file")
    for path, right in misnamed(directory):
        remedy = f"If it is to be used, name it {right}; if not, move it elsewhere"
        text = f"{path} is not read: its name is nearly that of a pair file"
        yield Finding("data.misnamed-file", WARNING, text, remedy)


def data_content(config: Config, corpus: Corpus) -> Iterator[Check]:
    """Checks of the pairs; the format of every line was checked when the corpus was compiled."""
    named = [("training", corpus.training, config.data_path)]
    if config.validation_path is not None:
        named.append(("validation", corpus.validation, config.validation_path))
    for name, pairs, directory in named:
        yield partial(_bytes, name, pairs)
        yield partial(_kinds, name, pairs, directory, config)
        yield partial(_sizes, name, pairs)
        yield partial(_repetitions, name, pairs)
        yield partial(_unused_trees, name, pairs, directory, config)
        yield partial(_metadata, directory, pairs, config)
    yield partial(_unseen, config, corpus)
    yield partial(keys, corpus)


def _unseen(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """Whether the validation pairs are others than those of training, and of the same language."""
    share = corpus.overlap
    text = f"{share:.1%} of the validation trees occur in training"
    remedy = "Scores will be too good: set validation_dir to pairs of other sentences"
    yield judged("data.overlap", text, share > 0.05, WARNING, remedy, NOTE if share else OK)
    text = f"{corpus.unknown_share:.1%} of the symbols in validation trees do not occur in training"
    if config.bag_of_symbols and corpus.unknown_share:
        text += "; the bag of symbols tells them apart, without having learned what they mean"
    remedy = "Compare the keys of both: do they come from the same parser and language?"
    yield judged("data.unknown-symbols", text, corpus.unknown_share > 0.2, WARNING, remedy)


def _bytes(name: str, pairs: Pairs) -> Finding:
    """Whether the files are those that were compiled, to the last byte; a start looks at their times."""
    code, began, found = "data.bytes", time.monotonic(), changed_files(pairs)
    if found is None:
        text = f"{name}: the compiled corpus is kept nowhere, each start compiles again"
        return Finding(code, NOTE, text)
    store, changed = found
    read = f"(all bytes read in {time.monotonic() - began:.1f} s)"
    if not changed:
        text = f"{name}: pair files and compiled corpus are as they were compiled {read}"
        return Finding(code, OK, text)
    text = f"{name}: {', '.join(map(str, changed))}: not as compiled, though size and time are {read}"
    remedy = f"Remove {store}, so that the next start compiles again, and look for faults of this disk"
    return Finding(code, ERROR, text, remedy)


def _kinds(name: str, pairs: Pairs, directory: Path, config: Config) -> Finding:
    """How many pairs of which kind, as far as it matters for the objective."""
    text, similar = f"{name}: {len(pairs):,} pairs", int((pairs.label == 1).sum())
    if config.objective == "graded":
        spread = " / ".join(f"{value:g}" for value in np.percentile(pairs.similarity, (0, 50, 100)))
        return Finding("data.similarities", OK, f"{text}, similarity min / median / max {spread}")
    if config.objective == "ranking":
        text = f"{name}: {similar:,} similar pairs"
        if name == "training":
            every = every_pair(directory, config)
            others = int((every.label != 1).sum())
            text += f"; the {others:,} others of {directory} are not trained on" if others else ""
        return Finding("data.similar-pairs", OK, text)
    counts = sorted(((similar, "similar"), (len(pairs) - similar, "dissimilar")))
    (rare, _), (common, _) = counts
    who = " to ".join(f"{count:,} {kind}" for count, kind in reversed(counts))
    text += (
        f", {who} ({common / rare:.1f} : 1); always predicting the majority is right in "
        f"{pairs.majority_rate:.1%}: ROC-AUC and average precision tell more than accuracy"
    )
    bad, remedy = common > 20 * rare, "More than 20 : 1: add pairs of the rare class"
    return judged(
        "data.class-balance", text, bad, WARNING, remedy, OK if pairs.majority_rate < 0.8 else NOTE
    )


def _sizes(name: str, pairs: Pairs) -> Finding:
    trees, *_ = distinct_trees(pairs)

    def spread(values: Array) -> str:
        low, middle, high, largest = np.percentile(values, (5, 50, 95, 100)).astype(int)
        return f"{low} / {middle} / {high} / {largest}"

    nodes, levels = pairs.forest.tree_nodes[trees], pairs.forest.tree_heights[trees] + 1
    text = (
        f"{name}: {len(trees):,} distinct trees; nodes 5% / median / 95% / max {spread(nodes)}, "
        f"levels {spread(levels)}"
    )
    remedy = "No tree has a child: is the AST nested under ignored keys?"
    return judged("data.tree-sizes", text, int(levels.max()) == 1, WARNING, remedy)


def _repetitions(name: str, pairs: Pairs) -> Iterator[Finding]:
    """Pairs of the same two trees, in either order: with both labels, or more than once with one."""
    roots = np.sort(np.stack((pairs.forest.root[pairs.first], pairs.forest.root[pairs.second])), axis=0)
    _, same = np.unique(roots, axis=1, return_inverse=True)
    same = np.asarray(same).ravel()
    similar = np.bincount(same, weights=pairs.label == 1) > 0
    dissimilar = np.bincount(same, weights=pairs.label == 0) > 0
    both = np.flatnonzero((similar & dissimilar)[same])
    if len(both):
        both = both[np.argsort(same[both], kind="stable")]
        places = ", ".join(dict.fromkeys(pairs.where(int(k)) for k in both[:20]))
        text = f"{name}: {len(np.unique(same[both])):,} pair(s) have both labels: {places}"
        remedy = "Remove one of each; if they should differ, look for an ignored key that separates them"
        remedy += "" if pairs.child_order else ", or set child_order=True if an order in lists does"
        yield Finding("data.contradicting-pair", WARNING, text, remedy)
    labelled = same * 3 + pairs.label
    repeated = len(pairs) - len(np.unique(labelled))
    if repeated:
        order = np.argsort(labelled, kind="stable")
        example = pairs.where(int(order[1:][np.diff(labelled[order]) == 0].min()))
        share = repeated / len(pairs)
        text = f"{name}: {repeated:,} pair(s) repeat an earlier one ({share:.1%}), for example {example}"
        remedy = "Remove them: they count more than once"
        yield judged("data.duplicate-pair", text, share > 0.05, WARNING, remedy, NOTE)


def _unused_trees(name: str, pairs: Pairs, directory: Path, config: Config) -> Iterator[Finding]:
    if any(map(holds_trees, pairs.paths)):
        pairs = every_pair(directory, config)
        named = np.zeros(len(pairs.forest), bool)
        named[pairs.first] = named[pairs.second] = True
        text = f"{name}: {int((~named).sum()):,} of {len(named):,} trees are in no pair"
        remedy = "That may be as it should be: they are not used"
        yield judged("data.unused-trees", text, not named.all(), NOTE, remedy)


def _metadata(directory: Path, pairs: Pairs, config: Config) -> Iterator[Finding]:
    path = directory / "metadata.json"
    try:
        if not is_there(path):
            return
        with open_file(path) as file:
            raw = file.read(_METADATA_BYTES + 1)
        if len(raw) > _METADATA_BYTES:
            raise ValueError(f"longer than {_METADATA_BYTES:,} bytes")
        said = parse(raw.removeprefix(codecs.BOM_UTF8))
        if not isinstance(said, dict):
            raise ValueError("not a JSON object")
    except (ValueError, OSError) as error:
        text = f"{path} cannot be read ({error})"
        yield Finding("data.metadata", WARNING, text, "Write it again or remove it")
        return
    # Some of the pairs of the files are held out for validation, or are no pairs for this objective.
    if config.validation_path is None or config.objective == "ranking":
        pairs = every_pair(directory, config)
    counts = [int((pairs.label == label).sum()) for label in (1, 0)]
    true = dict(zip(("num_positive_pairs", "num_negative_pairs"), counts, strict=True))
    true["total_pairs"] = len(pairs)
    wrong = [f"{k} {brief(said[k])}, found {v}" for k, v in true.items() if k in said and said[k] != v]
    text = f"{path} says {'; '.join(wrong)}" if wrong else f"{path} agrees with the files"
    remedy = "Check that no pair file is incomplete, then correct it"
    yield judged("data.metadata", text, bool(wrong), WARNING, remedy)
