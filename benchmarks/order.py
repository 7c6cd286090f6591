"""What the order of children is worth on code, and what it costs: the table in docs/learning.md.

    python benchmarks/order.py exchanged [SEED ...]
    python benchmarks/order.py names [SEED ...]
    python benchmarks/order.py cost

The trees are functions of installed packages, by the standard library's `ast`: each node a type, the
texts of its leaves, and one list of children. `exchanged`: similar is the same function with other names
for its variables; dissimilar is that, and two operands, arguments, elements or statements have changed
places (once or twice). `names`: similar are functions of one name in two packages. Both are tested on
functions that training has not seen, at the epoch with the best average precision. `cost` compares the
processor time of steps with child_order and without.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from collections import defaultdict
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from corpus import REAL, workplace
from treelstm import Config, Listener, evaluate, load_corpus, load_encoder, load_pairs
from treelstm.run.directory import find_best_model
from treelstm.run.state import new_run
from treelstm.run.training import train_heard_by

import numpy as np

from learning import step_ratios

PACKAGES = "networkx numpy scipy sklearn sympy torch_geometric".split()
EPOCHS = 6
NODES = range(20, 131)  # of the functions that are taken
TRAINING, UNSEEN = 1_200, 500  # functions
SIZES = {"embedding_dim": 96, "hidden_dim": 96, "output_dim": 128, "num_threads": 1}
NAMES = [f"v{number}" for number in range(40)]  # of variables, so that none is new
CAP = 8  # from here on, places share one symbol
ROUNDS, STEPS = 12, 20

Pair = tuple[ast.FunctionDef, ast.FunctionDef, int]
Json = dict[str, Any]


def functions() -> list[tuple[str, str, str]]:
    """Package, name and source of each function, without its docstring."""
    found = {}
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec and spec.origin
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            if "test" in str(path.relative_to(Path(spec.origin).parent)):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef) and sum(1 for _ in _nodes(node)) in NODES:
                    if ast.get_docstring(node) and len(node.body) > 1:
                        del node.body[0]
                    node.decorator_list = []
                    found[ast.unparse(node)] = package, node.name
    return [(package, name, source) for source, (package, name) in sorted(found.items())]


def _nodes(node: ast.AST) -> list[ast.AST]:
    marks = (ast.operator, ast.cmpop, ast.boolop, ast.unaryop, ast.expr_context)
    return [each for each in ast.walk(node) if not isinstance(each, marks)]


def parsed(source: str) -> ast.FunctionDef:
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    return node


def as_json(node: ast.AST) -> Json:
    children, texts = [], []
    for name, value in ast.iter_fields(node):
        if isinstance(node, ast.FunctionDef) and name == "name":
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.operator | ast.cmpop | ast.boolop | ast.unaryop):
                texts.append(type(each).__name__)
            elif isinstance(each, ast.AST) and not isinstance(each, ast.expr_context):
                children.append(as_json(each))
            elif each is not None and not isinstance(each, ast.AST):
                texts.append(str(each)[:40])
    return {"type": type(node).__name__, "text": " ".join(texts) or None, "children": children}


def renamed(source: str, draw: random.Random) -> ast.FunctionDef:
    """With other names for its arguments and variables; ValueError if it has too many."""
    node = parsed(source)
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own = sorted(stored | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)})
    new = dict(zip(own, draw.sample(NAMES, len(own)), strict=True))
    for each in ast.walk(node):
        if isinstance(each, ast.arg):
            each.arg = new.get(each.arg, each.arg)
        elif isinstance(each, ast.Name):
            each.id = new.get(each.id, each.id)
    return node


def exchanged(source: str, draw: random.Random) -> str | None:
    """With one or two pairs of neighbours in each other's place; None if there are none."""
    node, places = parsed(source), list[tuple[Any, str, int]]()
    for each in ast.walk(node):
        if isinstance(each, ast.BinOp) and ast.dump(each.left) != ast.dump(each.right):
            places.append((each, "left", 0))
        if isinstance(each, ast.Compare) and len(each.comparators) == 1:
            places.append((each, "comparators", -1))
        for name in ("args", "elts", "values", "body"):
            items = getattr(each, name, None)
            if isinstance(items, list):
                both = enumerate(pairwise(items))
                places += [(each, name, k) for k, (a, b) in both if ast.dump(a) != ast.dump(b)]
    for each, name, at in draw.sample(places, min(len(places), draw.choice((1, 1, 2)))):
        if name == "left":
            each.left, each.right = each.right, each.left
        elif at < 0:
            each.left, each.comparators[0] = each.comparators[0], each.left
        else:
            items = getattr(each, name)
            items[at : at + 2] = items[at + 1], items[at]
    return ast.unparse(node) if places else None


