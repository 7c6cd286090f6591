"""A treebank in CoNLL-U, made by a small English grammar: `python tests/treebank.py DIRECTORY`.

A file is a story of two beings and two deeds. Each of its sentences says who did what to whom, in one
of four ways: active, passive, cleft, or with the object in front. What it says is its label, so that
sentences of one label mean the same, and those of one story that differ may have the same words.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path

BEINGS = (
    "baker bear bird boy cat clown cook cow dancer dog duck farmer fox girl goat guard horse king "
    "knight lion monkey mouse nurse painter pilot pirate queen rabbit sailor sheep singer snake "
    "soldier teacher thief tiger waiter wolf writer zebra"
).split()
DEEDS = dict(
    pair.split("-")
    for pair in (
        "admire-admired attack-attacked chase-chased follow-followed greet-greeted help-helped "
        "hear-heard invite-invited kick-kicked lead-led lift-lifted paint-painted praise-praised "
        "push-pushed rescue-rescued thank-thanked trick-tricked visit-visited warn-warned watch-watched"
    ).split()
)

Word = tuple[str, str, str, str, int, str]  # form, lemma, upos, feats, head, deprel


def _noun(lemma: str, head: int, deprel: str, at: int) -> list[Word]:
    """The article and the noun; the article is word `at`."""
    article = ("the", "the", "DET", "Definite=Def|PronType=Art", at + 1, "det")
    return [article, (lemma, lemma, "NOUN", "Number=Sing", head, deprel)]


def sentences(actor: str, deed: str, other: str) -> Iterator[list[Word]]:
    past = DEEDS[deed]
    verb = ("VERB", "Mood=Ind|Tense=Past|VerbForm=Fin")
    yield [
        *_noun(actor, 3, "nsubj", 1),
        (past, deed, *verb, 0, "root"),
        *_noun(other, 3, "obj", 4),
    ]
    yield [
        *_noun(other, 4, "nsubj:pass", 1),
        ("was", "be", "AUX", "Mood=Ind|Tense=Past|VerbForm=Fin", 4, "aux:pass"),
        (past, deed, "VERB", "Tense=Past|VerbForm=Part|Voice=Pass", 0, "root"),
        ("by", "by", "ADP", "_", 7, "case"),
        *_noun(actor, 4, "obl:agent", 6),
    ]
    yield [
        ("it", "it", "PRON", "PronType=Prs", 4, "expl"),
        ("was", "be", "AUX", "Mood=Ind|Tense=Past|VerbForm=Fin", 4, "cop"),
        *_noun(actor, 0, "root", 3),
        ("that", "that", "PRON", "PronType=Rel", 6, "nsubj"),
        (past, deed, *verb, 4, "acl:relcl"),
        *_noun(other, 6, "obj", 7),
    ]
    yield [
        *_noun(other, 6, "obj", 1),
        (",", ",", "PUNCT", "_", 2, "punct"),
        *_noun(actor, 6, "nsubj", 4),
        (past, deed, *verb, 0, "root"),
    ]


def write_treebank(directory: Path, stories: int = 60, seed: int = 0) -> None:
    """A file for each story, of 4 deeds in 4 ways: 16 sentences."""
    directory.mkdir(parents=True, exist_ok=True)
    draw = random.Random(f"treebank {seed}")
    for story in range(stories):
        parts = list[str]()
        who, what = draw.sample(BEINGS, 2), draw.sample(sorted(DEEDS), 2)
        for (actor, other), deed in product(permutations(who, 2), what):
            for way, words in enumerate(sentences(actor, deed, other), 1):
                text = " ".join(word[0] for word in words).replace(" ,", ",").capitalize() + "."
                rows = [
                    f"{number}\t{form}\t{lemma}\t{upos}\t_\t{feats}\t{head}\t{deprel}\t_\t_\n"
                    for number, (form, lemma, upos, feats, head, deprel) in enumerate(words, 1)
                ]
                label = f"{actor} {deed} {other}"
                about = f"# sent_id = {story}-{label.replace(' ', '-')}-{way}\n# text = {text}\n"
                parts.append(f"{about}# label = {label}\n{''.join(rows)}\n")
        (directory / f"story{story:03}.conllu").write_text("".join(parts))


if __name__ == "__main__":
    write_treebank(Path(sys.argv[1]))
