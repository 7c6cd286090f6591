"""Source code as trees: Python by its own parser, other languages by tree-sitter's grammars.

Positions and comments are left out, and so are Python's docstrings. A file is one tree, or each function
is: the outermost ones that have a name; functions inside them are part of them. The name of a function
is its label, so it is not in its tree; calls of that name in its body stay. The label of a whole file is
the name of its directory.

What Python cannot parse is a problem. Other languages have macros, which no grammar knows: there, what
does not fit is left out, and counted.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treelstm.data.readers.source import Source, Tree
from treelstm.errors import UserError

if TYPE_CHECKING:
    from tree_sitter import Node

# Ending of a file -> its grammar's module; after a colon, what gives the grammar, if not `language`.
GRAMMARS = {
    **dict.fromkeys((".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"), "cpp"),
    **dict.fromkeys((".js", ".jsx", ".mjs", ".cjs"), "javascript"),
    **dict.fromkeys((".ts", ".mts"), "typescript:language_typescript"),
    **dict.fromkeys((".py", ".pyi"), "python"),
    ".tsx": "typescript:language_tsx",
    ".java": "java",
    ".go": "go",
    ".rs": "rust",
    ".cs": "c_sharp",
    ".rb": "ruby",
    ".php": "php:language_php",
}

Named = tuple[str, int, dict[str, Any]]  # a function's qualified name, its line, its tree

_MOST_BYTES = 2**23  # of a file: the parsers need some hundred times as much memory
_REPAIR = "Repair the file or leave it out"


class NoGrammar(UserError, ImportError):
    """The package that reads a language is not installed, or there is none."""


def read_python(source: Source) -> Iterator[Tree]:
    """Trees by the standard library's `ast`: the syntax of the Python that runs this."""
    raw = source.whole(_MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the code that is read: "\d" in a text, say
            module = ast.parse(raw)
        if source.each == "file":
            return (yield _whole(source, _python_tree(module)))
        named = [(name, node.lineno, _python_tree(node)) for name, node in _python_functions(module)]
    except (SyntaxError, ValueError) as error:  # the latter: a NUL
        found = f"not Python {_VERSION} ({getattr(error, 'msg', error)})"
        remedy = f'{_REPAIR}; --format "tree-sitter" reads other versions of Python'
        return source.problem(getattr(error, "lineno", 0) or 0, found, remedy)
    except (RecursionError, MemoryError):
        return source.problem(0, "nested deeper than Python's parser can read", _REPAIR)
    yield from _functions(source, named)


def _python_functions(module: ast.Module) -> list[tuple[str, Any]]:
    """With their qualified names, in the order of the file."""
    found, pending = list[tuple[str, Any]](), list[tuple[str, ast.AST]]([("", module)])
    for within, node in pending:  # it grows during the loop
        for each in ast.iter_child_nodes(node):
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((within + each.name, each))
            elif isinstance(each, ast.stmt | ast.excepthandler | ast.match_case):
                name = f"{each.name}." if isinstance(each, ast.ClassDef) else ""
                pending.append((within + name, each))
    return sorted(found, key=lambda each: each[1].lineno)


def _python_tree(root: ast.AST) -> dict[str, Any]:
    """A node for each node of Python's AST, `node` its class, without the name of a function that is the
    root. Not recursive: only memory limits it.
    """
    tree: dict[str, Any] = {}
    pending: list[tuple[Any, dict[str, Any]]] = [(root, tree)]
    for node, made in pending:  # it grows during the loop
        for key, value in node.items() if isinstance(node, dict) else _fields(node):
            found: list[Any] = []
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, _OPERATORS):
                    found.append(type(item).__name__)
                elif isinstance(item, ast.AST | dict):
                    found.append({})
                    pending.append((item, found[-1]))
                elif item is not None:
                    found.append(item)
            if found:
                made[key] = found if isinstance(value, list) else found[0]
    tree.pop("name", None)
    return tree


