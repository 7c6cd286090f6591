"""A small sample corpus in the field format: Esperanto clauses from a grammar and a lexicon.

Positive pairs differ in a synonym, an added modifier, the word order or the tense. Half of the negative
pairs are hard: both trees have the same roots but different meanings, since subject and object are
exchanged, the antonym's prefix `mal` is added or removed, or a modifier is moved to the other noun. A
bag of roots cannot tell these from positives; a tree encoder can.
"""

from __future__ import annotations

import json
import mmap
import random
import tempfile
from array import array
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, BinaryIO

from treelstm.config import ConfigError
from treelstm.errors import UserError
from treelstm.files import listed, make_directory, whole_file, write_whole

Synonyms = tuple[str, ...]


# Roots by class, with "-" before each suffix and "=" between near-synonyms.
_LINES: dict[str, list[str]] = json.loads(Path(__file__).with_name("lexicon.json").read_text("utf-8"))
LEXICON: dict[str, list[Synonyms]] = {
    kind: [tuple(entry.split("=")) for line in lines for entry in line.split()]
    for kind, lines in _LINES.items()
}

_BEINGS = ("person", "animal")
_TENSES = {"prezenco": "as", "pasinteco": "is", "futuro": "os"}
_CONDITIONAL = "kondiĉa"  # the mood in -us; it has no tense
_ORDERS = ("SVO", "SOV", "OVS", "OSV", "VSO", "VOS")  # all grammatical: the accusative marks the object


class SampleExists(UserError, FileExistsError):
    """The directory for a sample holds pairs already."""


@dataclass
class Word:
    """One of several near-synonyms, or its opposite by the prefix `mal`."""

    synonyms: Synonyms
    choice: int
    opposite: bool

    @property
    def morphemes(self) -> list[str]:
        return self.synonyms[self.choice].split("-")


@dataclass
class NounPhrase:
    noun: Word
    plural: bool
    definite: bool
    adjectives: list[Word]


@dataclass
class Clause:
    phrases: list[NounPhrase]  # subject and object
    verb: Word
    adverbs: list[Word]
    tense: str  # or the conditional mood
    order: str

    @property
    def words(self) -> list[Word]:
        subject, object = self.phrases
        nouns, adjectives = (subject.noun, object.noun), subject.adjectives + object.adjectives
        return [*nouns, self.verb, *self.adverbs, *adjectives]


def _word(draw: random.Random, kind: str, opposite: float = 0.0) -> Word:
    synonyms = draw.choice(LEXICON[kind])
    return Word(synonyms, draw.randrange(len(synonyms)), draw.random() < opposite)


def _adjective(draw: random.Random) -> Word:
    return _word(draw, "colour") if draw.random() < 0.15 else _word(draw, "quality", opposite=0.4)


def _noun_phrase(draw: random.Random, kind: str) -> NounPhrase:
    count = draw.choices((0, 1, 2), (3, 5, 2))[0]
    adjectives = [_adjective(draw) for _ in range(count)]
    return NounPhrase(_word(draw, kind), draw.random() < 0.3, draw.random() < 0.6, adjectives)


def _clause(draw: random.Random) -> Clause:
    beings = draw.random() < 0.75
    subject = _noun_phrase(draw, draw.choice(_BEINGS))
    others = draw.choice(_BEINGS) if beings else "thing"
    verb = _word(draw, "done to beings" if beings else "done to things")
    object = _noun_phrase(draw, others)
    adverbs = [_word(draw, "manner") for _ in range(draw.choice((0, 1, 1)))]
    tense = _CONDITIONAL if draw.random() < 0.1 else draw.choice(list(_TENSES))
    clause = Clause([subject, object], verb, adverbs, tense, draw.choice(_ORDERS[:1] * 4 + _ORDERS))
    return clause if subject.noun.synonyms != object.noun.synonyms else _clause(draw)


# Variations change a clause; they return False where that is not possible. These keep the meaning:


def _synonym(clause: Clause, draw: random.Random) -> bool:
    words = [word for word in clause.words if len(word.synonyms) > 1]
    if words:
        word = draw.choice(words)
        word.choice = (word.choice + 1) % len(word.synonyms)
    return bool(words)


def _added_modifier(clause: Clause, draw: random.Random) -> bool:
    """One more adverb, or an adjective for a noun that has fewer than two."""
    number = draw.choice((0, 1, None, None))  # of the phrase that gets an adjective
    if number is None:
        return _added(clause.adverbs, _word(draw, "manner"), most=3)
    return _added(clause.phrases[number].adjectives, _adjective(draw))


