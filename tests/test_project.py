"""The repository itself: one declaration of dependencies, clean notebooks, a README that runs."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import treelstm

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
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines)}
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]):
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
    defaults = treelstm.Config()
    for line in text.splitlines()[1:]:
        name = line.split(" = ")[0]
        assert namespace[name] == getattr(defaults, name), f"{name} differs from Config's default"
        assert "  # " in line, f"{name} has no comment for papermill's help"


def test_imports_point_one_way():
    floors = [
        {
            "config",
            "trees",
            "sample",
            "randomness",
            "files",
            "progress",
            "guard",
            "notify",
            "engine",
            "signals",
        },
        {"data", "model", "checkpoint", "figures", "events"},
        {"evaluation", "widgets", "overnight", "report", "export"},
        {"training"},
        {"preflight"},
        {"__main__", "__init__"},
    ]
    floor = {name: level for level, names in enumerate(floors) for name in names}
    for path in (REPOSITORY / "treelstm").glob("*.py"):
        for name in re.findall(r"^from treelstm\.(\w+) import", path.read_text(), re.MULTILINE):
            assert floor[name] <= floor[path.stem], f"{path.stem} imports {name} from a floor above"


def test_importing_the_package_brings_neither_matplotlib_nor_scikit_learn():
    code = (
        "import sys; from treelstm import *; heavy = {'matplotlib.pyplot', 'sklearn', 'IPython',"
        "'tensorboard', 'apprise', 'papermill'}; print(*heavy & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_example_in_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    readme = (REPOSITORY / "README.md").read_text()
    example = next(
        block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "json.dumps" in block
    )
    assert len([line for line in example.splitlines() if line]) == 6
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    directory = Path("data/training_pairs")
    pairs = treelstm.load_pairs(directory)
    assert pairs.label.tolist() == [1, 0]


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
    code = "import treelstm, torch; from treelstm.process import waiting_seconds as w; print(w())"
    said = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # inherited from this process
    environment = {name: value for name, value in os.environ.items() if name not in said}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.001
