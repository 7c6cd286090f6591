"""What preflight says of the keys of ASTs, on small corpora of the kinds that people bring."""

from __future__ import annotations

import ast
import inspect
import json
import random
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, tiny_config

from treelstm import (
    Config,
    find_latest_checkpoint,
    load_checkpoint,
    load_corpus,
    load_encoder,
    load_pairs,
    preflight,
    train,
    write_sample,
)
from treelstm.checks.keys import keys
from treelstm.checks.report import WARNING, Check, Finding
from treelstm.commands import main
from treelstm.config import KEY_LISTS, ConfigError
from treelstm.data.problems import DataError

Tree = dict[str, Any]
FUNCTIONS = [
    (source := textwrap.dedent(inspect.getsource(function)), ast.parse(source).body[0])
    for _, function in inspect.getmembers(textwrap.TextWrapper, inspect.isfunction)
]


def write(directory: Path, trees: Iterable[Any]) -> Path:
    """Neighbours become pairs, in turn similar and dissimilar."""
    trees = list(trees)
    directory.mkdir(exist_ok=True)
    for name, label, first in (("positive", 1, 0), ("negative", 0, 2)):
        pairs = [(trees[k], trees[k + 1]) for k in range(first, len(trees) - 1, 4)]
        lines = [{"ast1": {"ast": a}, "ast2": {"ast": b}, "label": label} for a, b in pairs]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (directory / f"{name}_pairs.jsonl").write_text(text, encoding="utf-8")
    return directory


def every_finding(check: Check) -> Iterator[Finding]:
    """What a check finds, and the checks in it."""
    found = check()
    for each in [found] if isinstance(found, Finding) else found:
        yield from [each] if isinstance(each, Finding) else every_finding(each)


def findings(directory: Path, trees: Iterable[Any], **settings: Any) -> list[Finding]:
    data = str(write(directory / "pairs", trees))
    corpus = load_corpus(Config(data_dir=data, validation_dir=data, **settings))
    return list(every_finding(partial(keys, corpus)))


def warned(directory: Path, trees: Iterable[Any], **settings: Any) -> list[Finding]:
    return [found for found in findings(directory, trees, **settings) if found.level == WARNING]


def advised(directory: Path, trees: Iterable[Any]) -> set[str]:
    """The keys that the one warning adds to ignored_keys; following it leaves nothing to say."""
    trees = list(trees)
    (finding,) = warned(directory, trees)
    pasted = re.search(r"ignored_keys=(\(.*?\))", finding.remedy)
    assert pasted, finding
    complete = ast.literal_eval(pasted[1])
    assert set(complete) > set(Config.ignored_keys)
    then, now = map(
        int,
        re.findall(r"([\d,]+) distinct subtrees instead of ([\d,]+)", finding.found.replace(",", ""))[0],
    )
    assert then < now
    assert not warned(directory, trees, ignored_keys=complete)
    return set(complete) - set(Config.ignored_keys)


def code(position: Callable[[ast.AST, str], Tree]) -> list[Tree]:
    """Functions of the standard library, with something said of each place in the text."""

    def tree(node: ast.AST, source: str) -> Tree:
        said: Tree = {"kind": type(node).__name__}
        for name, value in ast.iter_fields(node):
            items = value if isinstance(value, list) else [value]
            plain = [
                tree(item, source) if isinstance(item, ast.AST) else item
                for item in items
                if isinstance(item, ast.AST | str | int)
            ]
            said[name] = plain if isinstance(value, list) else next(iter(plain), None)
        return said | (position(node, source) if hasattr(node, "lineno") else {})

    return [tree(node, source) for source, node in FUNCTIONS]


def offset(source: str, line: int, column: int) -> int:
    return sum(map(len, source.splitlines(True)[: line - 1])) + column


def loc(node: Any, source: str) -> Tree:
    return {
        "start": {"line": node.lineno, "column": node.col_offset},
        "end": {"line": node.end_lineno, "column": node.end_col_offset},
    }


