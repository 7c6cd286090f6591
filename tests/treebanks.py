"""Inputs of every format that the readers know, written here, and ways to compare and to damage them."""

from __future__ import annotations

import contextlib
import json
import random
import re
from pathlib import Path
from typing import Any

import conllu

import treelstm
from treelstm.data.problems import DataError
from treelstm.data.readers.formats import as_json, iterate_trees, write_trees

CONLLU = """\
# newdoc id = d1
# sent_id = s1
# text = La hundo kuras.
1\tLa\tla\tDET\tART\t_\t2\tdet\t2:det\t_
2\thundo\thundo\tNOUN\t_\tCase=Nom|Number=Sing\t3\tnsubj\t_\t_
3\tkuras\tkuri\tVERB\t_\tTense=Pres\t0\troot\t_\tSpaceAfter=No
4\t.\t.\tPUNCT\t_\t_\t3\tpunct\t_\t_

# sent_id = s2
# text = Im Haus und vor dem _ steht er 10 000 mal.
1-2\tIm\t_\t_\t_\t_\t_\t_\t_\t_
1\tIn\tin\tADP\tAPPR\t_\t3\tcase\t3:case\t_
2\tdem\tder\tDET\tART\tCase=Dat|Gender=Masc,Neut\t3\tdet\t3:det\t_
3\tHaus\tHaus\tNOUN\tNN\t_\t8\tobl\t8:obl:in\t_
4\tund\tund\tCCONJ\tKON\t_\t7\tcc\t7:cc\t_
5\tvor\tvor\tADP\tAPPR\t_\t7\tcase\t7:case\t_
6\tdem\tder\tDET\tART\tNumber[psor]=Sing\t7\tdet:poss\t7:det:poss\t_
7\t_\t_\tSYM\t_\t_\t3\tconj\t3:conj\t_
8\tsteht\tstehen\tVERB\tVVFIN\t_\t0\troot\t0:root\t_
8.1\tgehen\tgehen\tVERB\t_\t_\t_\t_\t8:conj\t_
9\ter\ter\tPRON\tPPER\t_\t8\tnsubj\t8:nsubj\t_
10\t10 000\t_\tNUM\t_\tNumType=Card\t11\tnummod\t_\t_
11\tmal\tmal\tADV\t_\t_\t8\tadvmod\t_\t_
"""
BRACKETS = """\
*x*x*x*x*x*x*x

( (S
    (NP-SBJ-1
      (NP (NNP Pierre) (NNP Vinken) )
      (, ,) )
    (VP (MD will)
      (VP (VB join)
        (NP (-NONE- *T*-1))
        (NP (-LRB- -LRB-) (DT the) (NN board\\/staff) )
        (PP-CLR=2 (IN as) )
        (NP-TMP-PRD (NNP Nov.) (CD 29) )))
    (. .) ))
(S (NP we) (VP go now)) (X (A a)(B b))
"""
GOLD = "(3 (2 It) (4 (2 's) (3 (2 -LRB-) (2 good))))\n(0 (1 no) (2 .))\n"
SPACY = {
    "text": "A dog runs. It ca n't\n",
    "sents": [{"start": 0, "end": 11}, {"start": 12, "end": 21}],
    "tokens": [
        {"id": 0, "start": 0, "end": 1, "tag": "DT", "pos": "DET", "morph": "", "lemma": "a",
         "dep": "det", "head": 1},
        {"id": 1, "start": 2, "end": 5, "pos": "NOUN", "morph": "Number=Sing", "dep": "nsubj",
         "head": 2},
        {"id": 2, "start": 6, "end": 10, "tag": "VBZ", "pos": "VERB", "dep": "ROOT", "head": 2},
        {"id": 3, "start": 10, "end": 11, "dep": "punct", "head": 2},
        {"id": 4, "start": 12, "end": 14, "pos": "PRON", "dep": "nsubj", "head": 5},
        {"id": 5, "start": 15, "end": 17, "tag": "MD", "dep": "ROOT", "head": 5},
        {"id": 6, "start": 18, "end": 21, "dep": "", "head": 5},
    ],
}  # fmt: skip
STANZA: list[Any] = [
    [
        {"id": [1, 2], "text": "Im", "start_char": 0, "end_char": 2},
        {"id": 1, "text": "In", "upos": "ADP", "head": 3, "deprel": "case", "feats": "A=B|C=D,E"},
        {"id": 2, "text": "dem", "xpos": "DT", "head": 3, "deprel": "det"},
        {"id": 3, "text": "Haus", "lemma": "Haus", "head": 0, "deprel": "root", "misc": "start_char=3"},
    ],
    [{"id": [1], "text": "ja", "head": 0, "deprel": "root"}],
]
CORENLP = {
    "sentences": [
        {
            "index": 0,
            "parse": "(ROOT\r\n  (X (NN A) (VB b)))",
            "basicDependencies": [
                {"dep": "ROOT", "governor": 0, "governorGloss": "ROOT", "dependent": 2},
                {"dep": "nsubj", "governor": 2, "dependent": 1, "dependentGloss": "A"},
            ],
            "tokens": [
                {"index": 1, "word": "A", "originalText": "a", "lemma": "a", "pos": "NN", "after": " "},
                {"index": 2, "word": "b", "pos": "VB", "after": ""},
                {"index": 3, "word": ".", "pos": ".", "after": ""},
            ],
        }
    ]
}
PY150 = [
    {"type": "Module", "children": [1, 3]},
    {"type": "Expr", "children": [2]},
    {"type": "NameLoad", "value": "x"},
    {"type": "Num", "value": "3"},
    0,
]
ASTMINER = {
    "label": "main",
    "path": "src/1.java",
    "ast": [
        {"token": "EMPTY", "typeLabel": "CompilationUnit", "children": [1, 2]},
        {"token": "class", "typeLabel": "TypeDeclaration", "children": []},
        {"token": "x", "typeLabel": "Name", "children": []},
    ],
}
LINKED = {
    "nodes": [{"id": "r", "kind": "root", "parent": None}, {"id": "a", "kind": "x", "parent": "r"}]
}
POINTERS = {
    "a.parents": "2 3 0 3\n2 0 -1\n",
    "a.toks": "the dog runs .\nit ran .\n",
    "a.rels": "det nsubj root punct\nnsubj root null\n",
    "a.labels": "# 1 2 #\n0 1 #\n",
    "a.txt": "the dog runs.\nit ran.\n",
    "b.cparents": "4 4 5 5 0\n",
    "b.toks": "the dog runs\n",
}
RECORDS = [
    {
        "id": 7,
        "sentence": "s",
        "label": "good",
        "ast": {"type": "x", "kids": [{"type": "y"}, {"n": 1.5}]},
    },
    {"type": "bare", "args": [{"type": "z"}, "text"]},
]


