"""A small sample corpus in the field format: Esperanto clauses from a grammar and a lexicon.

Positive pairs differ in a synonym, an added modifier, the word order or the tense. Half of the negative
pairs are hard: both trees have the same roots but different meanings, since subject and object are
exchanged, the antonym's prefix `mal` is added or removed, or a modifier is moved to the other noun. A
bag of roots cannot tell these from positives; a tree encoder can.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from treelstm.config import ConfigError
from treelstm.errors import UserError
from treelstm.files import listed, make_directory, write_whole

# Classes of words: roots, with "-" before each suffix and "=" between near-synonyms.
_PERSONS = """amik=kamarad najbar gast=vizit-ant knab=bub vir patr frat onkl kuz nev av edz vidv
infan=id reĝ=monarĥ princ soldat kapitan general mastr=posed-ant serv-ist=lake student lern-ant profesor
instru-ist=pedagog kurac-ist=doktor juĝ-ist advokat polic-ist=ĝendarm ŝtel-ist=rab-ist poet
verk-ist=aŭtor aktor muzik-ist kant-ist pentr-ist skulpt-ist bak-ist kuir-ist fiŝ-ist ĉas-ist
farm-ist=kampar-an pastr=sacerdot monaĥ spion esplor-ist=scienc-ist inĝenier mar-ist=matros pilot ŝofor
gvid-ist estr=ĉef hero komerc-ist=negoc-ist vojaĝ-ant=turist ĝarden-ist tajlor barbir urb-an"""
_ANIMALS = """hund kat ĉeval bov kapr ŝaf pork azen mul lup vulp urs leon tigr elefant simi kamel cerv
lepor kunikl rat mus sciur hirund korv agl kok anser anas cign kolomb papag strut ran serpent testud
lacert krokodil salm ŝark balen delfen abel vesp formik papili arane erinac kastor lutr pav sturn alaŭd
paser"""
_THINGS = """libr=volum leter=mesaĝ gazet=ĵurnal kajer krajon plum paper skatol=kest sak botel=flakon
glas pokal=kalik tas teler tranĉ-il fork kuler pot pan kuk fromaĝ buter ov pom pir vinber oranĝ citron
sup viand=karn salat suker te kaf lakt bier vin tabl seĝ benk lit lamp=lantern horloĝ spegul ŝlos-il
pord fenestr tapiŝ vest=kostum mantel ĉapel ŝu bot pantalon ĉemiz rob jup gant ring ĉen kron
bicikl=velociped aŭt=aŭtomobil ĉar ŝip boat trajn=vagon-ar balon martel seg-il najl ŝnur=kord ret flor
roz bild statu mon diamant perl zon ombrel valiz=kofr kusen kovert map juvel=gem glav=spad paf-il=fusil
harp violon flut tambur gitar"""
_DONE_TO_BEINGS = """vid am=ador sekv help=asist serĉ trov observ=rigard salut puŝ kapt ĉas persekut
nutr=manĝ-ig lav=pur-ig sav=liber-ig gard=protekt forges admir=estim aŭskult vek renkont kaŝ
port=transport akompan=eskort imit=kopi envi ofend=insult san-ig=resan-ig invit tromp=dup venk=super
demand konsol=trankvil-ig atend log=alog respekt=honor kis kares bat=frap mord tim-ig=terur laŭd
konduk=gvid pun atak=asalt vund minac"""
_DONE_TO_THINGS = """hav=posed aĉet vend romp=frakas ripar=flik perd donac uz=util-ig prunt mezur pes
pak desegn=skiz montr=prezent elekt=prefer tranĉ=hak kovr ĵet=lanĉ lev ten tir=tren detru=ruin-ig polur
farb dekor=ornam ricev=akcept send=ekspedi ŝtel=rab"""
_QUALITIES = """bel=ĉarm bon grand=vast long alt larĝ dik fort=potenc rapid vigl=energi saĝ=prudent riĉ
jun nov freŝ varm hel pur dolĉ ĝoj=gaj kuraĝ=brav honest fidel=lojal trankvil=kviet mol sek plen util
facil=simpl feliĉ=beat san afabl=ĝentil sever=rigor simpati kar dens profund graci=elegant fam=renom
modest=humil diligent atent=zorg pacienc lert=kompetent grav sincer fier=orgojl serioz"""
_COLOURS = "ruĝ=skarlat blu=lazur verd flav nigr blank griz brun purpur viol"
_MANNERS = """hast silent volont klar laŭt ĝoj=gaj ruz subit=abrupt oft rar fakt sekret maten vesper
nokt tag somer vintr aŭtun printemp hejm ĝarden=park strat mont mar=ocean urb vilaĝ kastel=palac
merkat=bazar haven insul kamp plaĝ=strand dezert hotel restoraci teatr muze bibliotek prizon stadion"""

_TENSES = {"prezenco": "as", "pasinteco": "is", "futuro": "os"}
_CONDITIONAL = "kondiĉa"  # the mood in -us; it has no tense
_ORDERS = ("SVO", "SOV", "OVS", "OSV", "VSO", "VOS")  # all grammatical: the accusative marks the object


class SampleExists(UserError, FileExistsError):
    """The directory for a sample holds pairs already."""


@cache
def _classes(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(entry.split("=")) for entry in text.split())


_ACTORS = {name for text in (_PERSONS, _ANIMALS) for names in _classes(text) for name in names}


def roots() -> set[str]:
    """Every root of the lexicon."""
    texts = (_PERSONS, _ANIMALS, _THINGS, _DONE_TO_BEINGS, _DONE_TO_THINGS, _QUALITIES, _COLOURS)
    words = " ".join((*texts, _MANNERS)).replace("=", " ").split()
    return {word.split("-")[0] for word in words}


@dataclass(frozen=True)
class Word:
    """One of several near-synonyms, or its opposite by the prefix `mal`."""

    synonyms: tuple[str, ...]
    choice: int = 0
    opposite: bool = False

    @property
    def parts(self) -> list[str]:
        """The root and its suffixes."""
        return self.synonyms[self.choice].split("-")

    def inflected(self, ending: str, plural: bool = False, accusative: bool = False) -> str:
        return "mal" * self.opposite + "".join(self.parts) + ending + "j" * plural + "n" * accusative


@dataclass(frozen=True)
class NounPhrase:
    noun: Word
    plural: bool
    definite: bool
    adjectives: tuple[Word, ...]


@dataclass(frozen=True)
class Clause:
    phrases: tuple[NounPhrase, NounPhrase]  # subject and object
    verb: Word
    adverbs: tuple[Word, ...]
    tense: str  # or the conditional mood
    order: str

    @property
    def words(self) -> tuple[Word, ...]:
        subject, object = self.phrases
        nouns, adjectives = (subject.noun, object.noun), subject.adjectives + object.adjectives
        return (*nouns, self.verb, *self.adverbs, *adjectives)

    def with_phrase(self, number: int, phrase: NounPhrase) -> Clause:
        """The clause with its subject (0) or object (1) replaced."""
        subject, object = self.phrases
        return replace(self, phrases=(subject, phrase) if number else (phrase, object))


def _word(draw: random.Random, text: str, opposite: float = 0.0) -> Word:
    synonyms = draw.choice(_classes(text))
    return Word(synonyms, draw.randrange(len(synonyms)), draw.random() < opposite)


def _adjective(draw: random.Random) -> Word:
    return _word(draw, _COLOURS) if draw.random() < 0.15 else _word(draw, _QUALITIES, opposite=0.4)


def _noun_phrase(draw: random.Random, text: str) -> NounPhrase:
    count = draw.choices((0, 1, 2), (3, 5, 2))[0]
    adjectives = tuple(_adjective(draw) for _ in range(count))
    return NounPhrase(_word(draw, text), draw.random() < 0.3, draw.random() < 0.6, adjectives)


def _clause(draw: random.Random) -> Clause:
    beings = draw.random() < 0.75
    subject = _noun_phrase(draw, draw.choice((_PERSONS, _ANIMALS)))
    others = draw.choice((_PERSONS, _ANIMALS)) if beings else _THINGS
    verb = _word(draw, _DONE_TO_BEINGS if beings else _DONE_TO_THINGS)
    object = _noun_phrase(draw, others)
    adverbs = tuple(_word(draw, _MANNERS) for _ in range(draw.choice((0, 1, 1))))
    tense = _CONDITIONAL if draw.random() < 0.1 else draw.choice(list(_TENSES))
    clause = Clause((subject, object), verb, adverbs, tense, draw.choice(_ORDERS[:1] * 4 + _ORDERS))
    return clause if subject.noun.synonyms != object.noun.synonyms else _clause(draw)


# Variations of a clause return None where they are not possible. These keep the meaning:


def _synonym(clause: Clause, draw: random.Random) -> Clause | None:
    words = [word for word in clause.words if len(word.synonyms) > 1]
    if not words:
        return None
    old = draw.choice(words)
    new = replace(old, choice=(old.choice + 1) % len(old.synonyms))

    def swap(*words: Word) -> tuple[Word, ...]:
        return tuple(new if word is old else word for word in words)

    for number, phrase in enumerate(clause.phrases):
        phrase = replace(phrase, noun=swap(phrase.noun)[0], adjectives=swap(*phrase.adjectives))
        clause = clause.with_phrase(number, phrase)
    return replace(clause, verb=swap(clause.verb)[0], adverbs=swap(*clause.adverbs))


def _added_modifier(clause: Clause, draw: random.Random) -> Clause | None:
    """One more adverb, or an adjective for a noun that has fewer than two."""
    number = draw.choice((0, 1, None, None))  # of the phrase that gets an adjective
    if number is None:
        added = _word(draw, _MANNERS)
        known = [word.synonyms for word in clause.adverbs]
        return None if added.synonyms in known else replace(clause, adverbs=(*clause.adverbs, added))
    return _with_adjective(clause, number, _adjective(draw))


def _with_adjective(clause: Clause, number: int, added: Word) -> Clause | None:
    """None if the phrase has two adjectives already, or this one or a synonym."""
    phrase = clause.phrases[number]
    known = [word.synonyms for word in phrase.adjectives]
    if len(known) > 1 or added.synonyms in known:
        return None
    return clause.with_phrase(number, replace(phrase, adjectives=(*phrase.adjectives, added)))


def _other_tense(clause: Clause, draw: random.Random) -> Clause | None:
    if clause.tense == _CONDITIONAL:
        return None
    return replace(clause, tense=draw.choice([tense for tense in _TENSES if tense != clause.tense]))


def _other_order(clause: Clause, draw: random.Random) -> Clause:
    return replace(clause, order=draw.choice([order for order in _ORDERS if order != clause.order]))


# These keep the roots and change the meaning:


def _exchanged(clause: Clause, draw: random.Random) -> Clause | None:
    """Subject and object exchanged, if the object is a being, which can act."""
    subject, object = clause.phrases
    can_act = "-".join(object.noun.parts) in _ACTORS
    return replace(clause, phrases=(object, subject)) if can_act else None


def _opposite(clause: Clause, draw: random.Random) -> Clause | None:
    """One quality replaced by its opposite."""
    places = [
        (number, place)
        for number, phrase in enumerate(clause.phrases)
        for place, word in enumerate(phrase.adjectives)
        if word.synonyms in _classes(_QUALITIES)
    ]
    if not places:
        return None
    number, place = draw.choice(places)
    words = list(clause.phrases[number].adjectives)
    words[place] = replace(words[place], opposite=not words[place].opposite)
    return clause.with_phrase(number, replace(clause.phrases[number], adjectives=tuple(words)))


def _moved_modifier(clause: Clause, draw: random.Random) -> Clause | None:
    """An adjective moved to the other noun."""
    giver, taker = draw.sample((0, 1), 2)
    if not (adjectives := clause.phrases[giver].adjectives):
        return None
    without = replace(clause.phrases[giver], adjectives=adjectives[:-1])
    return _with_adjective(clause.with_phrase(giver, without), taker, adjectives[-1])


Maker = Callable[[random.Random], tuple[Clause, Clause]]
_SAME = (_synonym, _added_modifier, _other_tense, _other_order)
_HARD = (_exchanged, _opposite, _moved_modifier)


def _positive(draw: random.Random) -> tuple[Clause, Clause]:
    """Two variations of the four that keep the meaning; at least one changes the words."""
    first = _clause(draw)
    second: Clause | None = first
    for change in (draw.choice(_SAME[:2]), draw.choice(_SAME)):
        second = change(second, draw) if second else None
    return (first, second) if second and second != first else _positive(draw)


def _hard_negative(draw: random.Random) -> tuple[Clause, Clause]:
    first = _clause(draw)
    second = draw.choice(_HARD)(first, draw)
    for harmless in (_other_tense, _other_order):
        if second and draw.random() < 0.25:
            second = harmless(second, draw)
    return (first, second) if second else _hard_negative(draw)


def _easy_negative(draw: random.Random) -> tuple[Clause, Clause]:
    """Two clauses; half of the pairs share subject and verb."""
    first, second = _clause(draw), _clause(draw)
    if draw.random() < 0.5:
        phrases = first.phrases[0], second.phrases[1]
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
    directory = Path(directory)
    for name, count in {"positives": positives, "negatives": negatives}.items():
        if count < 1:
            raise ConfigError(f"{name} is {count}, expected at least 1.")
    if existing := listed(directory, "*_pairs.jsonl*"):
        raise SampleExists(f"{existing[0]} exists already. Choose another directory or remove it.")
    excluded = set() if unlike is None else _sentences(Path(unlike))
    if unlike is not None and not excluded:
        raise ConfigError(f"unlike is {str(unlike)!r}, expected a directory with *_pairs.jsonl.")
    draw = random.Random(f"treelstm sample {seed}")
    hard = negatives // 2
    makers = [_hard_negative] * hard + [_easy_negative] * (negatives - hard)
    counts = {"num_positive_pairs": positives, "num_negative_pairs": negatives}
    counts["total_pairs"] = positives + negatives
    files = {
        "positive_pairs.jsonl": _pairs(draw, 1, [_positive] * positives, excluded),
        "negative_pairs.jsonl": _pairs(draw, 0, makers, excluded),
        "metadata.json": json.dumps(counts, indent=1),
    }
    make_directory(directory)
    for name, content in files.items():
        write_whole(directory / name, content.encode())


def _pairs(draw: random.Random, label: int, makers: Sequence[Maker], excluded: set[str]) -> str:
    """A file of one pair a line, made by each of `makers`, in random order."""
    lines: list[str] = []
    for make in makers:
        pair = make(draw)
        while not excluded.isdisjoint(_text(clause) for clause in pair):
            pair = make(draw)
        lines.append(json.dumps(_record(pair, label, len(lines)), ensure_ascii=False))
    draw.shuffle(lines)
    return "\n".join(lines) + "\n"


def _sentences(directory: Path) -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in listed(directory, "*_pairs.jsonl"))
    records = [json.loads(line) for text in texts for line in text.splitlines()]
    return {record[side]["sentence"] for record in records for side in ("ast1", "ast2")}


def _record(pair: tuple[Clause, Clause], label: int, number: int) -> dict[str, Any]:
    sides = [
        {"sentence": _text(clause), "source_file": "sample", "sentence_id": id, "ast": _ast(clause)}
        for id, clause in enumerate(pair, 2 * number)
    ]
    first, second = ({word.parts[0] for word in clause.words} for clause in pair)
    overlap = len(first & second) / len(first | second)  # Jaccard, as in real corpora of the format
    return {"ast1": sides[0], "ast2": sides[1], "similarity": round(overlap, 3), "label": label}


def _phrase_text(phrase: NounPhrase, accusative: bool) -> str:
    words = ["la"] if phrase.definite else []
    words += [word.inflected("a", phrase.plural, accusative) for word in phrase.adjectives]
    return " ".join([*words, phrase.noun.inflected("o", phrase.plural, accusative)])


def _text(clause: Clause) -> str:
    subject, object = clause.phrases
    verb = clause.verb.inflected(_TENSES.get(clause.tense, "us"))
    parts = {"S": _phrase_text(subject, False), "V": verb, "O": _phrase_text(object, True)}
    words = [parts[letter] for letter in clause.order]
    text = " ".join(words + [word.inflected("e") for word in clause.adverbs])
    return f"{text[0].upper()}{text[1:]}."


def _word_ast(
    word: Word, kind: str, ending: str, plural: bool = False, accusative: bool = False
) -> dict[str, Any]:
    root, *suffixes = word.parts
    return {
        "tipo": "vorto",
        "plena_vorto": word.inflected(ending, plural, accusative),
        "radiko": root,
        "vortspeco": kind,
        "nombro": "pluralo" if plural else "singularo",
        "kazo": "akuzativo" if accusative else "nominativo",
        "prefikso": "mal" if word.opposite else None,
        "sufiksoj": suffixes,
    }


def _phrase_ast(phrase: NounPhrase, accusative: bool) -> dict[str, Any]:
    form = phrase.plural, accusative
    ast = {
        "tipo": "vortgrupo",
        "kerno": _word_ast(phrase.noun, "substantivo", "o", *form),
        "priskriboj": [_word_ast(word, "adjektivo", "a", *form) for word in phrase.adjectives],
    }
    return ast | ({"artikolo": "la"} if phrase.definite else {})


def _ast(clause: Clause) -> dict[str, Any]:
    subject, object = clause.phrases
    verb = _word_ast(clause.verb, "verbo", _TENSES.get(clause.tense, "us"))
    return {
        "tipo": "frazo",
        "subjekto": _phrase_ast(subject, accusative=False),
        "verbo": verb | {"modo" if clause.tense == _CONDITIONAL else "tempo": clause.tense},
        "objekto": _phrase_ast(object, accusative=True),
        "aliaj": [_word_ast(word, "adverbo", "e") for word in clause.adverbs],
    }