def span(node: Any, source: str) -> list[int]:
    return [
        offset(source, node.lineno, node.col_offset),
        offset(source, node.end_lineno, node.end_col_offset),
    ]


POSITIONS: dict[str, tuple[set[str], Callable[[Any, str], Tree]]] = {
    "python": (
        {"lineno", "col_offset", "end_lineno", "end_col_offset"},
        lambda node, source: {name: getattr(node, name) for name in node._attributes},
    ),
    "in German": (
        {"zeile", "spalte"},
        lambda node, source: {"zeile": node.lineno, "spalte": node.col_offset},
    ),
    "estree": (
        {"loc", "range"},
        lambda node, source: {"loc": loc(node, source), "range": span(node, source)},
    ),
    "offsets": (
        {"von", "bis"},
        lambda node, source: dict(zip(("von", "bis"), span(node, source), strict=True)),
    ),
    "points": (
        {"start_point", "end_point"},
        lambda node, source: {
            "start_point": [node.lineno, node.col_offset],
            "end_point": [node.end_lineno, node.end_col_offset],
        },
    ),
    "text": ({"at"}, lambda node, source: {"at": f"{node.lineno}:{node.col_offset}"}),
    "uuid": (
        {"uid"},
        lambda node, source: {"uid": f"{random.Random(repr(vars(node))).getrandbits(128):032x}"},
    ),
}


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("sort_keys", [False, True], ids=["", "sorted"])
def test_positions_are_found_by_how_they_behave_and_named_with_the_line_to_paste(
    tmp_path, kind, sort_keys
):
    expected, position = POSITIONS[kind]
    trees = json.loads(json.dumps(code(position), sort_keys=sort_keys))
    assert advised(tmp_path, trees) == expected


def test_line_numbers_that_do_not_rise_are_known_by_their_names(tmp_path):
    draw = random.Random(0).randrange
    trees = [
        {"type": "call", "loc": {"start": 0, "end": k % 9}, "args": [
            {"type": "name", "id": "abc"[draw(3)], "lineno": draw(40), "col": draw(60)}
            for _ in range(6)]}
        for k in range(40)
    ]  # fmt: skip
    assert advised(tmp_path, trees) == {"lineno", "col", "loc"}


def sentence(
    random: random.Random, name: Callable[[int], Any], first: int, last: int, head: Any
) -> list[Tree]:
    """A random projective tree of the words first to last, nested by head."""
    if first > last:
        return []
    here = random.randint(first, last)
    cut = random.randint(first, here)
    below = [part for a, b in ((first, cut - 1), (cut, here - 1), (here + 1, last))
             for part in sentence(random, name, a, b, name(here))]  # fmt: skip
    word = "w" + "abcdefgh"[random.randrange(8)]
    return [{"id": name(here), "form": word, "upos": word[1:], "head": head, "children": below}]


@pytest.mark.parametrize("name", [int, "n{}".format, "t_{:04}".format], ids=["1", "n1", "t_0001"])
def test_ids_and_heads_of_nested_tokens_are_found(tmp_path, name):
    draw = random.Random(1)
    trees = [sentence(draw, name, 1, 3 + k % 9, name(0))[0] for k in range(40)]
    assert advised(tmp_path, trees) == {"id", "head"}


def test_positions_of_words_under_constituents_are_found(tmp_path):
    words = [[{"tag": "N", "word": "ab"[k % 2], "i": at} for at in range(k, k + 9)] for k in range(9)]
    trees = [
        {"label": "S", "children": [{"label": "NP", "children": each[:4]}, *each[4:]]} for each in words
    ]
    assert advised(tmp_path, trees) == {"i"}


def content(draw: random.Random, depth: int = 0) -> Tree:
    """Numbers and words that are what a tree is about."""
    tree: Tree = {
        "type": draw.choice("abc"), "name": f"word{draw.randrange(60)}", "depth": depth,
        "pos": draw.choice((83, 92, 99)), "year": draw.randrange(1900, 2020),
        "age": draw.randrange(90), "count": int(draw.paretovariate(1)),
    }  # fmt: skip
    return tree | {"children": [content(draw, depth + 1) for _ in range(3 if depth < 3 else 0)]}


