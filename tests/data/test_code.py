"""Trees of source code: what is in them, what is not, and every kind of file that cannot be read."""

from __future__ import annotations

import ast
import gzip
import random
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

import treelstm
from treelstm.commands import main
from treelstm.data.problems import DataError
from treelstm.data.readers.code import NoGrammar
from treelstm.trees.builder import compile_forest

pytest.importorskip("tree_sitter", reason="treelstm[code] is not installed")


def trees(path: Path, text: str | bytes, **options):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return treelstm.read_trees(path, **options)


def python_body(tmp_path: Path, text: str):
    (tree,) = trees(tmp_path / "a.py", f"def f():\n    return {text}\n")
    return tree.ast["body"][0]["value"]


def differ(one, other) -> bool:
    first, second = compile_forest([one, other]).tree_digest
    return bool(first != second)


def test_a_function_of_python_is_a_tree_of_classes_fields_and_constants(tmp_path):
    (tree,) = trees(tmp_path / "a.py", 'def f(a, b=1):\n    "Says it."\n    return a + b  # so\n')
    assert tree.ast == {
        "node": "FunctionDef",
        "args": {
            "node": "arguments",
            "args": [
                {"node": "arg", "arg": "a"},
                {"arg": {"node": "arg", "arg": "b"}, "default": constant("int", "1")},
            ],
        },
        "body": [
            {
                "node": "Return",
                "value": {"node": "BinOp", "op": "Add", "left": name("a"), "right": name("b")},
            }
        ],
    }
    assert (tree.id, tree.label, tree.line, tree.source_file) == ("a.py:f", "f", 1, "a.py")


def constant(kind, value):
    return {"node": "Constant", "kind": kind, "value": value}


def name(text):
    return {"node": "Name", "id": text}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a + b", "a - b"),
        ("a - b", "b - a"),
        ("a < b <= c", "a <= b < c"),
        ("a and b", "a or b"),
        ("not a", "-a"),
        ("1", "'1'"),
        ("1", "True"),
        ("1.0", "1"),
        ("b'x'", "'x'"),
        ("None", "'None'"),
        ("{1: 2, 3: 4}", "{1: 4, 3: 2}"),
        ("{**a, 'b': c}", "{**c, 'b': a}"),
        ("lambda a, b=1: 2", "lambda a=1, b=2: 2"),
        ("lambda *, a=1, b=2: 3", "lambda *, a=2, b=1: 3"),
        ("f'{a!r}'", "f'{a!s}'"),
        ("a[1:2]", "a[1::2]"),
        (r"'\ud83d'", r"'\ude00'"),
        ("1e999", "'inf'"),
    ],
)
def test_python_that_means_something_else_is_another_tree(tmp_path, one, other):
    assert differ(python_body(tmp_path, one), python_body(tmp_path, other))


@pytest.mark.parametrize(
    ("one", "other"), [("a  +  b", "(a + # x\n b)"), ("u'x'", "'x'"), ("1_0", "10")]
)
def test_positions_comments_and_spelling_make_no_difference(tmp_path, one, other):
    assert not differ(python_body(tmp_path, one), python_body(tmp_path, other))


PYTHON = '''
@decorated
async def g(): ...
class A:
    "Doc."
    def f(self):
        def inside(): pass
        return lambda: inside
    if x:
        def f(self): return 2
    class B:
        def f(self): return 3
try:
    def t(): return 4
except E:
    def t(): return 5
match x:
    case 1:
        def m(): pass
'''  # fmt: skip


def test_each_outermost_function_is_a_tree_with_an_id_and_a_label_of_its_own(tmp_path):
    found = trees(tmp_path / "a.py", PYTHON)
    ids = "g A.f A.f#2 A.B.f t t#2 m".split()
    assert [tree.id for tree in found] == [f"a.py:{id}" for id in ids]
    assert [tree.label for tree in found] == [id.partition("#")[0] for id in ids]
    assert not [tree for tree in found if "name" in tree.ast], "the label would be in the tree"
    (whole,) = treelstm.read_trees(tmp_path / "a.py", each="file")
    assert (whole.id, whole.label, whole.ast["node"]) == ("a.py", tmp_path.name, "Module")


