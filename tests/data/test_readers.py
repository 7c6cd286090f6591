"""Trees from what parsers write: each construct of each format, round trips, every kind of damage."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import threading
import time
import tracemalloc

import pytest
from treebanks import (
    ASTMINER,
    BRACKETS,
    CONLLU,
    CORENLP,
    EXAMPLES,
    GOLD,
    LINKED,
    POINTERS,
    PY150,
    RECORDS,
    SPACY,
    STANZA,
    as_read,
    lines_of,
    rebuilt,
    trees_or_problems,
)

import treelstm
from treelstm.commands import main
from treelstm.data.problems import DataError
from treelstm.data.readers.formats import as_json, iterate_trees


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def asts(path, format=None):
    return [tree.ast for tree in treelstm.read_trees(path, format)]


def problems_of(path, format=None):
    with pytest.raises(DataError) as caught:
        treelstm.read_trees(path, format)
    shown = caught.value.problems.shown
    assert all(each.found and each.remedy for each in shown)
    return [each.found.removeprefix(str(path)) for each in shown]


# CoNLL-U


def test_a_sentence_of_conllu_is_nested_by_head_with_relations_as_keys(tmp_path):
    tree = treelstm.read_trees(write(tmp_path / "a.conllu", CONLLU))[0]
    assert (tree.id, tree.sentence, tree.label, tree.line) == ("s1", "La hundo kuras.", None, 1)
    assert tree.ast == {
        "form": "kuras", "lemma": "kuri", "upos": "VERB", "Tense": "Pres",
        "nsubj": {
            "form": "hundo", "lemma": "hundo", "upos": "NOUN", "Case": "Nom", "Number": "Sing",
            "det": {"form": "La", "lemma": "la", "upos": "DET"},
        },
        "punct": {"form": ".", "lemma": ".", "upos": "PUNCT"},
    }  # fmt: skip


def test_multiword_tokens_empty_nodes_subtypes_layers_and_underscores_of_conllu(tmp_path):
    ast = asts(write(tmp_path / "a.conllu", CONLLU))[1]
    haus = ast["obl"]
    assert [haus["case"]["form"], haus["det"]["form"]] == ["In", "dem"], "words, not the token Im"
    assert haus["det"]["Gender"] == ["Masc", "Neut"]
    underscore = haus["conj"]
    assert (underscore["form"], underscore["lemma"], underscore["upos"]) == ("_", "_", "SYM")
    assert underscore["det:poss"]["Number[psor]"] == "Sing"
    number = ast["advmod"]["nummod"]
    assert number == {"form": "10 000", "upos": "NUM", "NumType": "Card"}, "no lemma is no symbol"
    assert "conj" not in ast, "the empty node stays out"


def test_what_the_trees_have_no_place_for_is_said_once_with_its_count(tmp_path, capsys):
    assert main(["trees", str(write(tmp_path / "a.conllu", CONLLU))]) == 0
    said = capsys.readouterr().out
    for part in ("2 trees", "empty nodes (1)", "multiword tokens (1)", "enhanced dependencies (11)"):
        assert said.count(part) == 1


def row(number, head, relation="dep", form="a", **other):
    columns = {"LEMMA": "_", "UPOS": "X", "XPOS": "_", "FEATS": "_"} | other
    return "\t".join([str(number), form, *columns.values(), str(head), relation, "_", "_"]) + "\n"


def test_several_roots_hang_under_a_node_without_symbols(tmp_path):
    text = row(1, 0, "root") + row(2, 0, "root", "b") + row(3, 2, "obj", "c")
    (ast,) = asts(write(tmp_path / "a.conllu", text))
    c = {"form": "c", "upos": "X"}
    assert ast == {"root": [{"form": "a", "upos": "X"}, {"form": "b", "upos": "X", "obj": c}]}


@pytest.mark.parametrize(
    ("rows", "line", "found"),
    [
        ([row(1, 1)], 1, "node 1 has the head 1, which does not lead to a root"),
        ([row(1, 0), row(2, 3), row(3, 2)], 2, "node 2 has the head 3, which does not lead to a root"),
        ([row(1, 2), row(2, 1)], 1, "node 1 has the head 2, which does not lead to a root"),
        ([row(1, 0), row(2, 7)], 2, "node 2 has the head 7, which does not lead to a root"),
        ([row(1, "_")], 1, "HEAD is _"),
        ([row(1, -2)], 1, "HEAD is -2"),
        ([row(1, "x")], 1, "'x' is not a valid value"),
        ([row(1, 0, "_")], 1, "DEPREL is _"),
        ([row(1, 0), row(3, 1)], 2, "ID is 3, but 2 is the next word"),
        ([row(1, 0), row(1, 0)], 2, "ID is 1, but 2 is the next word"),
        ([row("1a", 0)], 1, "'1a' is not a valid ID"),
        ([row("2-3", "_"), row(1, 0)], 1, "ID is 2-3, but 1 is the next word"),
        ([row(1, 0), row("3.1", "_")], 2, "ID is 3.1, but 2 is the next word"),
        ([row(1, 0), "2 b _ X _ _ 1 dep _ _\n"], 2, "1 columns, expected 10"),
        ([row(1, 0), "2\tb\n"], 2, "2 columns, expected 10"),
        ([row(1, 0, form="")], 1, "10 columns, .* none of them empty"),
        ([row(1, 0, FEATS="Case")], 1, "the features are Case"),
        ([row(1, 0, FEATS="Case=")], 1, "the features are Case="),
        (["# text = no words\n"], 1, "a sentence without words"),
        ([row(1, 0, form="a\0b")], 1, "not UTF-8 text .character 4 of the line is 0x00"),
        ([row(1, 0, form="a\rb")], 1, "not UTF-8 text .character 4 of the line is 0x0d"),
        ([row("9" * 5000, 0)], 1, "is not a valid|Exceeds the limit"),
    ],
)
def test_every_problem_of_conllu_is_told_by_its_line(tmp_path, rows, line, found):
    path = write(tmp_path / "a.conllu", CONLLU + "\n" + "".join(rows))
    (problem, *_) = problems_of(path)
    first = CONLLU.count("\n") + 1
    assert re.match(f":{first + line}: .*({found})", problem), problem


def test_problems_of_several_files_and_sentences_come_in_one_error(tmp_path):
    bad = row(1, 1) + "\n" + row(1, 0) + "\n" + row(2, 0)
    for name in ("a.conllu", "b.conllu"):
        write(tmp_path / name, bad)
    assert [each[:11] for each in problems_of(tmp_path)] == [
        f"/{name}.conllu:{line}"[:11] for name in "ab" for line in (1, 5)
    ]


def test_a_thousand_sentences_can_be_rebuilt_from_their_trees(tmp_path):
    draw, sentences = random.Random(0), []
    for number in range(1000):
        size = draw.randint(1, 12)
        order = draw.sample(range(1, size + 1), size)  # each word's head comes before it in this order
        heads = {word: draw.choice([*order[:place], order[0]]) for place, word in enumerate(order)}
        heads[order[0]] = 0
        text = f"# sent_id = {number}\n"
        for word in range(1, size + 1):
            feats = draw.choice(["_", "Case=Nom", "Case=Acc,Nom|Number[psor]=Sing"])
            relation = draw.choice(["nsubj", "nmod:poss", "obj"]) if heads[word] else "root"
            lemma = draw.choice("_abc")
            text += row(word, heads[word], relation, draw.choice("xyz"), LEMMA=lemma, FEATS=feats)
        sentences.append(text)
    path = write(tmp_path / "a.conllu", "\n".join(sentences))
    assert [rebuilt(ast) for ast in asts(path)] == list(map(as_read, sentences))


# Brackets


def test_the_constructs_of_the_penn_treebank(tmp_path, capsys):
    trees = treelstm.read_trees(write(tmp_path / "a.mrg", BRACKETS))
    assert [tree.line for tree in trees] == [3, 14, 14]
    first = trees[0]
    assert first.ast["tag"] == "S", "the empty root brackets are no node"
    subject, phrase, stop = first.ast["children"]
    assert (subject["tag"], subject["function"]) == ("NP", "SBJ")
    assert stop == {"tag": ".", "form": "."}
    _, joins = phrase["children"]
    assert [each["tag"] for each in joins["children"]] == ["VB", "NP", "PP", "NP"], "no trace"
    assert joins["children"][1]["children"][0] == {"tag": "-LRB-", "form": "("}
    assert joins["children"][1]["children"][2]["form"] == "board/staff"
    assert joins["children"][2]["function"] == "CLR"
    assert joins["children"][3]["function"] == ["TMP", "PRD"]
    assert first.sentence == "Pierre Vinken , will join ( the board/staff as Nov. 29 ."
    assert trees[1].ast["children"][1] == {"tag": "VP", "children": [{"form": "go"}, {"form": "now"}]}
    main(["trees", str(tmp_path / "a.mrg")])
    assert "left out: traces (1)" in capsys.readouterr().out


def test_gold_labels_are_the_tree_s_and_not_inside_unless_asked(tmp_path):
    path = write(tmp_path / "train.txt", GOLD)
    trees = treelstm.read_trees(path)
    assert [tree.label for tree in trees] == ["3", "0"]
    assert trees[1].ast == {"children": [{"form": "no"}, {"form": "."}]}
    (_, second) = treelstm.read_trees(path, labels=True)
    assert second.ast["label"] == "0" and second.ast["children"][0] == {"form": "no", "label": "1"}
    assert trees[0].sentence == "It 's ( good"


def test_brackets_of_any_depth_are_read_written_and_drawn(tmp_path):
    text = ["(X " * depth + "(Y y)" + ")" * depth for depth in (100_000, 3000)]
    deep, drawn = treelstm.read_trees(write(tmp_path / "a.mrg", "\n".join(text)))
    node, depth = deep.ast, 0
    while "children" in node:
        (node,), depth = node["children"], depth + 1
    assert (node, depth) == ({"tag": "Y", "form": "y"}, 100_000)
    assert str(drawn).endswith("... 2,941 more nodes")
    assert as_json(drawn.ast).count(b'"tag"') == 3001


def test_json_of_deep_trees_is_that_of_shallow_ones():
    shallow = {"a": [{"b": [1, "ü", None, True]}, [], {}, [{"c": 1.5}]], "d": {}}
    deep = shallow
    for _ in range(1500):
        deep = {"k": [deep, "x"], "l": 1}
    opening, closing = '{"k": [' * 1500, ', "x"], "l": 1}' * 1500
    assert as_json(deep).decode() == opening + as_json(shallow).decode() + closing


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(S (NP a)\n", ":1: 1 brackets of this tree stay open"),
        ("(S a)\n(S a))\n", ":2: ) stands outside"),
        ("(S a)\nwords\n", ":2: words stands outside"),
        ("(S a)\n(S ())\n", ":2: a pair of brackets holds nothing"),
        ("()", ":1: a pair of brackets holds nothing"),
    ],
)
def test_every_problem_of_brackets_is_told_by_its_line(tmp_path, text, found):
    assert problems_of(write(tmp_path / "a.mrg", text))[0].startswith(found)


# Parsers


def test_spacy_s_words_come_from_offsets_and_its_roots_head_themselves(tmp_path):
    first, second = treelstm.read_trees(write(tmp_path / "a.json", json.dumps(SPACY, indent=1)))
    assert (first.sentence, second.sentence) == ("A dog runs.", "It ca n't")
    det = {"form": "A", "lemma": "a", "upos": "DET"}
    assert first.ast["nsubj"] == {"form": "dog", "upos": "NOUN", "Number": "Sing", "det": det}
    assert second.ast["form"] == "ca" and second.ast["dep"] == {"form": "n't"}
    for text in (lines_of(SPACY, SPACY), json.dumps([SPACY, SPACY])):
        assert len(asts(write(tmp_path / "a.json", text))) == 4


def test_stanza_s_lists_with_multiword_tokens(tmp_path):
    first, second = asts(write(tmp_path / "a.json", json.dumps(STANZA)))
    assert first == {
        "form": "Haus", "lemma": "Haus",
        "case": {"form": "In", "upos": "ADP", "A": "B", "C": ["D", "E"]},
        "det": {"form": "dem", "xpos": "DT"},
    }  # fmt: skip
    assert second == {"form": "ja"}
    assert asts(write(tmp_path / "b.json", json.dumps(STANZA[1]))) == [second]
    odd = [{"id": 0, "text": "a", "head": 0}, {"id": -1, "text": "b", "head": 0}]
    assert asts(write(tmp_path / "b.json", json.dumps(odd))) == [{"form": "a", "dep": {"form": "b"}}]


def test_corenlp_s_dependencies_or_its_parse_where_asked(tmp_path):
    path = write(tmp_path / "a.json", json.dumps(CORENLP, indent=2))
    (tree,) = treelstm.read_trees(path)
    assert tree.ast == {"form": "b", "xpos": "VB", "nsubj": {"form": "A", "lemma": "a", "xpos": "NN"}}
    assert tree.sentence == "a b."
    (ast,) = asts(path, "corenlp-parse")
    leaves = [{"tag": "NN", "form": "A"}, {"tag": "VB", "form": "b"}]
    assert ast == {"tag": "ROOT", "children": [{"tag": "X", "children": leaves}]}
    del (sentence := dict(CORENLP["sentences"][0]))["basicDependencies"]
    assert asts(write(tmp_path / "b.json", json.dumps({"sentences": [sentence]}))) == [ast]


def test_flat_lists_of_ids(tmp_path):
    first, second, third = treelstm.read_trees(
        write(tmp_path / "a.jsonl", lines_of(PY150, ASTMINER, LINKED))
    )
    expression = {"type": "Expr", "children": {"type": "NameLoad", "value": "x"}}
    assert first.ast == {"type": "Module", "children": [expression, {"type": "Num", "value": "3"}]}
    assert second.label == "main" and second.ast["typeLabel"] == "CompilationUnit"
    assert [child["token"] for child in second.ast["children"]] == ["class", "x"]
    assert third.ast == {"kind": "root", "children": {"kind": "x"}}


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([{"t": 1, "children": [1]}], "node 0 names a node that does not exist"),
        ([{"t": 1, "children": [1, 2]}, {"children": [2]}, {"t": 2}], "node 2 has two parents"),
        ([{"t": 1, "children": [1]}, {"children": [0]}], "0 roots"),
        ([{"children": [1]}, {"t": 1}, {"t": 1}], "2 roots"),
        ([{"children": [1]}, {}, {"children": [3]}, {"children": [2]}], "does not lead to a root"),
        ([{"children": [1]}, 5], "Expected `object`, got `int`"),
        ([{"id": 1, "parent": None}, {"id": 1, "parent": 1}], "two nodes have one id"),
    ],
)
def test_ids_that_make_no_tree_are_problems(tmp_path, nodes, found):
    (problem,) = problems_of(write(tmp_path / "a.jsonl", lines_of(PY150, nodes)))
    assert problem.startswith(":2: ") and found in problem


def test_parent_pointers_with_the_files_beside_them(tmp_path):
    for name, text in POINTERS.items():
        write(tmp_path / name, text)
    first, second = treelstm.read_trees(tmp_path / "a.parents")
    assert (first.sentence, first.label, second.label) == ("the dog runs.", "2", "1")
    dog = {"form": "dog", "det": {"form": "the"}}
    assert first.ast == {"form": "runs", "nsubj": dog, "punct": {"form": "."}}
    assert second.ast == {"form": "ran", "nsubj": {"form": "it"}}, "-1: a word outside of the tree"
    (phrase,) = asts(tmp_path / "b.cparents")
    noun = {"children": [{"form": "the"}, {"form": "dog"}]}
    assert phrase == {"children": [{"form": "runs"}, noun]}
    write(tmp_path / "a.rels", "det nsubj root punct\n")
    assert problems_of(tmp_path / "a.parents")[0].startswith(":2: a.rels ends before this line")
    (tmp_path / "a.toks").unlink()
    assert "a.toks is not beside it" in problems_of(tmp_path / "a.parents")[0]


def test_docbin_says_that_it_needs_spacy(tmp_path):
    assert "only spaCy can read it" in problems_of(write(tmp_path / "a.spacy", b"DocBin"))[0]


# What is what


def test_what_a_value_is_its_keys_tell(tmp_path):
    tokens = {"tokens": [{"id": i, "text": t, "head": 1} for i, t in enumerate("ab")]}
    ab = {"form": "b", "dep": {"form": "a"}}
    words = [{"id": 1, "text": "a", "head": 2}, {"id": 2, "text": "b", "head": 0}]
    pair = {"ast1": {"ast": "(X a)", "sentence": "s"}, "ast2": {"ast": words}, "label": 1}
    path = write(tmp_path / "a.jsonl", lines_of(tokens, {"ast": words}, "(X a)", pair, *RECORDS))
    trees = treelstm.read_trees(path)
    x = {"tag": "X", "form": "a"}
    assert [tree.ast for tree in trees] == [ab, ab, x, x, ab, RECORDS[0]["ast"], RECORDS[1]]
    assert (trees[3].sentence, trees[5].id, trees[5].label) == ("s", "7", "good")
    assert problems_of(write(tmp_path / "b.json", "3"))[0].startswith(":1: neither a tree nor")


def test_a_format_is_told_by_the_first_line_where_the_name_does_not(tmp_path):
    for text in (CONLLU, BRACKETS.partition("\n\n")[2], lines_of(SPACY), json.dumps(STANZA, indent=1)):
        assert treelstm.read_trees(write(tmp_path / "a.txt", text))
    assert "neither its name nor its first line" in problems_of(write(tmp_path / "b.txt", "words"))[0]
    assert treelstm.read_trees(write(tmp_path / "c.txt", "# c\n" + BRACKETS), "brackets")
    with pytest.raises(ValueError, match=r"konllu: no such format. The formats are conllu, "):
        treelstm.read_trees(tmp_path / "c.txt", "konllu")


@pytest.mark.parametrize("name", ["conllu", "brackets", "spacy", "stanza", "trees"])
def test_gzip_marks_and_line_ends_change_nothing_and_other_bytes_are_problems(tmp_path, name):
    (file, text), *_ = EXAMPLES[name].items()
    expected = asts(write(tmp_path / file, text))
    crlf = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    assert asts(write(tmp_path / file, crlf)) == expected
    assert asts(write(tmp_path / f"{file}.gz", gzip.compress(crlf))) == expected
    for raw, found in (
        (text.encode("utf-16"), "saved as UTF-16"),
        (text.encode().replace(b"a", b"\xff"), "not UTF-8"),
        (text.encode().replace(b"a", b"\xed\xa0\x80"), "not UTF-8"),
    ):
        assert found in problems_of(write(tmp_path / file, raw))[0]
    broken = write(tmp_path / f"{file}.gz", gzip.compress(text.encode())[:-9])
    with pytest.raises(DataError, match="copy it again if it is damaged"):
        treelstm.read_trees(broken)


def test_a_directory_gives_all_files_of_known_endings_and_ids_are_unique(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/x.mrg", "a.mrg", "notes.md"):
        write(tmp_path / name, "(S a) (S b)")
    ids = [tree.id for tree in treelstm.read_trees(tmp_path)]
    assert ids == ["a.mrg:1", "a.mrg:2", "b/x.mrg:1", "b/x.mrg:2"]
    write(tmp_path / "c.jsonl", lines_of({"id": "a.mrg:2", "ast": {"t": 1}}))
    assert problems_of(tmp_path) == ["/c.jsonl:1: the id a.mrg:2 occurs a second time"]
    assert problems_of(tmp_path / "none.mrg") == [": no such file"]
    (tmp_path / "empty").mkdir()
    assert "no file in it has a known ending" in problems_of(tmp_path / "empty")[0]
    assert problems_of(write(tmp_path / "d.conllu", "\n\n")) == [": holds no trees"]


# The command


def test_the_command_writes_the_same_bytes_each_time_and_they_can_be_read_back(tmp_path):
    paths = [write(tmp_path / "a.conllu.gz", gzip.compress(CONLLU.encode()))]
    paths.append(write(tmp_path / "sst.txt", GOLD))
    for name in ("one.jsonl.gz", "two.jsonl.gz", "plain.jsonl"):
        assert main(["trees", *map(str, paths), "--to", str(tmp_path / name)]) == 0
    one, two = ((tmp_path / name).read_bytes() for name in ("one.jsonl.gz", "two.jsonl.gz"))
    assert one == two and gzip.decompress(one) == (tmp_path / "plain.jsonl").read_bytes()
    rows = list(map(json.loads, gzip.decompress(one).splitlines()))
    assert [list(row) for row in rows[1:3]] == [
        ["id", "sentence", "source_file", "ast"], ["id", "sentence", "label", "source_file", "ast"],
    ]  # fmt: skip
    again = treelstm.read_trees(tmp_path / "one.jsonl.gz", "trees")
    first = [tree for path in paths for tree in treelstm.read_trees(path)]
    whole = [
        [(tree.id, tree.sentence, tree.label, tree.ast) for tree in them] for them in (first, again)
    ]
    assert whole[0] == whole[1]


def test_the_command_draws_what_the_encoder_will_see(tmp_path, capsys):
    path = write(tmp_path / "a.conllu", CONLLU)
    assert main(["trees", str(path), "--show", "1", "--ignored-keys", "lemma", "upos"]) == 0
    assert capsys.readouterr().out.startswith(
        "s1: La hundo kuras.\n"
        "Tense=Pres  form=kuras\n"
        "  role=punct  form=.\n"
        "  role=nsubj  Case=Nom  Number=Sing  form=hundo\n"
        "    role=det  form=La\n"
    )
    assert "role=det  form=La  lemma=la" in str(treelstm.read_trees(path)[0])


def test_odd_bytes_in_files_and_names_are_no_traceback(tmp_path, capsys):
    path, to = tmp_path / os.fsdecode(b"a\xff\n.mrg"), tmp_path / "out.jsonl"
    assert main(["trees", str(write(path, "(S a)")), "--to", str(to), "--show", "1"]) == 0
    assert json.loads(to.read_bytes())["id"] == "a\ufffd\n.mrg:1"
    assert main(["trees", str(write(path, b"(S a\xff)")), "--to", str(to), "--show", "1"]) == 1
    assert ":1: not UTF-8 text (character 5 of the line is 0xff)" in capsys.readouterr().err


def test_nothing_is_written_when_there_is_a_problem(tmp_path, capsys):
    path, to = write(tmp_path / "a.conllu", CONLLU + "\n" + CONLLU), tmp_path / "out" / "trees.jsonl.gz"
    to.parent.mkdir()
    assert main(["trees", str(path), "--to", str(to)]) == 1
    assert f"{path}:25: the id s1 occurs a second time" in capsys.readouterr().err
    assert list(to.parent.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path, capsys):
    path, to = write(tmp_path / "a.mrg", "(S (NP a))\n" * 500_000), tmp_path / "out" / "trees.jsonl"
    to.parent.mkdir()

    def interrupt():
        while not any(each.stat().st_size for each in to.parent.iterdir()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as caught:
        main(["trees", str(path), "--to", str(to)])
    thread.join()
    assert caught.value.code == 130 and "nothing was written" in capsys.readouterr().err
    assert list(to.parent.iterdir()) == []


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for count in (100, 1000):
        text = "".join(row(1, 0) + row(2, 1, form="x" * 500) + "\n" for _ in range(count))
        path = write(tmp_path / "a.conllu", text)
        tracemalloc.start()
        assert sum(1 for _ in iterate_trees([path])) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 300_000, "the ids alone are kept"


@pytest.mark.parametrize("name", EXAMPLES)
def test_damaged_files_give_trees_or_problems_and_nothing_else(tmp_path, name):
    found = {trees_or_problems(tmp_path, EXAMPLES[name], random.Random(seed)) for seed in range(40)}
    assert found == {"trees", "problems"}