CONTENT: dict[str, Callable[[random.Random], Tree]] = {
    "numbers": content,
    "words that occur once": lambda draw: {
        "cat": "S", "kids": [{"cat": "N", "word": f"mot{draw.randrange(10**6)}"} for _ in range(8)]
    },
    "years in order": lambda draw: {
        "events": [{"type": "event", "year": year} for year in sorted(draw.sample(range(1800, 2020), 6))]
    },
    "numbers of children": lambda draw: {
        "items": [{"name": draw.choice("abc"), "items": [{"n": k} for k in range(4)]} for _ in range(3)]
    },
    "a chain with depths": lambda draw: {
        "depth": 0, "huge": 10**400,
        "kid": {"depth": 1, "kid": {"depth": 2, "t": draw.choice("abcdefghi")}},
    },
}  # fmt: skip


@pytest.mark.parametrize("pairs", [3, 40])
@pytest.mark.parametrize("kind", CONTENT)
def test_words_and_numbers_that_are_content_are_never_called_bookkeeping(tmp_path, kind, pairs):
    draw = random.Random(2)
    assert not warned(tmp_path, [CONTENT[kind](draw) for _ in range(2 * pairs)])


def test_code_without_positions_gets_no_advice(tmp_path):
    assert not warned(tmp_path, code(lambda node, source: {}))


def test_ignored_keys_that_occur_are_listed_and_labels_among_them_are_pointed_out(tmp_path):
    draw = random.Random(3)

    def tree(depth: int) -> Tree:
        if not depth:
            return {"category": "N", "word": draw.choice("abc")}
        return {
            "category": draw.choice(("NP", "VP", "S")),
            "children": [tree(depth - 1) for _ in range(2)],
        }

    found = findings(tmp_path, [tree(3) for _ in range(20)])
    assert any('"category" (300 nodes, 4 texts); not found: plena_vorto' in each.found for each in found)
    (warning,) = (each for each in found if each.level == WARNING)
    said = 'the ignored key "category" looks like content: 4 texts.*47% of these nodes'
    assert re.search(said, warning.found)
    kept = "ignored_keys=('plena_vorto', 'parse_status', 'parse_error', 'parse_statistics')"
    assert kept in warning.remedy


def test_ignored_keys_of_the_sample_get_no_warning(tmp_path):
    write_sample(tmp_path, positives=40, negatives=60)
    config = Config(data_dir=str(tmp_path))
    found = list(every_finding(partial(keys, load_corpus(config))))
    assert not [each for each in found if each.level == WARNING]
    assert any('"plena_vorto" (' in each.found for each in found)


WORDS = ["a", "dog", "runs", "so", "fast"]
HEADS = [2, 3, 0, 5, 3]
FLAT: dict[str, Any] = {
    "id, head": {"tokens": [{"id": k + 1, "word": w, "head": HEADS[k]} for k, w in enumerate(WORDS)]},
    "nr, kapo": {"vortoj": [{"nr": k + 1, "vorto": w, "kapo": HEADS[k]} for k, w in enumerate(WORDS)]},
    "id, parent": {
        "nodes": [{"id": f"n{k + 1}", "parent": h and f"n{h}"} for k, h in enumerate(HEADS)]
    },
    "head": {"sentences": [[{"word": w, "head": h} for w, h in zip(WORDS, HEADS, strict=True)]]},
    "children": {
        "nodes": [{"t": "M", "children": [1, 3]}, {"t": "E", "children": [2]}, {"v": "x"}, {"v": "y"}]
    },
    "dependent, governor": {
        "dependencies": [{"dependent": k + 1, "governor": h, "dep": "x"} for k, h in enumerate(HEADS)]
    },
    "a list of parents": {"words": WORDS, "parents": HEADS},
}  # fmt: skip


