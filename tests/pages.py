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
from nbformat.v4 import new_code_cell, new_notebook

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


def send(process: psutil.Process | subprocess.Popen[bytes], number: signal.Signals) -> None:
    os.kill(process.pid, number)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
