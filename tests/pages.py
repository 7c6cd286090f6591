"""A page as small as an overnight page can be, papermill as a process, and what to ask of both."""

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
from nbformat.v4 import new_code_cell, new_notebook

from treelstm import Config

IMPORTS = """
import os, signal, time
from pathlib import Path
import treelstm
from treelstm import training
config = treelstm.Config.from_notebook(globals())
"""

# Long enough that a kill hits a run that is going on; computes nothing else.
SLOW = """
step = training.train_step
def slow(*arguments):
    step(*arguments)
    time.sleep(0.02)
training.train_step = slow
"""

TRAIN = "history = treelstm.train(config, config.resume)\nhistory.outcome"
RESULTS = """
from IPython.display import display
display({"application/json": {"outcome": history.outcome}}, raw=True)
"""


def write_page(path: Path, *hooks: str) -> Path:
    """Parameters, imports, hooks (whatever a test does to its kernel), training, results."""
    mark = "# Parameters of this run\nepochs = 50  # train until this epoch"
    cells = [new_code_cell(mark, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in (IMPORTS, SLOW, *hooks, TRAIN, RESULTS)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


def parameters(config: Config) -> dict[str, Any]:
    """What papermill injects: the settings that are not the defaults."""
    defaults = Config().to_dict()
    return {name: value for name, value in config.to_dict().items() if value != defaults[name]}


class Papermill:
    """`papermill PAGE OUT -p ...` as a process of its own."""

    def __init__(self, page: Path, config: Config, *options: str, **environment: str) -> None:
        self.output = page.with_suffix(".out.ipynb")
        self.run = config.output_path
        words = [
            sys.executable,
            "-m",
            "papermill",
            str(page),
            str(self.output),
            "--no-progress-bar",
            *options,
        ]
        words += [word for k, v in parameters(config).items() for word in ("-p", k, str(v))]
        self.words = words
        # In a file, since a pipe that nobody reads would stop it.
        with page.with_suffix(".txt").open("wb") as console:
            self.process = subprocess.Popen(
                words, stdout=console, stderr=console, env=os.environ | environment
            )
        self.console = page.with_suffix(".txt")

    def wait(self, seconds: float = 120) -> int:
        return self.process.wait(seconds)

    def kernel(self) -> psutil.Process:
        """The process that holds the run."""
        return psutil.Process(json.loads((self.run / ".holder.json").read_bytes())["pid"])

    def until(self, true: Callable[[], Any], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, self.console.read_text()
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    def until_epoch(self, epoch: int) -> None:
        """Until that epoch is committed, by this life or an earlier one, and the run goes on."""
        self.until((self.run / f"checkpoint_epoch_{epoch}.pt").exists)

    def notebook(self) -> Any:
        return nbformat.read(self.output, as_version=4)

    def statuses(self) -> list[str]:
        """papermill's word on each code cell but the injected one."""
        cells = [cell for cell in self.notebook().cells if cell.cell_type == "code"]
        return [cell.metadata.papermill.status for cell in cells]


def send(process: psutil.Process | subprocess.Popen[bytes], number: signal.Signals) -> None:
    os.kill(process.pid, number)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