def _added(modifiers: list[Word], word: Word, most: int = 2) -> bool:
    """Not if there are `most` already, or this one or a synonym."""
    if len(modifiers) >= most or word.synonyms in [known.synonyms for known in modifiers]:
        return False
    modifiers.append(word)
    return True


def _other_tense(clause: Clause, draw: random.Random) -> bool:
    if clause.tense == _CONDITIONAL:
        return False
    clause.tense = draw.choice([tense for tense in _TENSES if tense != clause.tense])
    return True


def _other_order(clause: Clause, draw: random.Random) -> bool:
    clause.order = draw.choice([order for order in _ORDERS if order != clause.order])
    return True


# These keep the roots and change the meaning:


def _exchanged(clause: Clause, draw: random.Random) -> bool:
    """Subject and object exchanged, if the object is a being, which can act."""
    clause.phrases.reverse()
    return clause.phrases[0].noun.synonyms in LEXICON["person"] + LEXICON["animal"]


def _opposite(clause: Clause, draw: random.Random) -> bool:
    """One quality replaced by its opposite."""
    adjectives = [word for phrase in clause.phrases for word in phrase.adjectives]
    qualities = [word for word in adjectives if word.synonyms in LEXICON["quality"]]
    if qualities:
        word = draw.choice(qualities)
        word.opposite = not word.opposite
    return bool(qualities)


def _moved_modifier(clause: Clause, draw: random.Random) -> bool:
    """An adjective moved to the other noun."""
    giver, taker = draw.sample(clause.phrases, 2)
    return bool(giver.adjectives) and _added(taker.adjectives, giver.adjectives.pop())


Pair = tuple[Clause, Clause]
Maker = Callable[[random.Random], Pair]
_SAME = (_synonym, _added_modifier, _other_tense, _other_order)
_HARD = (_exchanged, _opposite, _moved_modifier)


def _positive(draw: random.Random) -> Pair:
    """Two variations of the four that keep the meaning; at least one changes the words."""
    first = _clause(draw)
    second, changes = deepcopy(first), (draw.choice(_SAME[:2]), draw.choice(_SAME))
    possible = all(change(second, draw) for change in changes)
    return (first, second) if possible and second != first else _positive(draw)


def _hard_negative(draw: random.Random) -> Pair:
    first = _clause(draw)
    second = deepcopy(first)
    possible = draw.choice(_HARD)(second, draw)
    for harmless in (_other_tense, _other_order):
        if possible and draw.random() < 0.25:
            possible = harmless(second, draw)
    return (first, second) if possible else _hard_negative(draw)


def _easy_negative(draw: random.Random) -> Pair:
    """Two clauses; half of the pairs share subject and verb."""
    first, second = _clause(draw), _clause(draw)
    if draw.random() < 0.5:
        phrases = [first.phrases[0], second.phrases[1]]
        second = replace(first, phrases=phrases, adverbs=second.adverbs)
    nouns = [[phrase.noun.synonyms for phrase in clause.phrases] for clause in (first, second)]
    return (first, second) if nouns[0] != nouns[1] else _easy_negative(draw)


def write_sample(
    directory: Path | str,
    positives: int = 495,
    negatives: int = 5000,
    seed: int = 0,
    unlike: Path | str | None = None,
) -> None:
    """Writes a sample corpus of that many pairs; equal arguments give equal bytes.

    Half of the negatives are hard. With `unlike`, the directory of another sample, no sentence of that
    sample is used, so that one can validate what is trained on the other.

    Raises:
        SampleExists: the directory holds pairs already; they are left alone.
        WriteFailed: the disk refuses.
    """
    directory, excluded = Path(directory), set[str]()
    for name, count in {"positives": positives, "negatives": negatives}.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}, expected at least 1.")
    if existing := listed(directory, "*pairs*.[jt]s*"):
        raise SampleExists(f"{existing[0]} exists already. Choose another directory or remove it.")
    if unlike is not None:
        for path in listed(Path(unlike), "*_pairs.jsonl"):
            with path.open(encoding="utf-8") as lines:
                excluded.update(*map(_sentences, map(json.loads, lines)))
        if not excluded:
            raise ConfigError(f"unlike is {str(unlike)!r}, expected a directory with *_pairs.jsonl.")
    draw, total = random.Random(f"treelstm sample {seed}"), positives + negatives
    hard = negatives // 2
    makers = chain(repeat(_hard_negative, hard), repeat(_easy_negative, negatives - hard))
    counts = {"num_positive_pairs": positives, "num_negative_pairs": negatives, "total_pairs": total}
    make_directory(directory)
    both = ("positive_pairs.jsonl", "negative_pairs.jsonl")
    similar, dissimilar = (whole_file(directory / name) for name in both)
    with similar as first, dissimilar as second:  # both appear, or none
        _write_pairs(first, draw, 1, repeat(_positive, positives), excluded)
        _write_pairs(second, draw, 0, makers, excluded)
    write_whole(directory / "metadata.json", json.dumps(counts, indent=1).encode())


