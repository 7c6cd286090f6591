"""Engines that run at the same time; `benchmarks/nights.py` starts eight of them."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import psutil
from conftest import REPOSITORY, tiny_config
from pages import parameters, write_page
from runs import assert_same_run

from treelstm import Config

DIE_IN_EPOCH_2 = """
class Die(treelstm.Listener):
    def on_step(self, run):
        sign = config.output_path / "died"
        if run.epochs_done == 1 and run.step == 3 and not sign.exists():
            sign.touch()
            os.kill(os.getpid(), signal.SIGKILL)
listeners.append(Die())
"""


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


def killed_while_it_starts(config: Config, work: Path, kills: int) -> None:
    """Kills engine, kernel or both so many times within seconds of the start; then lets it finish."""
    draw, page = random.Random(5), write_page(work / "page.ipynb")
    words = [sys.executable, "-m", "papermill", "--engine", "treelstm", "--no-progress-bar"]
    words += [str(page), str(work / "out.ipynb")]
    words += [word for k, v in parameters(config).items() for word in ("-p", k, str(v))]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for _ in range(kills):
        night = subprocess.Popen(words, env=environment, **streams)
        time.sleep(draw.uniform(0.2, 5.0))
        kernels = psutil.Process(night.pid).children(recursive=True)
        if draw.random() < 0.7:
            night.kill()  # its kernel notices, and ends after a commit
        for kernel in kernels if draw.random() < 0.5 else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                kernel.kill()
        night.terminate()
        night.wait(100)
        _, alive = psutil.wait_procs(kernels, 70)
        assert not alive, alive
    subprocess.run(words, env=environment, **streams, check=True)