@pytest.mark.parametrize("linked", FLAT)
def test_lists_that_name_heads_or_children_are_pointed_out_with_the_command_that_converts(
    tmp_path, linked
):
    (finding,) = warned(tmp_path, [FLAT[linked] | {"text": str(k)} for k in range(8)])
    assert re.search(
        rf"looks like a token list .*\(\w+: {linked}\): it is read as a flat bag", finding.found
    )
    assert "python -m treelstm trees FILE --to trees.jsonl.gz" in finding.remedy


def test_they_are_pointed_out_also_where_there_are_too_few_pairs_to_split(tmp_path):
    data = write(tmp_path / "pairs", [FLAT["id, head"] | {"text": str(k)} for k in range(4)])
    report = preflight(Config(data_dir=str(data), output_dir=str(tmp_path / "run")))
    found = [each.found for each in report.findings["Data content"]]
    assert len(found) == 2 and "a token list" in found[0] and "too few to hold out" in found[1]


def test_a_key_that_holds_now_a_list_now_a_number_links_nothing(tmp_path):
    tree = {"kids": [{"id": 1, "v": [3]}, {"id": 2, "v": 5}, {"id": 3, "v": 7}]}
    assert not warned(tmp_path, [tree | {"text": str(k)} for k in range(8)])


ROOTS: dict[str, Any] = {
    r"a token list with heads \(id, head\)": FLAT["id, head"]["tokens"],
    r"a token list with heads \(head\)": FLAT["head"]["sentences"],
    r"a list of nodes with ids of children \(children\)": [*FLAT["children"]["nodes"], 0],
    "a tree in brackets": "(ROOT (S (NP dog)))",
    "a list of parents": "2 3 0 5 3",
    "CoNLL-U": "1\tdog\tdog\tNOUN\t_\t_\t0\troot\t_\t_",
    "JSON inside a text": '{"type": "S"}',
    "a list of words": WORDS,
    "a tree of nested lists": ["S", ["NP", "dog"]],
    "text that was not parsed": "A dog runs.",
}


@pytest.mark.parametrize("looks", ROOTS)
def test_roots_that_are_no_objects_are_said_once_a_file_with_what_they_look_like(tmp_path, looks):
    with pytest.raises(DataError) as refused:
        load_pairs(write(tmp_path / "pairs", [ROOTS[looks]] * 400))
    once = rf"_pairs\.jsonl:1: ast1\.ast is a (list|string), expected .* looks like {looks}.* \(100 line"
    assert len(re.findall(once, str(refused.value))) == refused.value.problems.count == 2


