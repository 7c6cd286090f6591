"""`python -m treelstm encode` and `compare`, and what they take for a tree."""

from __future__ import annotations

import io
import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import treelstm
from treelstm import Collection
from treelstm.commands import main
from treelstm.model.encoder import TreeEncoder
from treelstm.own_trees import NotATree, as_text, compare_trees, given_tree

FIRST = {"subjekto": {"kerno": {"radiko": "hund"}}, "verbo": {"radiko": "vid"}}
SECOND = {"subjekto": {"kerno": {"radiko": "kat"}}, "verbo": {"radiko": "novvorto"}}


@pytest.fixture(scope="module")
def encoder(whole: Path) -> TreeEncoder:
    return treelstm.load_encoder(whole / "best_model.pt")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with some trees, of which two are in files of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(FIRST, indent=1))
    (tmp_path / "b.json").write_text(json.dumps({"sentence": "Kato", "ast": SECOND}))
    lines = [json.dumps({"id": f"{n}", "ast": ast}) for n, ast in enumerate((FIRST, SECOND, FIRST))]
    (tmp_path / "trees.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_encode_writes_what_encode_gives_and_the_ids_of_the_trees(files, encoder, whole, capsys):
    words = ["encode", "trees.jsonl", "a.json", "--to", "v.npy", "--output-dir", str(whole)]
    for _ in range(2):  # over files that are there
        assert main(words) == 0
    assert (
        "4 encodings written to v.npy, the ids of their trees to v.ids.jsonl" in capsys.readouterr().out
    )
    vectors = np.load(files / "v.npy")
    expected = encoder.encode([FIRST, SECOND, FIRST, FIRST]).numpy()
    assert vectors.dtype == np.float32 and np.array_equal(vectors, expected)
    ids = [json.loads(line)["id"] for line in (files / "v.ids.jsonl").read_text().splitlines()]
    assert ids == ["0", "1", "2", "a.json:1"]
    model = str(whole / "final_model.pt")
    assert main(["encode", "a.json", "--to", "w.npy", "--checkpoint", model]) == 0
    assert np.array_equal(np.load(files / "w.npy"), treelstm.load_encoder(model).encode([FIRST]).numpy())


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        ("nix.jsonl --to v.npy", "nix.jsonl: no such file", 1),
        ("empty.jsonl --to v.npy", "holds no trees", 1),
        ("no.xyz --to v.npy", "neither its name nor its first line tells a format", 1),
        ("a.json --to v.npy --format fish", "fish: no such format. The formats are conllu", 1),
        ("bad.jsonl --to v.npy", "bad.jsonl:2: not JSON", 1),
        ("nothing.jsonl --to v.npy", "nothing.jsonl:1: the tree is an empty tree", 1),
        ("a.json --to nowhere/v.npy", "No such file or directory: nowhere/v", 1),
        ("a.json --to v.npy --output-dir none", "none/best_model.pt: no such file", 1),
        ("a.json --to v.npy --checkpoint a.json", "a.json is damaged", 1),
        ("a.json --to v.npy --device cuda:9", 'device is "cuda:9", but torch sees no GPU', 1),
        ("a.json --to v.npy --device gpu", 'device is \'gpu\', expected "auto", "cpu"', 2),
        ("a.json --to v.npz", "--to v.npz: encode writes a .npy file", 2),
        ("a.json", "the following arguments are required: --to", 2),
        ("--to v.npy", "the following arguments are required: INPUT", 2),
    ],
)
def test_what_encode_cannot_do_is_one_message_and_nothing_is_written(
    files, whole, words, said, status, capsys, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (files / "empty.jsonl").touch()
    (files / "no.xyz").write_text("what is this")
    (files / "bad.jsonl").write_text('{"a": 1}\n{"a": 1\n')
    (files / "nothing.jsonl").write_text('{"id": "1", "ast": {"plena_vorto": "x"}}\n')
    before = {path.name for path in files.iterdir()}
    run = [] if {"--output-dir", "--checkpoint"} & {*words.split()} else ["--output-dir", str(whole)]
    try:
        ended = main(["encode", *words.split(), *run])
    except SystemExit as exit:
        ended = exit.code
    assert ended == status
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert {path.name for path in files.iterdir()} == before


def test_a_signal_leaves_no_part_of_the_vectors(files, whole):
    line = json.dumps(FIRST) + "\n"
    (files / "many.jsonl").write_text(line * 200_000)
    words = ["encode", "many.jsonl", "--to", "v.npy", "--output-dir", str(whole)]
    process = subprocess.Popen([sys.executable, "-m", "treelstm", *words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not [*files.glob(".v.npy.*")] and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert b"nothing was written" in process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert {path.name for path in files.iterdir()} == {"a.json", "b.json", "trees.jsonl", "many.jsonl"}


def test_compare_says_distance_verdict_and_what_it_comes_from(
    files, whole, encoder, capsys, monkeypatch
):
    run = ["--output-dir", str(whole)]
    assert main(["compare", "a.json", "b.json", *run]) == 0
    out = capsys.readouterr().out
    distance = encoder.distance(FIRST, SECOND)
    verdict = "similar, below" if encoder.is_similar(FIRST, SECOND) else "dissimilar, not below"
    assert f"distance {distance:.4f}: {verdict} the threshold {encoder.threshold:.4f}" in out
    assert re.search(r"^symbols that training did not know: .*radiko=novvorto", out, re.MULTILINE)
    assert re.search(r"^  [+-]\d\.\d{3}  second  kerno: kat$", out, re.MULTILINE)
    text = as_text(FIRST).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["compare", "-", "a.json", *run]) == 0
    assert capsys.readouterr().out.startswith("distance 0.0000: similar")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a":\n 1', "NotATree: not JSON (Expecting ',' delimiter: line 2 column 3"),
        ('[{"id": 1, "head": 2}, {"id": 2, "head": 0}]', "like a token list with heads (id, head)"),
        ("3", "the tree is a number, expected a JSON object"),
        ("", "not JSON (Expecting value: line 1 column 1"),
        ("\udce9", "not UTF-8 (byte 1 of the line is 0xe9)"),
    ],
)  # fmt: skip
def test_compare_says_what_is_wrong_with_a_tree(files, whole, text, said, capsys, monkeypatch):
    raw = io.BytesIO(text.encode(errors="surrogateescape"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
    assert main(["compare", "a.json", "-", "--output-dir", str(whole)]) == 1
    assert said in capsys.readouterr().err


def test_compare_takes_one_tree_of_each_file_and_standard_input_once(files, whole, capsys):
    assert main(["compare", "trees.jsonl", "a.json", "--output-dir", str(whole)]) == 1
    assert "holds 3 trees, expected one" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["compare", "-", "-"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing is here: no tree, expected JSON, or the path of a file; for sentences"),
        ("La hundo", "'La hundo' is no tree"),
        ('{"a": 1, "a": 2}', 'the key "a" occurs twice in one object'),
        ('{"a": NaN}', "holds NaN, which is not JSON"),
        ('"La hundo kuras"', "it looks like text that was not parsed. Parse it first"),
        ('"(S (NP x))"', "it looks like a tree in brackets"),
        ('{"ast": "{}"}', "it looks like JSON inside a text. Write the tree itself: json.loads(text)"),
        ('["la", "hundo"]', "it looks like a list of words"),
        ('[["la", ["hundo"]]]', "expected a JSON object"),
        ("[]", "this is an empty list"),
        ("{}", "the tree is an empty tree"),
        ('{"ast1": {}, "ast2": {}}', "this is a pair. Write its trees, ast1 and ast2, one by one."),
        ("~nobody-at-all/tree.json", "no tree, expected JSON"),
        ("a\0b", "no tree, expected JSON"),
    ],
)
def test_whatever_is_typed_is_a_tree_or_a_message_that_says_what_to_do(encoder, text, said):
    with pytest.raises(NotATree) as caught:
        given_tree(text, encoder)
    assert said in str(caught.value)


def test_a_tree_is_given_as_json_by_id_by_position_as_a_file_or_as_a_sentence(files, tiny, encoder):
    trees = Collection.of_pairs(treelstm.load_pairs(tiny / "validation"), encoder)
    assert given_tree(f" {json.dumps(FIRST)}\n", encoder).ast == FIRST
    assert given_tree(as_text(SECOND, "Kato"), encoder)[:2] == (SECOND, "Kato")
    assert given_tree(str(files / "b.json"), encoder)[:2] == (SECOND, "Kato")
    found = given_tree("5", encoder, trees)
    assert (found.ast, found.title, found.number) == (trees.ast(5), trees.sentences[5], 5)
    parsed = given_tree("la hundo", encoder, trees, lambda text: {"words": text.split()})
    assert parsed[:2] == ({"words": ["la", "hundo"]}, "la hundo")

    def broken(text: str) -> Any:
        raise KeyError(text)

    with pytest.raises(NotATree, match=r"the parser failed on this sentence \(KeyError: 'la hundo'\)"):
        given_tree("la hundo", encoder, parser=broken)
    with pytest.raises(NotATree, match="it looks like text that was not parsed"):
        given_tree("la hundo", encoder, parser=str.upper)


def test_a_token_list_inside_an_object_is_read_but_never_in_silence(encoder):
    text = '{"tokens": [{"id": 1, "head": 2}, {"id": 2, "head": 0}]}'
    note = given_tree(text, encoder).note
    assert "looks like a token list with heads (tokens: id, head), and is read as a flat bag" in note
    assert given_tree(json.dumps(FIRST), encoder).note == ""


def test_without_a_threshold_the_verdict_says_so(whole):
    encoder = treelstm.load_encoder(whole / "best_model.pt")
    encoder.threshold = math.nan
    two = compare_trees(encoder, FIRST, SECOND)
    assert two.similar is None and "this run has no threshold" in two.verdict
    assert two.distance == encoder.distance(FIRST, SECOND)


def test_a_tree_of_any_depth_becomes_text_and_a_tree_again(encoder):
    deep: dict[str, Any] = {"radiko": "x"}
    for _ in range(3000):
        deep = {"verbo": deep}
    assert given_tree(as_text(deep), encoder).ast.keys() == {"verbo"}