def _write_pairs(
    file: BinaryIO, draw: random.Random, label: int, makers: Iterable[Maker], excluded: set[str]
) -> None:
    """Writes one pair a line, made by each of `makers`, in random order; holds only their places."""
    with tempfile.TemporaryFile(dir=Path(file.name).parent) as ordered:
        starts = array("q", [0])
        for number, make in enumerate(makers):
            record = _record(make(draw), label, number)
            while not excluded.isdisjoint(_sentences(record)):
                record = _record(make(draw), label, number)
            line = json.dumps(record, ensure_ascii=False) + "\n"
            starts.append(starts[-1] + ordered.write(line.encode()))
        order = array("q", range(len(starts) - 1))
        draw.shuffle(order)
        ordered.flush()
        with mmap.mmap(ordered.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            for number in order:
                file.write(lines[starts[number] : starts[number + 1]])


def _sentences(record: dict[str, Any]) -> tuple[str, str]:
    return record["ast1"]["sentence"], record["ast2"]["sentence"]


def _record(pair: Pair, label: int, number: int) -> dict[str, Any]:
    first, second = ({word.morphemes[0] for word in clause.words} for clause in pair)
    overlap = len(first & second) / len(first | second)  # Jaccard, as in real corpora of the format
    sides = {f"ast{side + 1}": _side(clause, 2 * number + side) for side, clause in enumerate(pair)}
    return {**sides, "similarity": round(overlap, 3), "label": label}


def _side(clause: Clause, number: int) -> dict[str, Any]:
    """The sentence and the AST of a clause."""
    subject, subject_words = _phrase(clause.phrases[0], accusative=False)
    object, object_words = _phrase(clause.phrases[1], accusative=True)
    verb = _word_ast(clause.verb, "verbo", _TENSES.get(clause.tense, "us"))
    verb |= {"modo" if clause.tense == _CONDITIONAL else "tempo": clause.tense}
    adverbs = [_word_ast(word, "adverbo", "e") for word in clause.adverbs]
    ast = {"tipo": "frazo", "subjekto": subject, "verbo": verb, "objekto": object, "aliaj": adverbs}
    words = {"S": subject_words, "V": [verb["plena_vorto"]], "O": object_words}
    said = [word for letter in clause.order for word in words[letter]]
    text = " ".join(said + [word["plena_vorto"] for word in adverbs])
    sentence = f"{text[0].upper()}{text[1:]}."
    return {"sentence": sentence, "source_file": "sample", "sentence_id": number, "ast": ast}


def _phrase(phrase: NounPhrase, accusative: bool) -> tuple[dict[str, Any], list[str]]:
    """The AST of a noun phrase, and its words."""
    form = phrase.plural, accusative
    noun = _word_ast(phrase.noun, "substantivo", "o", *form)
    adjectives = [_word_ast(word, "adjektivo", "a", *form) for word in phrase.adjectives]
    ast = {"tipo": "vortgrupo", "kerno": noun, "priskriboj": adjectives}
    ast |= {"artikolo": "la"} if phrase.definite else {}
    return ast, ["la"] * phrase.definite + [word["plena_vorto"] for word in (*adjectives, noun)]


def _word_ast(
    word: Word, kind: str, ending: str, plural: bool = False, accusative: bool = False
) -> dict[str, Any]:
    root, *suffixes = word.morphemes
    prefix, endings = "mal" * word.opposite, ending + "j" * plural + "n" * accusative
    return {
        "tipo": "vorto",
        "plena_vorto": prefix + "".join(word.morphemes) + endings,
        "radiko": root,
        "vortspeco": kind,
        "nombro": "pluralo" if plural else "singularo",
        "kazo": "akuzativo" if accusative else "nominativo",
        "prefikso": prefix or None,
        "sufiksoj": suffixes,
    }
