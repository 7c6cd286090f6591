"""The smallest page that trains, papermill as a process, and what tests ask of both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
from conftest import REPOSITORY, tiny_config
from nbformat.v4 import new_code_cell, new_notebook
from runs import assert_same_run

from treelstm import Config

# Without the last line, every kernel would spend a second on tearing torch down.
IMPORTS = """
import atexit, os, signal, time
from pathlib import Path
import treelstm
config, listeners = treelstm.Config.from_notebook(globals()), []
atexit.register(os._exit, 0)
"""

# So slow that a kill comes while the run goes on.
SLOW = """
class Slow(treelstm.Listener):
    def on_step(self, run):
        time.sleep(0.02)
listeners.append(Slow())
"""

DIE_IN_EPOCH_2 = """
class Die(treelstm.Listener):
    def on_step(self, run):
        sign = config.output_path / "died"
        if run.epochs_done == 1 and run.step == 3 and not sign.exists():
            sign.touch()
            os.kill(os.getpid(), signal.SIGKILL)
listeners.append(Die())
"""

TRAIN = "history = treelstm.train(config, listeners=listeners)\nhistory.outcome"
RESULTS = """
from IPython.display import display
display({"application/json": {"outcome": history.outcome}}, raw=True)
"""


def write_page(path: Path, *hooks: str) -> Path:
    """Parameters, imports, hooks (whatever a test does to its kernel), training, results."""
    mark = "# Parameters of this run\nepochs = 50  # train until this epoch"
    cells = [new_code_cell(mark, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in (IMPORTS, *hooks, SLOW, TRAIN, RESULTS)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


def parameters(config: Config) -> dict[str, Any]:
    """What papermill injects: the settings that differ from the defaults."""
    defaults = Config().to_dict()
    return {name: value for name, value in config.to_dict().items() if value != defaults[name]}


class Papermill:
    """`papermill PAGE OUT -p ...` as a process. It ends with the test process (tests/children.py)."""

    def __init__(self, page: Path, config: Config, *options: str, **environment: str) -> None:
        self.output = page.with_suffix(".out.ipynb")
        self.run = config.output_path
        self.console = page.with_suffix(".txt")  # a pipe would fill up and block papermill
        words = [sys.executable, "-m", "papermill", str(page), str(self.output), "--no-progress-bar"]
        words += [word for k, v in parameters(config).items() for word in ("-p", k, str(v))]
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                [*words, *options], stdout=console, stderr=console, env=os.environ | environment
            )

    def wait(self, seconds: float = 120) -> int:
        return self.process.wait(seconds)

    def kernel(self) -> psutil.Process:
        """The process that holds the run."""
        return psutil.Process(json.loads((self.run / ".holder.json").read_bytes())["pid"])

    def until(self, condition: Callable[[], Any], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.console.read_text()
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.01)

    def until_epoch(self, epoch: int) -> None:
        """Until that epoch is committed, by this attempt or an earlier one, and the run goes on."""
        self.until((self.run / f"checkpoint_epoch_{epoch}.pt").exists)

    def notebook(self) -> Any:
        return nbformat.read(self.output, as_version=4)

    def statuses(self) -> list[str]:
        """papermill's status of each code cell."""
        cells = [cell for cell in self.notebook().cells if cell.cell_type == "code"]
        return [cell.metadata.papermill.status for cell in cells]


def nights_at_once(data: Path, work: Path, number: int, **settings: Any) -> None:
    """Starts that many engines at the same moment: in directories of their own, with the same page
    name, relative output path and new home. All must finish, with equal runs.
    """
    home = work / "home"
    home.mkdir()
    often = {"epochs": 3, "checkpoint_every_seconds": 0, "num_threads": 1, "resume": None}
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    nights = []
    for k in range(number):
        place = work / f"night{k}"
        place.mkdir()
        write_page(place / "page.ipynb", DIE_IN_EPOCH_2)
        config = tiny_config(data, place / "run", **(often | settings))
        words = [sys.executable, "-m", "papermill", "--engine", "treelstm", "--no-progress-bar"]
        words += ["page.ipynb", "out.ipynb"]
        words += [word for k, v in parameters(config).items() for word in ("-p", k, str(v))]
        with (place / "console.txt").open("wb") as console:
            streams = {"stdout": console, "stderr": console}
            nights.append(subprocess.Popen(words, cwd=place, env=environment, **streams))
    for k, night in enumerate(nights):
        place = work / f"night{k}"
        assert night.wait(300) == 0, (place / "console.txt").read_text()
        about = nbformat.read(place / "out.ipynb", as_version=4).metadata.treelstm
        assert about.outcome == "finished" and len(about.deaths) == 1
        assert_same_run(work / "night0" / "run", place / "run")
        assert not (place / "run" / "superseded").exists()


def send(process: psutil.Process | subprocess.Popen[bytes], number: signal.Signals) -> None:
    os.kill(process.pid, number)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
