"""The repository itself: one declaration of dependencies, clean notebooks, a README that runs."""

from __future__ import annotations

import ast
import contextlib
import graphlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, tiny_config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import treelstm
from treelstm.config import Comparison
from treelstm.own_trees import Use

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


def test_environment_yml_holds_python_and_this_project_and_nothing_that_could_drift():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    python, pip, installed = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"] and pip == "pip"
    assert installed == {"pip": ["--editable ."]}
    assert environment["name"] == PROJECT["name"]


def test_the_constraints_satisfy_what_pyproject_asks_for():
    text = (REPOSITORY / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines)}
    extras = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    for text in (*PROJECT["dependencies"], *(text for text in extras if "treelstm[" not in text)):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text
        assert requirement.specifier.contains(version(requirement.name)), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs_and_with_one_parameters_cell(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    assert len(tagged) == 1 and tagged[0] is code[0]
    text = "".join(tagged[0]["source"])
    assert text.startswith("# Parameters of this run")
    namespace: dict[str, object] = {}
    exec(text, namespace)
    of = {"05_compare": Comparison, "06_use": Use}.get(path.stem, treelstm.Config)
    defaults = of()
    for line in text.splitlines()[1:]:
        name = line.split(" = ")[0]
        if (path.stem, name) == ("03_resume", "epochs"):
            assert namespace[name] is None, "a page's default would override the run's own number"
            continue
        given = getattr(of(**{name: namespace[name]}), name)
        assert given == getattr(defaults, name), f"{name} differs from Config's default"
        assert "  # " in line, f"{name} has no comment for papermill's help"


# Each module may import those of floors above it in this list, and of its own floor without circles.
FLOORS = [
    "themes",
    "plain errors parameters history files signals randomness night data.sample config neutral process",
    "trees.arrays trees.texts trees.forest trees.values trees.vocabulary trees.parts trees.builder",
    "trees.check trees.naming trees.asts",
    "data.problems data.files data.pairs data.reading data.foreign data.ranges data.compiling",
    "data.store data.load data.survey",
    "data.readers.source data.readers.words data.readers.conllu",
    "data.readers.brackets data.readers.pointers data.readers.parsers",
    "data.readers.code data.readers.values data.readers.formats",
    "data.judgements data.classes data.overlap data.pairing",
    "sealed log notify",
    "model.child_sum model.objectives model.vectors model.encoder model.content model.files",
    "evaluation explanation",
    "comparison collection",
    "run.lock run.content run.directory run.changes run.status run.distributed run.state run.inputs",
    "run.step run.divergence run.deadline run.listener run.summary run.tensorboard run.training",
    "exports runs sweeps.trials own_trees",
    "run_table",
    "progress checks.report checks.environment checks.bookkeeping checks.keys checks.data checks.trial",
    "checks.directory",
    "checks.groups",
    "sweeps.journal sweeps.plan",
    "drawing",
    "figures tree_figures tables run_figures overnight engine tuning",
    "widgets.base widgets.table widgets.checkpoints widgets.monitor widgets.sentences widgets.tries",
    "widgets.sample",
    "widgets.folded widgets.neighbours widgets.map",
    "sweeps.night",
    "launch",
    "listeners",
    "rivals side_by_side",
    "widgets.own_trees widgets.pairs",
    "widgets.run_picker",
    "commands",
    "__main__",
]


def modules() -> dict[str, Path]:
    """Every module of the package by its name below `treelstm`."""
    root = REPOSITORY / "treelstm"
    found = {".".join(path.relative_to(root).with_suffix("").parts): path for path in root.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.endswith("__init__")}


def imported(source: str, known: Collection[str]) -> set[str]:
    """The modules of this package that a source imports, in whatever form and wherever it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used here"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            names |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    return {name.removeprefix("treelstm.") for name in names if name.startswith("treelstm.")} & set(
        known
    )


@pytest.mark.parametrize(
    "source",
    [
        "import treelstm.trees.forest",
        "import os, treelstm.trees.forest as t",
        "from treelstm.trees import forest",
        "from treelstm.trees.forest import Forest",
        "def f():\n    from treelstm.trees.forest import Forest",
        "if True:\n    from treelstm.trees import (\n        builder,\n        forest,\n    )",
        '__import__("treelstm.trees.forest", fromlist=["Forest"])',
        'import_module("treelstm.trees.forest")',
    ],
)
def test_no_form_of_import_is_overlooked(source):
    assert "trees.forest" in imported(source, modules())


def test_imports_point_one_way():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names.split()}
    graph = {name: imported(path.read_text(), modules()) for name, path in modules().items()}
    assert floor.keys() == graph.keys()
    for name, others in graph.items():
        above = {other for other in others if floor[other] > floor[name]}
        assert not above, f"{name} imports {above} from a floor above"
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_module_is_one_idea_of_at_most_450_lines_and_the_package_stays_thin():
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lines.items() if count > 450} == {}
    assert sum(lines.values()) <= 20_500  # 9,000 is the aim when all is built


def test_the_readme_maps_every_module():
    readme = (REPOSITORY / "README.md").read_text()
    for name in modules():
        folder, _, own = name.rpartition(".")
        home = f"`treelstm/{folder}/`" if folder else f"`treelstm/{own}.py`"
        assert home in readme or f"`{own}.py`" in readme, f"{name} is not in README's map"


def test_the_promises_name_tests_that_exist():
    promises = (REPOSITORY / "docs" / "promises.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)`", promises)
    assert len(named) > 10
    assert not [name for name in named if not (REPOSITORY / name).is_file()]


def test_dir_shows_the_public_names_and_nothing_else():
    assert dir(treelstm) == sorted(treelstm.__all__)
    for name in treelstm.__all__:
        assert getattr(treelstm, name) is not None
    names = {name.rpartition(".")[2] for name in modules()}
    assert not names & set(treelstm.__all__), "a module is called like a public name"


def test_preflight_is_the_function_whatever_was_imported_before():
    code = (
        "import treelstm.checks.groups, treelstm.run.training, treelstm.evaluation\n"
        "import treelstm.widgets.monitor\n"
        "import treelstm\n"
        "print(all(callable(getattr(treelstm, name)) for name in treelstm.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_every_public_path_parameter_takes_a_string():
    for name in treelstm.__all__:
        thing = getattr(treelstm, name)
        functions = [thing] if inspect.isfunction(thing) else []
        for function in functions:
            for parameter, kind in function.__annotations__.items():
                if parameter != "return" and "Path" in str(kind):
                    assert "str" in str(kind), f"{name}({parameter}) takes no string"


def test_importing_the_package_brings_neither_matplotlib_nor_scikit_learn():
    code = (
        "import sys; from treelstm import *; heavy = {'matplotlib.pyplot', 'sklearn', 'IPython',"
        "'tensorboard', 'apprise', 'papermill', 'torch_geometric', 'torch._dynamo'}\n"
        "print(*heavy & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_examples_in_the_readme_print_what_they_say(tiny, tmp_path, monkeypatch, capsys):
    """Each in a directory as the README has it by then: an encoder, trained; data, not yet there."""
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    treelstm.train(tiny_config(tiny, tmp_path / "models" / "tree_lstm", epochs=1, output_dim=512))
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        capsys.readouterr()
        exec(block, {})
        expected = re.findall(r"^print\(.*\)  # (.+)$", block, re.MULTILINE)
        assert expected and capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmarks_and_the_scripts_in_them_import_treelstm_before_what_may_load_torch(path):
    sources = [path.read_text()]
    for node in ast.walk(ast.parse(sources[0])):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nimport " in node.value:
            sources.append(node.value)
    for source in sources:
        with contextlib.suppress(SyntaxError):  # of a template
            free = {*sys.stdlib_module_names, "corpus"}
            others = [name for name in _imported(source) if name not in free]
            assert others[:1] in ([], ["treelstm"])


def _imported(source: str) -> list[str]:
    names: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            names.append(str(node.module))
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name.partition(".")[0] for name in names]


def test_waiting_threads_sleep_where_treelstm_is_imported_before_torch():
    code = (
        "import treelstm, time, torch\nnumbers, spent = torch.zeros(1 << 20), []\n"
        "for _ in range(5):\n"
        "    numbers.add_(1)  # large enough that all threads take part\n"
        "    began = time.process_time()\n"
        "    time.sleep(0.05)\n"
        "    spent.append(time.process_time() - began)\n"
        "print(sorted(spent)[2])  # a median: busy processes disturb single trials"
    )
    said = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # inherited from this process
    environment = {name: value for name, value in os.environ.items() if name not in said}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.001