NUMBERS: dict[str, tuple[Callable[[random.Random], Any], bool]] = {
    "floats": (lambda draw: draw.random(), True),
    "with few digits": (lambda draw: draw.randrange(10**5) / 100, True),
    "negative": (lambda draw: -draw.expovariate(1), True),
    "floats among integers": (lambda draw: draw.choice((draw.random(), draw.randrange(3))), True),
    "of few values": (lambda draw: draw.randrange(10) / 10, False),
    "integers": (lambda draw: draw.randrange(100), False),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_that_are_symbols_of_their_own_are_counted(tmp_path, kind):
    number, bad = NUMBERS[kind]
    draw = random.Random(4)
    trees = [
        {"w": number(draw), "kids": [{"w": number(draw), "n": k} for k in range(3)]} for _ in range(30)
    ]
    found = warned(tmp_path, trees)
    assert len(found) == bad
    for finding in found:
        assert re.match(r'"w" has \d+ different numbers on 120 nodes .* \(\d+%\)', finding.found)
        assert "Round them" in finding.remedy


@pytest.mark.parametrize("text", ["été", "ŝipo", "한국", "Ångström", "naïve café"])
def test_texts_that_occur_composed_and_decomposed_are_named(tmp_path, text):
    texts = [text, "dog", unicodedata.normalize("NFD", text)]
    (finding,) = warned(tmp_path, [{"word": texts[k % 3], "n": str(k)} for k in range(12)])
    assert finding.found.startswith("1 texts occur composed (NFC) and decomposed (NFD)")
    assert f'1 of "word", such as word={text}' in finding.found
    assert not warned(tmp_path / "pairs", [{"word": texts[k % 2], "n": str(k)} for k in range(12)])


HIDDEN: dict[str, tuple[Callable[[random.Random], Tree], bool]] = {
    "labels beside words": (
        lambda draw: {"category": draw.choice(("NP", "VP", "S")), "word": draw.choice("abc")}, True
    ),
    "labels beside positions": (
        lambda draw: {"category": draw.choice(("NP", "VP", "S")), "start": draw.randrange(99)}, True
    ),
    "labels alone": (lambda draw: {"category": draw.choice(("NP", "VP", "S"))}, True),
    "tags": (lambda draw: {"plena_vorto": draw.choice(("a", "b")), "lemma": draw.choice("abc")}, True),
    "surface forms": (
        lambda draw: {"plena_vorto": (stem := draw.choice("abcd")) + "o", "stem": stem}, False
    ),
    "statistics": (lambda draw: {"parse_statistics": {"words": draw.randrange(9)}, "w": "a"}, False),
    "a flag": (
        lambda draw: {
            "parse_status": draw.choice(("success",) * 9 + ("failed",)), "w": draw.choice("abc")
        },
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HIDDEN)
def test_an_ignored_key_is_called_content_if_nodes_differ_by_it_alone(tmp_path, kind):
    make, content = HIDDEN[kind]
    draw = random.Random(5)
    trees = [{"n": str(k), "kids": [make(draw) for _ in range(4)]} for k in range(30)]
    assert any("looks like content" in each.found for each in warned(tmp_path, trees)) == content


@pytest.mark.parametrize("given", ["python", ["python"], ("lineno", "python")])
def test_the_name_of_a_list_stands_for_its_keys(tmp_path, given):
    stored = Config(ignored_keys=given).ignored_keys
    assert set(stored) == {
        *"lineno col_offset end_lineno end_col_offset ctx type_comment type_ignores".split()
    }
    assert Config(ignored_keys="esperanto") == Config()
    pairs = load_pairs(
        write(tmp_path / "pairs", [{"a": str(k), "lineno": k} for k in range(9)]), "python"
    )
    assert pairs.ignored_keys == Config(ignored_keys="python").ignored_keys
    assert not [symbol for symbol in pairs.forest.symbols if symbol.startswith("lineno")]


@pytest.mark.parametrize(
    "wrong, close", [("pyton", "python"), ("tree_sitter", "tree-sitter"), ("ESTree", "estree")]
)
def test_the_wrong_name_of_a_list_is_an_error_that_names_the_close_one(wrong, close):
    with pytest.raises(ConfigError, match=f'ignored_keys names "{wrong}". Did you mean "{close}"'):
        Config(ignored_keys=wrong)


def test_data_readme_shows_each_list():
    readme = (REPOSITORY / "data" / "README.md").read_text()
    for name, listed in KEY_LISTS.items():
        row = next(line for line in readme.splitlines() if line.startswith(f'| `"{name}"`'))
        assert re.findall(r"`(\w+)`", row) == [*listed]


def test_a_run_stores_the_keys_of_a_list_and_resumes_by_them(tmp_path, tiny):
    train(tiny_config(tiny, tmp_path / "run", epochs=1, ignored_keys="ud"))
    encoder = load_encoder(find_latest_checkpoint(tmp_path / "run"))
    assert encoder.settings.ignored_keys == KEY_LISTS["ud"]
    train(tiny_config(tiny, tmp_path / "run", epochs=2, ignored_keys=KEY_LISTS["ud"]))
    assert load_checkpoint(find_latest_checkpoint(tmp_path / "run"))["epoch"] == 2


def test_the_shell_takes_the_names_of_lists(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["preflight", "--ignored-keys", "pyton"])
    assert 'Did you mean "python"' in capsys.readouterr().err
