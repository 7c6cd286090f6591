"""Parameters as people type them: every one counts, or an error names it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import REPOSITORY
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.manager import start_new_kernel

from treelstm import Config
from treelstm.config import Comparison, ConfigError

OWN = '# Parameters of this run\nepochs = 9  # until this one\noutput_dir = "models/mine"\nseed = 7'
INJECTED = "# Parameters\nepochs = 300\n"
READ = "config = Config.from_notebook(globals())"


PATH = OWN.replace('"models/mine"', 'str(Path("models") / "mine")').replace(
    "epochs", "from pathlib import Path\nepochs", 1
)


class Shell:
    """Runs the text of magics, as IPython does."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    def run_cell_magic(self, name: str, line: str, text: str) -> None:
        exec(text, self._namespace)

    def run_line_magic(self, name: str, text: str) -> None:
        exec(text, self._namespace)

    def system(self, text: str) -> None:
        pass


def run(*cells: str, namespace: dict[str, Any] | None = None) -> Any:
    """The config that is made after these cells; later runs may use the same namespace."""
    namespace = {"Config": Config, "In": [""]} if namespace is None else namespace
    namespace["get_ipython"] = lambda: Shell(namespace)
    for cell in (*cells, READ):
        namespace["In"].append(TransformerManager().transform_cell(cell).rstrip("\n"))
        if "no python" not in cell:
            exec(namespace["In"][-1], namespace)
    return namespace["config"]


@pytest.mark.parametrize(
    "cells",
    [
        [OWN],
        [OWN.replace("# Parameters of this run", "# Settings for the paper")],
        [OWN.replace("# Parameters of this run\n", "")],
        ["\n\n" + OWN],
        ["# mine\n" + OWN],
        ["# mine\n\n" + OWN.replace("# Parameters of this run\n", '"""What I want."""\n')],
        [PATH],
        ["epochs, seed = 9, 7\noutput_dir: str = 'models/mine'"],
        ["import math\nfrom os import path", OWN, "history = [1]", "def f(epochs):\n    seed = 3"],
        ["no python at all ::", OWN, "%%capture\nhistory = 3", "!true", "%time x = 1"],
        ["# Parameters: where\noutput_dir = 'models/mine'", "# more parameters\nepochs = 9\nseed = 7"],
        [OWN.replace("epochs = 9", "epochs = 50\npatience = 1"), OWN, READ],
        [OWN + "\nepohcs = 3", OWN],
        [OWN, READ, OWN.replace("epochs = 9", "epochs = 8"), READ, OWN],
        [READ.replace("config", "# it fails\ntry: config") + "\nexcept Exception: pass", OWN],
        ["if True:\n    output = 1", OWN, "history = {'epochs': [epochs for epochs in range(3)]}"],
        [OWN, "print('epochs = 20')", "data = dict(epochs=3); data['epochs'] = 4"],
        [OWN, "class Mine:\n    epochs = 3\nMine.seed = 4"],
        [OWN, "async def f():\n    epochs = await g()\n"],
        [OWN, "import numpy\nvectors = numpy.zeros(3)"],  # no value of a setting
    ],
)  # fmt: skip
def test_a_parameters_cell_is_found_by_what_it_holds(cells):
    config = run(*cells)
    assert (config.epochs, config.output_dir, config.seed) == (9, "models/mine", 7)
    assert config == Config(epochs=9, output_dir="models/mine", seed=7)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([OWN, INJECTED], 300),
        (["# mine\n" + OWN, INJECTED], 300),
        ([OWN.replace("# Parameters of this run", "# My own"), INJECTED + "seed = 7"], 300),
        ([OWN.replace(" of this run", ""), INJECTED + 'output_dir = "models/mine"'], 300),
        ([OWN, INJECTED, READ, INJECTED.replace("300", "3")], 3),
        ([OWN, INJECTED + "patience = 5", READ, INJECTED + "seed = 7"], 300),
        ([OWN, INJECTED, READ, OWN], 9),
        (["# Settings\nepochs = 20"], 20),
        ([OWN, READ, "# Parameters of this run\nepochs = 20"], 20),
    ],
)
def test_the_newest_run_of_a_parameters_cell_counts(cells, expected):
    assert run(*cells).epochs == expected