_VERSION = ".".join(map(str, sys.version_info[:2]))
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_OPERATORS = (ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
_LEFT_OUT = ("ctx", "type_comment", "type_ignores")  # ctx: the role says it
_IN_STEP = {  # two lists, whose items belong together one by one
    ast.Dict: ("keys", "values"),
    ast.Compare: ("ops", "comparators"),
    ast.MatchMapping: ("keys", "patterns"),
    ast.MatchClass: ("kwd_attrs", "kwd_patterns"),
}


def _fields(node: ast.AST) -> Iterable[tuple[str, Any]]:
    """Its class and fields. Lists in step become one list of pairs: siblings in a tree have no order."""
    fields = {"node": type(node).__name__, **dict(ast.iter_fields(node))}
    for name in _LEFT_OUT:
        fields.pop(name, None)
    if isinstance(node, ast.Constant):
        text = node.value if isinstance(node.value, str) else repr(node.value)
        text = text.encode(errors="backslashreplace").decode()  # JSON cannot hold half a character
        fields |= {"kind": type(node.value).__name__, "value": text}
    elif names := _IN_STEP.get(type(node)):
        lists = [fields.pop(name) for name in names]
        fields["pairs"] = [dict(zip(names, pair, strict=True)) for pair in zip(*lists, strict=True)]
    elif isinstance(node, ast.arguments):
        missing = len(node.posonlyargs) + len(node.args) - len(node.defaults)
        defaults = iter([None] * missing + fields.pop("defaults") + fields.pop("kw_defaults"))
        for name in ("posonlyargs", "args", "kwonlyargs"):
            pairs = zip(fields[name], defaults, strict=False)
            fields[name] = [{"arg": a, "default": d} if d else a for a, d in pairs]
    elif isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    return fields.items()


def read_tree_sitter(source: Source) -> Iterator[Tree]:
    """Trees by the grammar for the file's ending."""
    parser = _parser(Path(source.path.name.removesuffix(".gz")).suffix.lower())
    raw = source.whole(_MOST_BYTES)
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"not UTF-8 (there is a byte 0x{raw[error.start]:02x})"
        return source.problem(line, found, "Save the file as UTF-8")
    root = parser.parse(raw).root_node
    functions = list(_syntax_functions(root, source)) if source.each == "function" else []
    if root.has_error and not functions:
        _leave_out(source, root)
    elif source.each == "file":
        yield _whole(source, _syntax_tree(root))
    else:
        yield from _functions(source, functions)


def _parser(ending: str) -> Any:
    if ending not in GRAMMARS:
        known = ", ".join(sorted(GRAMMARS))
        raise NoGrammar(f"No grammar is known for the ending {ending!r}, but for {known}. Rename it.")
    module, _, function = GRAMMARS[ending].partition(":")
    try:
        from tree_sitter import Language, Parser

        grammar = import_module(f"tree_sitter_{module}")
    except ImportError as error:
        package = f"tree-sitter tree-sitter-{module.replace('_', '-')}"
        text = f"What reads files that end in {ending} is not installed ({error})"
        raise NoGrammar(f"{text}. Install it: pip install {package}") from None
    return Parser(Language(getattr(grammar, function or "language")()))


def _syntax_functions(root: Node, source: Source) -> Iterator[Named]:
    """Nodes with a name and a body that their grammar calls a function, method or constructor. Those
    that do not fit it are left out, and what is outside of them does not matter: macros are everywhere.
    """
    pending: list[tuple[str, Node, Node | None]] = [("", root, None)]
    while pending:
        within, node, parent = pending.pop()
        if node.child_by_field_name("body"):
            if any(word in node.type for word in ("function", "method", "constructor")):
                name = _name_of(node) or (parent and _name_in(parent, "name", "key", "property", "left"))
                if name and node.has_error:
                    _leave_out(source, node)
                elif name:
                    yield within + _text(name), node.start_point.row + 1, _syntax_tree(node, name)
                if name:
                    continue
            elif name := _name_in(node, "name", "type"):
                within += f"{_text(name)}."
        pending += [(within, child, node) for child in reversed(node.named_children)]


def _name_in(node: Node, *fields: str) -> Node | None:
    return next(filter(None, map(node.child_by_field_name, fields)), None)


def _name_of(function: Node) -> Node | None:
    """Its name; in C, the innermost of its declarators: `f` in `int *f(void)`."""
    node, inner = function.child_by_field_name("name"), function.child_by_field_name("declarator")
    while inner and not inner.type.startswith("abstract"):
        within = [child for child in inner.named_children if child.type.endswith("declarator")]
        node, inner = inner, inner.child_by_field_name("declarator") or next(iter(within), None)
    return node


def _syntax_tree(root: Node, name: Node | None = None) -> dict[str, Any]:
    """A node for each named node, without that of the `name`; fields are roles. Tokens that say more
    than the kind of node does, as operators and modifiers, are symbols.
    """
    tree: dict[str, Any] = {"node": root.type}
    pending = [(root, tree)]
    for node, made in pending:  # it grows during the loop
        cursor = node.walk()
        if not cursor.goto_first_child():
            if (text := _text(node)) != node.type:
                made["text"] = text
            continue
        more = True
        while more:
            child, field, more = cursor.node, cursor.field_name, cursor.goto_next_sibling()
            assert child is not None
            if child == name or "comment" in child.type:
                continue
            if child.is_named:
                pending.append((child, {"node": child.type}))
                made.setdefault(field or "children", []).append(pending[-1][1])
            elif field or (child.type not in _PUNCTUATION and child.type not in node.type.split("_")):
                made.setdefault(field or "token", []).append(child.type)
        if node.type == "update_expression":  # i++ or ++i
            made["form"] = "postfix" if node.child(0).is_named else "prefix"
    return tree


_PUNCTUATION = frozenset("( ) [ ] { } , ; : . :: \" ' ` \n".split(" "))


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _leave_out(source: Source, node: Node) -> None:
    """Counts it, with the line of the first place of all that does not fit."""
    while wrong := [child for child in node.children if child.has_error or child.is_missing]:
        node = wrong[0]
    what = "functions and files that do not fit their grammar, for macros or mistakes; the first: "
    known = (key for key in source.left_out if key.startswith(what))
    source.left_out[next(known, f"{what}{source.path}:{node.start_point.row + 1}")] += 1


def _whole(source: Source, tree: dict[str, Any]) -> Tree:
    return source.tree(1, tree, source.name, label=source.path.absolute().parent.name)


def _functions(source: Source, named: list[Named]) -> Iterator[Tree]:
    seen = Counter[str]()
    if not named:
        source.left_out["files without functions"] += 1
    for name, line, tree in named:
        seen[name] += 1
        id = f"{source.name}:{name}" + (f"#{seen[name]}" if seen[name] > 1 else "")
        yield source.tree(line, tree, id, id, label=name)
