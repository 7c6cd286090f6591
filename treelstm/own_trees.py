"""One's own trees: what was typed, pasted or named becomes a tree; what an encoder says of two."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from treelstm.collection import Collection, NotATree, load_collection
from treelstm.config import Config, Parameters, from_root
from treelstm.data.foreign import CONVERT, flat_trees, looks_like
from treelstm.data.load import load_corpus
from treelstm.data.problems import DataError
from treelstm.data.readers.formats import as_json, read_trees
from treelstm.data.reading import REPAIR, Unreadable, parse
from treelstm.data.survey import Survey
from treelstm.evaluation import distinct_trees
from treelstm.explanation import Explanation, explain
from treelstm.model.encoder import TreeEncoder, distances
from treelstm.model.files import load_encoder
from treelstm.run.directory import find_best_model
from treelstm.trees.builder import TreeError, compile_forest
from treelstm.trees.forest import Forest
from treelstm.trees.values import kind
from treelstm.trees.vocabulary import readable

Parser = Callable[[str], Any]  # a sentence -> its AST


def _parameter(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help, "check": (lambda value: True, "")})


def _as_in_config(name: str) -> Any:
    (found,) = (each for each in fields(Config) if each.name == name)
    return field(default=found.default, metadata=found.metadata)


@dataclass(frozen=True, kw_only=True)
class Use(Parameters):
    """The parameters of 06_use.ipynb, which are no settings of a run. Raises as `Parameters`."""

    output_dir: str = _as_in_config("output_dir")
    checkpoint: str = _as_in_config("checkpoint")
    device: str = _as_in_config("device")
    first: str | int | None = _parameter(None, "a tree: JSON, a file, an id or position in `trees`")
    second: str | int | None = _parameter(None, "another one; None: both are a pair that is held out")
    trees: str | None = _parameter(None, "file of trees to search in; None: those of held-out pairs")


def encoder_of(asked: Use | Config) -> TreeEncoder:
    """The encoder that parameters name; raises CheckpointError and ConfigError as `load_encoder`."""
    best = asked.checkpoint == "best"
    path = find_best_model(from_root(asked.output_dir)) if best else from_root(asked.checkpoint)
    return load_encoder(path, asked.device)


def collection_of(asked: Use, encoder: TreeEncoder) -> tuple[Collection | None, list[str], str]:
    """The trees to search in; the texts of the two to compare, by default of a similar pair that the run
    held out, or of the first trees of the file; in words, which these are. None: there are no trees.
    """
    places = 0, 1
    if asked.trees is not None:
        found: Collection | None = load_collection(from_root(asked.trees), encoder)
    else:
        try:
            pairs = load_corpus(encoder.origin.config).validation
        except DataError as error:
            found, said = None, f"The run's pairs cannot be read: {error}\nSet trees to a file of trees."
        else:
            found, pair = Collection.of_pairs(pairs, encoder), int(np.argmax(pairs.label))
            _, first, second = distinct_trees(pairs)
            places = int(first[pair]), int(second[pair])
    texts = ["", ""]
    if found is not None:
        said, last = found.about, len(found) - 1
        places = min(places[0], last), min(places[1], last)
        texts = [as_text(found.ast(place), found.sentences[place]) for place in places]
    given = (asked.first, asked.second)
    return found, [t if g is None else str(g) for t, g in zip(texts, given, strict=True)], said


class Given(NamedTuple):
    """A tree that somebody gave."""

    ast: dict[str, Any]
    title: str  # its sentence, if it has one
    note: str = ""  # what it may be instead, though it can be read
    number: int | None = None  # in the collection that it is of


def given_tree(
    text: str, encoder: TreeEncoder, trees: Collection | None = None, parser: Parser | None = None
) -> Given:
    """The tree that a text is or names: JSON, an id or position in `trees`, the path of a file with one
    tree, else a sentence for the `parser`.

    Raises:
        NotATree: it is or names none; says where and what to do.
    """
    text = text.strip()
    if text[:1] in ("{", "[", '"'):
        return tree_of_json(text.encode(errors="surrogatepass"), encoder)
    if trees is not None and (number := trees.find(text)) is not None:
        title = trees.sentences[number] or f"tree {trees.ids[number]}"
        return Given(trees.ast(number), title, number=number)
    if (path := _file(text)) is not None:
        return tree_of_file(path, encoder)
    if text and parser is not None:
        try:
            ast = parser(text)
        except Exception as error:  # whatever a user's parser raises
            said = f"the parser failed on this sentence ({type(error).__name__}: {error})"
            raise NotATree(f"{said}. Correct the sentence or the parser.") from error
        return _checked(ast, encoder, text)
    ways = ["JSON", "the path of a file", *(["an id or position"] if trees else [])]
    found = f"{text[:60]!r} is" if text else "nothing is here:"
    a_parser = "" if parser else "; for sentences, hand in a parser"
    raise NotATree(f"{found} no tree, expected {', or '.join(ways)}{a_parser}.")


def _file(text: str) -> Path | None:
    try:
        return path if (path := from_root(text or ".")).is_file() else None
    except (OSError, ValueError):  # no name that a file could have
        return None


def tree_of_json(raw: bytes, encoder: TreeEncoder) -> Given:
    """A tree from JSON, alone or as `ast` beside its sentence; raises NotATree."""
    try:
        value = parse(raw)
    except Unreadable as error:
        remedy = "Correct it" if error.remedy == REPAIR else error.remedy
        raise NotATree(f"{error}. {remedy}.") from error
    if isinstance(value, dict) and isinstance(value.get("ast"), dict | list | str):
        sentence = value.get("sentence")
        return _checked(value["ast"], encoder, sentence if isinstance(sentence, str) else "")
    if isinstance(value, dict) and {"ast1", "ast2"} <= value.keys():
        raise NotATree("this is a pair. Write its trees, ast1 and ast2, one by one.")
    return _checked(value, encoder)


def tree_of_file(path: Path, encoder: TreeEncoder) -> Given:
    """The only tree of a file of any format that `read_trees` takes; raises NotATree."""
    try:
        found = read_trees(path)
    except DataError as error:
        raise NotATree(str(error)) from error
    if len(found) > 1:
        said = f"{path} holds {len(found):,} trees, expected one"
        raise NotATree(f"{said}. Write the tree to a file of its own.")
    return _checked(found[0].ast, encoder, found[0].sentence or path.name)


def _checked(ast: Any, encoder: TreeEncoder, title: str = "") -> Given:
    """With a note where it looks like something else; raises NotATree where it cannot be read."""
    if isinstance(ast, str | list):
        what, remedy = looks_like(ast)
        said = f"this is {kind(ast)}, expected a JSON object: it looks like {what}"
        raise NotATree(f"{said}. {remedy}.")
    ignored = encoder.settings.ignored_keys
    try:
        compile_forest([ast], ignored)
    except TreeError as error:
        raise NotATree(str(error).replace("asts[0]", "the tree", 1)) from error
    survey = Survey(frozenset(ignored))
    survey.add(ast)
    flat = sorted({said for node in survey.nodes for said in flat_trees(node.content, ignored)})
    words = f"it holds what looks like a token list with heads ({'; '.join(flat)})"
    return Given(ast, title, f"{words}, and is read as a flat bag. {CONVERT}." if flat else "")


def as_text(ast: dict[str, Any], sentence: str | None = None) -> str:
    """A tree as `tree_of_json` reads it, to be shown and changed."""
    record = {"ast": ast} if sentence is None else {"sentence": sentence, "ast": ast}
    raw = as_json(record)
    with suppress(RecursionError):  # it is deeper than the formatter goes
        raw = msgspec.json.format(raw, indent=1)
    return raw.decode()


@dataclass(frozen=True)
class TwoTrees:
    """What an encoder says of two trees."""

    encoder: TreeEncoder
    forest: Forest  # of both
    distance: float
    unknown: list[str]  # their symbols that training did not know

    @cached_property
    def why(self) -> Explanation:
        return explain(self.encoder, self.forest, [0, 1])

    @property
    def similar(self) -> bool | None:
        """By the encoder's threshold; None if it has none."""
        threshold = self.encoder.threshold
        return None if math.isnan(threshold) else self.distance < threshold

    @property
    def verdict(self) -> str:
        said = f"distance {self.distance:.4f}"
        if self.similar is None:
            return f"{said}; whether that is similar cannot be told: this run has no threshold"
        words = "similar, below" if self.similar else "dissimilar, not below"
        return f"{said}: {words} the threshold {self.encoder.threshold:.4f}"


def compare_trees(encoder: TreeEncoder, first: dict[str, Any], second: dict[str, Any]) -> TwoTrees:
    """Two ASTs and their distance; raises TreeError as `encode`."""
    (forest,), known = encoder.forests([first, second]), encoder.vocabulary
    vectors = encoder.encode_trees(forest, [0, 1])
    distance = float(distances(vectors[:1], vectors[1:]))  # as encoder.distance gives it
    new = np.flatnonzero(known.is_unknown(known.ids(forest.symbols)))
    unknown = [readable(forest.symbols[symbol]) for symbol in new.tolist()]
    return TwoTrees(encoder, forest, distance, unknown)