def exchanged_pairs(draw: random.Random) -> list[list[Pair]]:
    """Two pairs of each function."""
    groups: list[list[Pair]] = []
    sources = [source for _, _, source in functions()]
    for source in draw.sample(sources, len(sources)):
        other = exchanged(source, draw)
        if other is None or other == source:
            continue
        try:
            sides = [renamed(each, draw) for each in (source, source, other)]
        except ValueError:  # more variables than names
            continue
        groups.append([(sides[0], sides[1], 1), (sides[0], sides[2], 0)])
        if len(groups) == TRAINING + UNSEEN:
            break
    return groups


def name_pairs(draw: random.Random) -> list[list[Pair]]:
    """For each name that occurs in two packages, a pair of its functions, and one with another's."""
    of_name: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    for package, name, source in functions():
        if not name.startswith("__"):
            of_name[name].setdefault(package, []).append(source)
    both = [
        [draw.choice(of_name[name][package]) for package in draw.sample(sorted(of_name[name]), 2)]
        for name in draw.sample(sorted(of_name), len(of_name))
        if len(of_name[name]) > 1
    ]
    turned = both[1:] + both[:1]
    return [
        [(parsed(a), parsed(b), 1), (parsed(a), parsed(other), 0)]
        for (a, b), (_, other) in zip(both, turned, strict=True)
    ]


def with_places(node: Json) -> Json:
    """The place of each child as a symbol of its own."""
    children = [with_places(each) | {"at": min(k, CAP)} for k, each in enumerate(node["children"])]
    return node | {"children": children}


def first_and_next(node: Json) -> Json:
    """The left-child right-sibling form: each node holds its first child and its next sibling."""
    below: Json | None = None
    for child in reversed(node["children"]):
        below = first_and_next(child) | {"next": below}
    return {**{key: value for key, value in node.items() if key != "children"}, "first": below}


FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "no order": (lambda node: node, {}),
    "places as symbols": (with_places, {}),
    "first child, next sibling": (first_and_next, {}),
    "`child_order=True`": (lambda node: node, {"child_order": True}),
}


def write(directory: Path, groups: list[list[Pair]], form: Any) -> None:
    directory.mkdir(parents=True)
    with (directory / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for first, second, label in (pair for group in groups for pair in group):
            sides = [{"ast": form(as_json(each))} for each in (first, second)]
            file.write(json.dumps({"ast1": sides[0], "ast2": sides[1], "label": label}) + "\n")


def written(work: Path, groups: list[list[Pair]], form: Any) -> dict[str, str]:
    unseen = min(UNSEEN, len(groups) // 4)
    write(work / "training", groups[unseen:], form)
    write(work / "validation", groups[:unseen], form)
    return {"data_dir": str(work / "training"), "validation_dir": str(work / "validation")}


def compared(work: Path, pairs_of: Any, seeds: list[int], dropout: float) -> None:
    for seed in seeds:
        sys.setrecursionlimit(10_000)
        groups = pairs_of(random.Random(seed))
        for name, (form, settings) in FORMS.items():
            directory = work / f"{seed}{name}".replace(" ", "")
            data = written(directory, groups, form)
            output = {"output_dir": str(directory / "run"), "epochs": EPOCHS, "seed": seed}
            config = Config(**data, **settings, **SIZES, **output, dropout=dropout)
            train_heard_by([Listener()], config)
            pairs = load_pairs(data["validation_dir"], child_order=config.child_order)
            metrics = evaluate(load_encoder(find_best_model(config.output_path)), pairs)
            forest = load_corpus(config).training.forest
            batch = forest.batch(np.arange(32), np.arange(len(forest.symbols)))
            print(
                f"| {name} | seed {seed} | {metrics.average_precision:.3f} | {metrics.roc_auc:.3f} "
                f"| {len(forest.height):,} of {forest.tree_nodes.sum():,} | {len(batch.levels)} |",
                flush=True,
            )


def cost(work: Path) -> None:
    code = written(work / "code", exchanged_pairs(random.Random(0)), lambda node: node)
    print("code:", _ratio(code))
    if REAL.is_dir():
        print("krestomatio:", _ratio({"data_dir": str(REAL / "training")}))


def _ratio(data: dict[str, str]) -> str:
    configs = [Config(**data, child_order=order, output_dir="none") for order in (True, False)]
    runs = [new_run(config, load_corpus(config)) for config in configs]
    forests = [run.corpus.training.forest for run in runs]
    low, middle, high = step_ratios(runs, ROUNDS, STEPS)
    sizes = " against ".join(f"{len(forest.height):,}" for forest in forests)
    return f"{sizes} distinct subtrees, a step {middle:.2f} times as long ({low:.2f} to {high:.2f})"


def main(what: str, *rest: str) -> None:
    with workplace() as name:
        if what == "cost":
            return cost(Path(name))
        # Where one exchange is all that differs, the noise of dropout is larger than the difference.
        pairs_of, dropout = {"exchanged": (exchanged_pairs, 0.0), "names": (name_pairs, 0.1)}[what]
        compared(Path(name), pairs_of, [int(word) for word in rest] or [0, 1], dropout)


if __name__ == "__main__":
    main(*sys.argv[1:])