ELSEWHERE = {
    "a.cpp": (
        "namespace N { struct A { virtual int f(int a) const { return a; } ~A() {} A() = default; }; }\n"
        "int *N::A::g(int a) { return 0; } template<class T> T& r(T& x) { return x; }\n"
        "A operator+(A a, A b) { auto l = [](int q) { return q; }; return a; } int h(int);",
        "N.A.f N.A.~A N::A::g r operator+",
    ),
    "a.c": ("#include <x.h>\n#define M(a) a\nstatic int main(int c, char **v) { return c; }", "main"),
    "A.java": (
        "class A { A(int x) {} int f() { return 1; } int f(int... a) { return 2; } abstract void q();"
        " class B { void f() { new R() { public void run() {} }; } } }",
        "A.A A.f A.f#2 A.B.f",
    ),
    "a.js": (
        "const f = (a) => a; x.y = function () {}; var o = { k: function () {}, m() {} };"
        " class Q { p = () => 1; async q() {} } export default function () {};"
        " (function () { function inner() {} })();",
        "f x.y k m Q.p Q.q inner",
    ),
}


@pytest.mark.parametrize("file", ELSEWHERE)
def test_functions_of_other_languages_have_their_names(tmp_path, file):
    text, names = ELSEWHERE[file]
    assert [tree.id for tree in trees(tmp_path / file, text)] == [f"{file}:{n}" for n in names.split()]


@pytest.mark.parametrize(
    ("file", "one", "other"),
    [
        ("a.cpp", "a + b", "a - b"),
        ("a.cpp", "i++", "++i"),
        ("a.cpp", "p = head", "head = p"),
        ("a.cpp", '"x"', "'x'"),
        ("A.java", "i++", "++i"),
        ("A.java", "a && b", "a || b"),
        ("a.js", "a == b", "a === b"),
        ("a.js", "a?.b", "a.b"),
        ("a.py", "a in b", "a not in b"),
    ],
)
def test_operators_of_other_languages_are_symbols(tmp_path, file, one, other):
    around = {
        "a.cpp": "void f() {{ {}; }}",
        "A.java": "class A {{ void f() {{ x({}); }} }}",
        "a.js": "function f() {{ {}; }}",
        "a.py": "def f():\n  {}\n",
    }[file]
    both = [trees(tmp_path / file, around.format(each), format="tree-sitter") for each in (one, other)]
    assert differ(both[0][0].ast, both[1][0].ast)


def test_what_a_tree_of_tree_sitter_holds(tmp_path):
    (tree,) = trees(tmp_path / "a.js", "function f() { /* so */ return a + 1; }")
    assert tree.ast == {
        "node": "function_declaration",
        "parameters": [{"node": "formal_parameters"}],
        "body": [
            {
                "node": "statement_block",
                "children": [
                    {
                        "node": "return_statement",
                        "children": [
                            {
                                "node": "binary_expression",
                                "left": [{"node": "identifier", "text": "a"}],
                                "operator": ["+"],
                                "right": [{"node": "number", "text": "1"}],
                            }
                        ],
                    }
                ],
            }
        ],
    }