def lines_of(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


# Format -> files; the first one is read.
EXAMPLES: dict[str, dict[str, str]] = {
    "conllu": {"a.conllu": CONLLU},
    "brackets": {"a.mrg": BRACKETS},
    "gold": {"a.txt": GOLD},
    "spacy": {"a.jsonl": lines_of(SPACY, SPACY)},
    "stanza": {"a.json": json.dumps(STANZA, indent=1)},
    "corenlp": {"a.json": json.dumps(CORENLP, indent=2)},
    "nodes": {"a.json": lines_of(PY150, ASTMINER, LINKED)},
    "parents": POINTERS,
    "constituency": {name: POINTERS[name] for name in ("b.cparents", "b.toks")},
    "trees": {"a.jsonl": lines_of(*RECORDS)},
}


def rebuilt(ast: dict[str, Any], relation: str = "root") -> tuple[Any, ...]:
    """The basic tree that an AST of a sentence stands for; the order of siblings aside."""
    symbols, children = [], []
    for key, value in ast.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                children.append(rebuilt(each, key))
            else:
                symbols.append((key, each))
    return relation, tuple(sorted(symbols)), tuple(sorted(children))


def as_read(sentence: str) -> tuple[Any, ...]:
    """The same of a sentence of CoNLL-U, read by the package conllu alone."""

    def tree(node: Any) -> tuple[Any, ...]:
        token = node.token
        symbols = [(key, token[key]) for key in ("form", "lemma") if token[key] != "_"]
        symbols += [("upos", token["upos"])] if token["upos"] != "_" else []
        symbols += [("xpos", token["xpos"])] if token["upos"] == "_" and token["xpos"] else []
        for name, values in (token["feats"] or {}).items():
            symbols += [(name, value) for value in values.split(",")]
        return token["deprel"], tuple(sorted(symbols)), tuple(sorted(map(tree, node.children)))

    return tree(conllu.parse(sentence)[0].to_tree())


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    99,
    1.5,
    2**70,
    "",
    "x",
    "_",
    [],
    {},
    [[]],
    [None],
    {"ast": {"ast": {}}},
]


