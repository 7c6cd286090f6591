"""Unattended runs: `papermill --engine treelstm IN.ipynb OUT.ipynb`.

The engine supervises and computes nothing; what it knows of a run it reads from the page and from the
names of the commits. A signal to papermill becomes a request to the kernel to commit and stop. A
kernel that dies is started again, and the page is executed again with resume="auto". The executed page
says what happened. Exit status: 0 finished, 1 failed, 128 + signal stopped.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import os
import signal
import threading
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import nbformat
from jupyter_core.paths import jupyter_runtime_dir
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.iorw import LocalHandler, papermill_io
from papermill.log import logger as papermill_log
from papermill.parameterize import parameterize_notebook

from treelstm.config import Config, ConfigError
from treelstm.files import write_whole
from treelstm.guard import GRACE_SECONDS
from treelstm.log import LogFile
from treelstm.notify import ADDRESSES, notify, summary
from treelstm.signals import stop_signals

log = logging.getLogger("treelstm")

_TAG = "treelstm-overnight"  # of the cell at the top that says what happened
_SHORT_LIFE_SECONDS, _LONGEST_WAIT_SECONDS = 15.0, 60.0


def execute_notebook(
    nb: NotebookNode,
    kernel_name: str,
    output_path: str | None = None,
    progress_bar: bool = True,
    log_output: bool = False,
    autosave_cell_every: int = 30,
    **options: Any,
) -> NotebookNode:
    """papermill's engine: executes the page until it is finished, failed or stopped.

    Returns the executed page where it is finished or failed (papermill looks for errors itself).

    Raises:
        SystemExit: stopped, its code is 128 + the signal's number; or the disk refuses the page, its
            message says how the run stands (papermill itself would tear the last whole one).
    """
    nb.cells = [cell for cell in nb.cells if _TAG not in cell.metadata.get("tags", ())]
    record = _Record(nb, output_path, log_output, progress_bar, autosave_cell_every)
    stop = _Stop()
    with stop_signals(stop), closing(stop):
        night = _Night(record, kernel_name, stop, log_output=log_output, **options)
        outcome = "failed"  # unless it returns
        try:
            outcome = night.through()
        finally:
            record.nb.metadata["treelstm"] = {"outcome": outcome, "deaths": night.deaths}
            record.notebook_complete()
            night.announce(outcome)
    if outcome.startswith("stopped by "):
        raise SystemExit(128 + signal.Signals[outcome.removeprefix("stopped by ")])
    if record.refused:
        raise SystemExit(f"{outcome}: {night.report()}")
    executed: NotebookNode = record.nb
    return executed


class _Night:
    """The lives of one page, one kernel each."""

    def __init__(
        self,
        record: _Record,
        kernel_name: str,
        stop: _Stop,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        input_path: str | None = None,
        **options: Any,
    ) -> None:
        self.record, self.stop = record, stop
        self.config = _settings(record.nb)
        self.deaths: list[str] = []
        self.options = {
            "kernel_name": kernel_name,
            "startup_timeout": start_timeout,
            "timeout": execution_timeout,
            "log": papermill_log,
            **options,
        }
        self.before = self.commits()

    def through(self) -> str:
        """Lives until the page ends; how it did: "finished", "failed" or "stopped by SIG..."."""
        wait = 0.0
        while True:
            began, before = time.monotonic(), self.commits()
            self.record.notebook_start()
            if self.record.refused and not self.deaths:
                return "failed"  # at once, not after a night of which nobody can read
            self.stop.page = None
            try:
                page = self.stop.page = _Page(self.record, self.stop, self.options)
                page.execute(env=_environment(), independent=True)
            except (RuntimeError, OSError) as error:  # nbclient's DeadKernelError; a full disk
                died = self.stop.page.death if self.stop.page else ""
                how = died or f"the kernel did not start ({error})"
                if self.stop.signal:
                    return self.stopped(how)
                if self.commits() <= before:
                    return self.gave_up(f"{how}, and nothing new had been committed")
                if len(self.deaths) == self.config.max_restarts:
                    return self.gave_up(f"{how}, after {len(self.deaths)} restarts (max_restarts)")
                short = time.monotonic() - began < _SHORT_LIFE_SECONDS
                wait = min(max(1.0, 2 * wait), _LONGEST_WAIT_SECONDS) if short else 0.0
                self.start_again(how, wait)
                if self.stop.signal:
                    return self.stopped("between two kernels")
            else:
                if page.failed:
                    return "failed"
                if not page.whole:
                    return self.stopped("")
                return _recorded_outcome(self.record.nb)

    def start_again(self, how: str, wait: float) -> None:
        """Says so, waits, and has the page go on from the newest commit, whatever it asked at first."""
        self.deaths.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {how}")
        self.say(f"{how}: restart {len(self.deaths)} of at most {self.config.max_restarts}")
        event = ("restarted", self.config.output_path, self.report())
        threading.Thread(target=notify, args=event, daemon=True).start()  # nobody waits for it
        until = time.monotonic() + wait
        while time.monotonic() < until and not self.stop.signal:
            time.sleep(0.1)
        nb = self.record.nb
        self.record.nb = parameterize_notebook(
            nb,
            {**nb.metadata.papermill.get("parameters", {}), "resume": "auto"},
            kernel_name=self.options["kernel_name"],
        )
        lines = "\n".join(f"- {death}" for death in self.deaths)
        self.note(f"**The kernel died and was started again.** Below is its last life.\n\n{lines}")

    def stopped(self, how: str) -> str:
        number = signal.Signals(self.stop.signal or signal.SIGTERM)
        self.note(
            f"**Stopped by {number.name}**{f' ({how})' if how else ''}. Cells after the stop were not "
            "executed. The same command goes on from the last commit."
        )
        return f"stopped by {number.name}"

    def gave_up(self, why: str) -> str:
        """An error in the cell that was running, so that papermill marks it and fails."""
        self.say(f"{why}: not started again")
        code = [cell for cell in self.record.nb.cells if cell.cell_type == "code"]
        statuses = [cell.metadata.papermill["status"] for cell in code]
        cell = code[statuses.index("failed") if "failed" in statuses else 0]
        text = f"{why}. The same command goes on from the last commit."
        cell.outputs.append(
            new_output("error", ename="KernelDied", evalue=text, traceback=[f"KernelDied: {text}"])
        )
        cell.metadata.papermill.update(exception=True, status="failed")
        return "failed"

    def note(self, text: str) -> None:
        """A cell at the top of the executed page, in the place of the one before it."""
        cells = self.record.nb.cells
        if _TAG in cells[0].metadata.get("tags", ()):
            text = f"{text}\n\n{cells.pop(0).source}"
        cells.insert(
            0, new_markdown_cell(text, metadata={"tags": [_TAG], "papermill": {"status": "completed"}})
        )

    def say(self, text: str) -> None:
        """A line in papermill's log and, where the run has one, in the run's."""
        path = self.config.output_path / "training.log"
        file = LogFile(path) if path.is_file() else logging.NullHandler()
        log.addHandler(file)
        try:
            log.warning(text)
        finally:
            log.removeHandler(file)
            file.close()

    def commits(self) -> set[tuple[str, int]]:
        """Name and time of each checkpoint; a new commit is a new one, or a newer one."""
        found = set()
        for path in self.config.output_path.glob("checkpoint_epoch_*.pt"):
            try:
                found.add((path.name, path.stat().st_mtime_ns))
            except FileNotFoundError:  # the kernel has just removed it
                continue
        return found

    def announce(self, event: str) -> None:
        """Notifies; a page that found its run finished, and did nothing, is no event."""
        if event != "finished" or not self.commits() <= self.before:
            notify(event, self.config.output_path, self.report())

    def report(self) -> str:
        """The page's error, why it is not on disk, the deaths of its kernels, and the best epoch."""
        errors = [
            f"{output.ename}: {output.evalue}"
            for cell in self.record.nb.cells
            for output in cell.get("outputs", ())
            if output.output_type == "error"
        ]
        path = self.config.output_path / "training_history.json"
        try:
            best = summary(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            best = summary([])
        refused = self.record.refused
        unsaved = [f"The executed page could not be saved: {refused}"] if refused else []
        return "\n".join([*errors[:1], *unsaved, *self.deaths, best])


class _Page(PapermillNotebookClient):
    """One life: one kernel that executes the page from its beginning."""

    def __init__(self, record: _Record, stop: _Stop, options: dict[str, Any]) -> None:
        watch = f'__import__("treelstm.guard", fromlist=["guard"]).guard({os.getpid()})'
        super().__init__(record, **options, extra_arguments=[f"--IPKernelApp.exec_lines={watch}"])
        # One name for all lives of all commands on this page: what a kill leaves, the next overwrites.
        name = hashlib.sha256(str(record.output_path).encode()).hexdigest()[:16]
        directory = Path(jupyter_runtime_dir())
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.km = self.create_kernel_manager()
        self.km.connection_file = str(directory / f"kernel-treelstm-{name}.json")
        self.stop = stop
        self.death = ""
        self.failed = self.whole = False

    def papermill_execute_cells(self) -> None:
        """As papermill's own, but it can stop between cells, and a cell that did not end says so."""
        for index, cell in enumerate(self.nb.cells):
            if self.stop.signal:
                return
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except BaseException as error:
                self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                if not isinstance(error, CellExecutionError):
                    self.death = self.how_the_kernel_ended()
                    raise
                self.failed = True
                return
            finally:
                self.nb_man.cell_complete(cell, cell_index=index)
        self.whole = True

    def how_the_kernel_ended(self) -> str:
        process = getattr(self.km.provisioner, "process", None)
        status = process.poll() if process else None
        if status is None:
            return "the kernel died"
        if status >= 0:
            return f"the kernel ended itself with status {status}"
        name = signal.Signals(-status).name
        hint = " (out of memory? the system's log tells)" if name == "SIGKILL" else ""
        return f"the kernel was killed by {name}{hint}"

    def send(self, number: int) -> None:
        """Sends the kernel a signal, where there is a kernel."""
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        if process is not None and process.poll() is None:
            process.send_signal(number)


class _Record(NotebookExecutionManager):
    """papermill's record of a page; a cell that was never reached stays "pending".

    It is saved whole or not at all, and a disk that refuses it does not end a night that has begun.
    """

    refused: OSError | None = None  # why the page on disk is not this one

    def save(self, **kwargs: Any) -> None:
        try:
            if path := _local(self.output_path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, nbformat.writes(self.nb).encode())
            else:
                super().save()
            self.refused = None
        except OSError as error:
            if not self.refused:
                log.warning("the executed page cannot be saved now: %s", error)
            self.refused = error
        self.last_save_time = self.now()

    def notebook_complete(self, **kwargs: Any) -> None:
        self.end_time = self.now()
        about = self.nb.metadata.papermill
        about["end_time"] = self.end_time.isoformat()
        about["duration"] = (self.end_time - self.start_time).total_seconds()
        self.cleanup_pbar()
        self.save()


class _Stop:
    """The first signal is passed on as SIGTERM: in training a request, elsewhere the end.

    More signals change nothing; a kernel that is still there after the grace period is killed.
    """

    signal: int | None = None
    page: _Page | None = None
    timer: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            return
        self.signal = number
        self.pass_on(signal.SIGTERM)
        self.timer = threading.Timer(GRACE_SECONDS, self.pass_on, [signal.SIGKILL])
        self.timer.daemon = True
        self.timer.start()

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def pass_on(self, number: int) -> None:
        if self.page is not None:
            self.page.send(number)


def _local(path: str | None) -> Path | None:
    """The file that papermill would write, or None: nowhere, or somewhere else than on a disk.

    papermill's `cwd` is where the kernel works; its handler of files remembers where itself began.
    """
    handler = papermill_io.get_handler(path)
    if not isinstance(handler, LocalHandler):
        return None
    began = handler.cwd(None)
    handler.cwd(began)
    return Path(began or "", str(path))


def _environment() -> dict[str, str]:
    """The kernel's: without the addresses, so that the engine alone notifies, and nothing leaks.

    As a child of process 1, ipykernel does not watch its parent, at whose death it would end at once,
    in the middle of a commit or not: `guard` does.
    """
    others = {name: value for name, value in os.environ.items() if name != ADDRESSES}
    return {**others, "JPY_PARENT_PID": "1"}


def _settings(nb: NotebookNode) -> Config:
    """The two settings that the engine needs, as the page's parameters have them.

    Whatever is wrong with them the page itself will say.
    """
    values: dict[str, Any] = {}
    for cell in nb.cells:
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", ())):
            try:
                for node in ast.parse(cell.source).body:
                    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                        values[node.targets[0].id] = ast.literal_eval(node.value)
            except (SyntaxError, ValueError):
                continue
    wanted = {name: value for name, value in values.items() if name in ("output_dir", "max_restarts")}
    try:
        return Config.from_parameters(wanted)
    except ConfigError:
        return Config()


def _recorded_outcome(nb: NotebookNode) -> str:
    """What a whole page has recorded in its results: a signal may have reached the kernel itself."""
    for cell in reversed(nb.cells):
        for output in cell.get("outputs", ()):
            results = output.get("data", {}).get("application/json")
            if isinstance(results, dict) and str(results.get("outcome")).startswith("stopped by "):
                return str(results["outcome"])
    return "finished"