UNREADABLE = {
    "wrong syntax": ("a.py", b"x = 1\ndef f(:\n", r"a\.py:2: not Python 3\.\d+ \(invalid syntax\)"),
    "Python 2": ("a.py", b"print 1\n", r"a\.py:1: not Python.*--format \"tree-sitter\" reads other ver"),
    "deep": ("a.py", b"(" * 10_000 + b")" * 10_000, r"a\.py:1: not Python.*too many nested parentheses"),
    "a long sum": ("a.py", b"+".join([b"a"] * 20_000), "nested deeper than Python's parser can read"),
    "many signs": ("a.py", b"-" * 20_000 + b"1", "nested deeper than Python's parser can read"),
    "NUL": ("a.py", b"x = 1\n\0", "not Python.*null bytes"),
    "Latin-1 unsaid": ("a.py", b"x = '\xe9'\n", "not Python.*codec can't decode byte 0xe9"),
    "unknown encoding": ("a.py", b"# coding: nonsense\n", "not Python.*unknown encoding: nonsense"),
    "UTF-16": ("a.py", "x = 1".encode("utf-16"), "saved as UTF-16, expected UTF-8"),
    "mixed tabs": ("a.py", b"if 1:\n\tx\n        y\n", r"a\.py:3: not Python.*tabs and spaces"),
    "many digits": ("a.py", b"x = 1" + b"0" * 5000, r"a\.py:1: not Python.*4300"),
    "huge": ("a.py", b"#" * (2**23 + 1), "longer than 8,388,608 bytes"),
    "no functions": ("a.py", b"", "no trees in all; left out: files without functions"),
    "Java cut off": ("A.java", b"class A {\n void f() { return", r"do not fit their grammar.*A\.java:1"),
    "C of Latin-1": ("a.c", b"// x\nint x; // \xe9\n", r"a\.c:2: not UTF-8 \(there is a byte 0xe9\)"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_code_that_cannot_be_read_is_named_by_file_and_line_with_a_remedy(tmp_path, case):
    file, raw, message = UNREADABLE[case]
    with pytest.raises(DataError, match=message):
        trees(tmp_path / file, raw)


def test_encodings_byte_order_marks_tabs_and_gzip_are_read(tmp_path):
    texts = [
        b"# -*- coding: latin-1 -*-\ndef f(): return '\xe9'\n",
        b"\xef\xbb\xbfdef f():\n\treturn '\xc3\xa9'\r\n",
        b"def f(): return '\xc3\xa9'",
    ]
    found = [trees(tmp_path / f"{number}.py", text)[0].ast for number, text in enumerate(texts)]
    assert found[0] == found[1] == found[2]
    packed = tmp_path / "a.js.gz"
    assert trees(packed, gzip.compress(b"\xef\xbb\xbffunction f() {}"))[0].label == "f"


def test_a_function_that_does_not_fit_its_grammar_is_left_out_and_said(tmp_path, capsys):
    path = tmp_path / "a.cpp"
    path.write_text("int f() { return 1 @ 2; }\nAPI int g() { return 1; }\nint h() { return 3; }\n")
    assert main(["trees", str(path), "--to", str(tmp_path / "t.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "do not fit their grammar" in said and f"{path}:1" in said
    with pytest.raises(DataError, match=rf"no trees in all; left out: .*the first: {path}:1"):
        treelstm.read_trees(path, each="file")


@pytest.mark.skipif(find_spec("tree_sitter_go") is not None, reason="it is installed")
def test_a_language_without_its_grammar_says_what_to_install(tmp_path):
    with pytest.raises(NoGrammar, match=r"pip install tree-sitter tree-sitter-go"):
        trees(tmp_path / "a.go", "package a\n")
    with pytest.raises(NoGrammar, match=r"No grammar is known for the ending '\.txt'"):
        trees(tmp_path / "a.txt", "int f() {}", format="tree-sitter")


def test_every_function_of_a_real_package_is_read_and_no_two_have_one_id(tmp_path):
    package = Path(sysconfig.get_paths()["stdlib"]) / "json"
    found = treelstm.read_trees(package)
    source = (package / "decoder.py").read_text()
    defined = sum(isinstance(each, ast.FunctionDef) for each in ast.walk(ast.parse(source)))
    ours = [tree for tree in found if tree.source_file == "decoder.py"]
    nested = sum(str(tree.ast).count("'FunctionDef'") for tree in ours)
    assert nested == defined and len({tree.id for tree in found}) == len(found)
    compile_forest(tree.ast for tree in found)


@pytest.mark.parametrize("file", ["a.py", "a.cpp", "A.java", "a.js"])
def test_damaged_code_never_ends_in_a_traceback(tmp_path, file):
    text = PYTHON if file == "a.py" else ELSEWHERE[file][0]
    draw = random.Random(file)
    for _ in range(60):
        raw = bytearray(text.encode())
        for _ in range(draw.choice((1, 2, 8))):
            place = draw.randrange(len(raw))
            odd = draw.choice(
                (b"(", b"{", b"\0", b"\xff", b"'", b'"""', b"\\", b"(" * 300, b"\xed\xa0\x80")
            )
            raw[place : place + draw.randrange(20)] = odd
        try:
            trees(tmp_path / file, bytes(raw))
        except DataError as error:
            assert str(tmp_path / file) in str(error)