ELSEWHERE = [
    "epochs = 20",
    "patience = 5",
    "patience = int(5)",
    "a, (*b, patience) = 1, (2, 3, 5)",
    "for patience in (3, 5): pass",
    "if (patience := 5): pass",
    "[patience := each for each in (3, 5)]",
    "epochs += 1",
    "import math as epochs",
    "from math import pi as epochs",
    "def epochs(): pass",
    "class seed: pass",
    "with open('/dev/null') as seed: pass",
    "try: 1 / 0\nexcept ZeroDivisionError as error: epochs = 4",
    "%%capture\npatience = 5",
    "%time patience = 5",
    "exec('patience = 5')",
    "patience: int = 5",
    "device = 'cpu'\nx = 3",
    "from math import *\npatience = 5",
    "epochs = 20\nprint(epochs)",
]


@pytest.mark.parametrize("cell", ELSEWHERE)
def test_a_setting_that_another_cell_assigns_is_refused_by_cell_and_name(cell):
    name = next(n for n in ("epochs", "patience", "seed", "device") if n in cell)
    with pytest.raises(ConfigError, match=rf"In \[2\] assigns {name}\. .* cell, In \[1\], only\. M"):
        run(OWN, cell)
    with pytest.raises(ConfigError, match=rf"In \[3\] assigns {name}\."):
        run(OWN, READ, cell)


@pytest.mark.parametrize(
    "cell", ["epochs = 20", "patience = 5", "%%capture\npatience = 5", "x = 1; seed = 3"]
)
def test_it_is_refused_above_the_parameters_too(cell):
    with pytest.raises(ConfigError, match=r"In \[1\] assigns (epochs|patience|seed)\. .*cell, In \[2\]"):
        run(cell, OWN)
    with pytest.raises(ConfigError, match=r"In \[3\] assigns (epochs|patience|seed)\. .*cell, In \[4\]"):
        run(OWN, READ, cell, OWN)


def test_a_setting_that_no_cell_assigns_is_refused_by_name():
    with pytest.raises(ConfigError, match="patience is set by no cell"):
        run(OWN, "globals()['patience'] = 5")


def test_without_a_parameters_cell_there_is_no_config():
    for cells in ([], ["history = 3"], ["%%capture\nepochs = 3"], ["print(3)\nepochs = 3"]):
        with pytest.raises(ConfigError, match="no parameters cell has been run in this kernel"):
            run(*cells)


@pytest.mark.parametrize("stray", ["patience = 5", "epochs = 20", "%%capture\npatience = 5"])
@pytest.mark.parametrize("mended", [OWN, OWN + "\npatience = 5"])
def test_who_mends_it_is_not_asked_to_start_the_kernel_again(stray, mended):
    namespace: dict[str, Any] = {"Config": Config, "In": [""]}
    for _ in range(2):
        for cells in ([OWN, stray], [stray, OWN], []):
            with pytest.raises(ConfigError, match="assigns"):
                run(*cells, namespace=namespace)
        patience = 5 if "patience" in mended else None
        assert run(mended, namespace=namespace).patience == patience
        assert run(namespace=namespace).epochs == 9


def test_what_an_analysis_computed_is_overwritten_when_the_page_is_run_again():
    namespace: dict[str, Any] = {"Config": Config, "In": [""]}
    for _ in range(2):
        assert run(OWN, namespace=namespace).epochs == 9
        exec("epochs = [3]", namespace)
        namespace["In"].append("epochs = [each['epoch'] for each in history]")