def with_odd_value(value: Any, draw: random.Random) -> Any:
    """A JSON value where one of the values inside is another one, or is missing, or is there twice."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.1:
        return draw.choice(ODD)
    if isinstance(value, dict):
        key = draw.choice(list(value))
        if draw.random() < 0.1:
            return {each: inside for each, inside in value.items() if each != key}
        return value | {key: with_odd_value(value[key], draw)}
    place = draw.randrange(len(value))
    if draw.random() < 0.2:
        return value[:place] + value[place + 1 :] * draw.choice([1, 2])
    return [*value[:place], with_odd_value(value[place], draw), *value[place + 1 :]]


def damaged(raw: bytes, draw: random.Random) -> bytes:
    """A few bytes, a number, a value, a stretch or a line changed, cut out, repeated or moved."""
    if raw[:1] in b"[{" and raw and draw.random() < 0.7:
        with contextlib.suppress(ValueError):
            values = [json.loads(raw)] if b"\n " in raw else list(map(json.loads, raw.splitlines()))
            values[0] = with_odd_value(values[0], draw)
            return lines_of(*values).encode()
    place = draw.randrange(len(raw) + 1)
    stretch = raw[place : place + draw.choice([1, 3, 20, 200])]
    after = raw[place + len(stretch) :]
    lines = raw.splitlines(keepends=True)
    match draw.randrange(8):
        case 0:
            return raw[:place] + draw.randbytes(len(stretch)) + after
        case 1:
            return raw[:place] + after
        case 2:
            return raw[:place] + stretch * draw.choice([2, 2, 50]) + after
        case 3:
            return raw[:place]
        case 4:
            draw.shuffle(lines)
            return b"".join(lines)
        case 5:
            odd = [
                b"\0",
                b"\r",
                b"\xff",
                b"\xed\xa0\x80",
                b"\xef\xbb\xbf",
                b"(",
                b")",
                b"\t",
                b"\n",
                b"_",
            ]
            odd += [b'"', b"{", b"}", b"[", b"]", b"(", b")", b"null", b"9" * 5000, b"NaN", b"\\ud800"]
            return raw[:place] + draw.choice(odd) + raw[place:]
        case 6:
            digits = [i for i, byte in enumerate(raw) if byte in b"0123456789"] or [0]
            at = draw.choice(digits)
            return (
                raw[:at]
                + draw.choice([b"0", b"-1", b"99", b"1.5", b"", b'"x"', b"null"])
                + raw[at + 1 :]
            )
        case _:
            return raw.replace(b"\n", draw.choice([b"\r\n", b"\r", b"", b"\n\n"]))


def trees_or_problems(directory: Path, files: dict[str, str], draw: random.Random) -> str:
    """Damages one to three times one of the files, and reads them: "trees" or "problems".

    Raises AssertionError, or whatever the reader raises, where it is neither.
    """
    raws = {name: text.encode() for name, text in files.items()}
    name = draw.choice(list(raws))
    for _ in range(draw.choice([1, 1, 2, 3])):
        raws[name] = damaged(raws[name], draw)
    for each, raw in raws.items():
        (directory / each).write_bytes(raw)
    path = directory / next(iter(files))
    try:
        write_trees(directory / "trees.jsonl", iterate_trees([path]))
        trees = treelstm.read_trees(path)
    except DataError as error:
        for problem in error.problems.shown:
            assert re.match(rf"{re.escape(str(directory))}/[^:]+(:\d+)?: .", problem.found), problem
            assert problem.remedy and len(problem.found) < 600 and "Traceback" not in problem.found
        return "problems"
    finally:
        for each in raws:
            (directory / each).unlink()
    assert all(tree.id and isinstance(tree.ast, dict) and tree.ast for tree in trees)
    assert all(as_json(tree.ast) and str(tree) for tree in trees)
    return "trees"