def test_a_page_exported_as_a_script_has_its_settings():
    namespace: dict[str, Any] = {"Config": Config}
    exec(f"{OWN}\n{READ}", namespace)
    assert namespace["config"] == Config(epochs=9, output_dir="models/mine", seed=7)
    with pytest.raises(ConfigError, match="no parameters cell"):
        exec(READ, {"Config": Config})


def test_a_line_that_is_gone_from_the_parameters_cell_no_longer_counts():
    for rest in ("epochs = 20", 'output_dir = "models/mine"'):
        config = run(OWN, READ, f"# Parameters of this run\n{rest}")
        assert config.flags() == Config(**{rest.split(" = ")[0]: eval(rest.split(" = ")[1])}).flags()


@pytest.mark.filterwarnings("default")  # warnings of Jupyter are not ours
def test_the_tag_tells_the_parameters_cell_where_the_browser_sends_it():
    """As JupyterLab does, from the second run of the cell on: treelstm is imported below it."""
    manager, client = start_new_kernel()

    def execute(code: str, **metadata: Any) -> Any:
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": True}
        content |= {"user_expressions": {"epochs": "config.epochs"}, "stop_on_error": False}
        request = client.session.msg("execute_request", content, metadata=metadata)
        client.shell_channel.send(request)
        asked, reply = request["header"]["msg_id"], client.get_shell_msg(timeout=60)
        while reply["parent_header"]["msg_id"] != asked:  # of the client's start
            reply = client.get_shell_msg(timeout=60)
        found = reply["content"].get("user_expressions", {}).get("epochs", {})
        return found.get("data", {}).get("text/plain")

    try:
        tags, read = ["parameters"], f"from treelstm import Config\n{READ}"
        execute(OWN, tags=tags)
        assert execute(read) == "9"
        execute("%time epochs = 20", tags=tags)  # neither its words nor its content would tell
        assert execute(read) == "20"
        execute("epochs = 30")
        assert execute(read) != "30"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_name_that_is_no_setting_is_refused():
    for cell in (OWN + "\nepohcs = 3", "# Parameters\nepohcs = 3"):
        with pytest.raises(ConfigError, match=r"epohcs: no such setting\. Did you mean epochs"):
            run(OWN, cell)


def test_what_changed_since_the_settings_were_read_is_named_with_both_values():
    namespace: dict[str, Any] = {"Config": Config, "In": [""]}
    config = run(OWN, INJECTED, namespace=namespace)
    config.require_current(namespace)
    for cell in (OWN.replace("seed = 7", "seed = 8\npatience = 5"), "history = 3"):
        namespace["In"].append(cell)
        exec(cell, namespace)
        changed = r"epochs was 300, is 9 now; patience was 'not set', is 5 now"
        with pytest.raises(ConfigError, match=rf"seed was 7, is 8 now.*|{changed}"):
            config.require_current(namespace)
    run(namespace=namespace).require_current(namespace)
    namespace["In"].append("epochs = 20")
    exec("epochs = 20", namespace)
    with pytest.raises(ConfigError, match="assigns epochs"):
        config.require_current(namespace)


def test_other_pages_parameters_are_read_in_the_same_way():
    namespace: dict[str, Any] = {"Config": Comparison, "In": [""]}
    assert run('directory = "night"\nruns = ["a"]', namespace=namespace).directory == "night"
    with pytest.raises(ConfigError, match=r"In \[3\] assigns validation_dir"):
        run("validation_dir = 'v'", namespace=namespace)


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_no_other_cell_of_a_page_assigns_a_setting(path):
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    first, *others = ["".join(cell["source"]) for cell in cells]
    kind = Comparison if path.stem == "05_compare" else Config
    namespace: dict[str, Any] = {"In": ["", first, *others]}
    names = vars(kind()).keys()
    namespace |= dict.fromkeys(names, 1)  # as if all were assigned somewhere
    exec(first, namespace)
    with pytest.raises(ConfigError) as refused:
        kind.from_notebook(namespace)
    assert "assigns" not in str(refused.value) and "set by no cell" in str(refused.value)
