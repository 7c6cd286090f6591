"""Unattended runs: `papermill --engine treelstm IN.ipynb OUT.ipynb`.

The engine supervises and computes nothing; the kernel tells it of its runs (night.py). A signal to
papermill, or `--execution-timeout`, asks the kernel to commit and stop. A kernel that dies or does not
start is started again and executes the same cells; runs that had begun are resumed. The executed page
says what happened. Exit status: 0 finished, 1 failed, 128 + signal stopped, 124 out of time.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from textwrap import indent
from typing import Any

import nbformat
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_markdown_cell, new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.iorw import LocalHandler, papermill_io
from papermill.log import logger as papermill_log
from papermill.utils import nb_kernel_name, nb_language
from zmq import ZMQError

from treelstm.config import Config
from treelstm.files import write_whole
from treelstm.history import Outcome, summary
from treelstm.log import LogFile
from treelstm.night import (
    COMMITTED,
    GRACE_SECONDS,
    KERNEL,
    NIGHT_FILE,
    TOLD,
    Line,
    night_directory,
    tell_night,
    told,
)
from treelstm.notify import ADDRESSES, notify
from treelstm.signals import stop_signals

__all__ = ["execute_notebook", "nb_kernel_name", "nb_language"]  # what papermill asks of an engine

log = logging.getLogger("treelstm")

_TAG = "treelstm-overnight"  # of the cell at the top that says what happened
_SHORT_ATTEMPT_SECONDS, _LONGEST_WAIT_SECONDS = 15.0, 60.0
_FRUITLESS_ATTEMPTS = 3  # kernels in a row that brought no new commit
_LONGEST_SOCKET_PATH = 100  # bytes; the system's limit is 104 or 108
_KERNEL_FAILURES = (RuntimeError, OSError, ZMQError)  # DeadKernelError, a full disk, no files


def execute_notebook(
    nb: NotebookNode,
    kernel_name: str,
    output_path: str | None = None,
    progress_bar: bool = True,
    log_output: bool = False,
    autosave_cell_every: int = 30,
    input_path: str | None = None,
    **options: Any,
) -> NotebookNode:
    """papermill's engine: executes the notebook until it is finished, failed or stopped.

    Returns the executed page if it is finished or failed (papermill looks for errors itself).

    Raises:
        SystemExit: it was stopped, and the code is `Outcome.exit_status`; or the page could not be
            saved, and the message says how the run ended (papermill would destroy the last whole page).
    """
    _remove_explanation(nb)
    record = PageRecord(nb, output_path, log_output, progress_bar, autosave_cell_every)
    stop = StopForwarder()
    with (
        stop_signals(lambda number, _: stop.request(Outcome.stopped_by(number))),
        night_directory() as directory,
    ):
        options.update(kernel_name=kernel_name, log_output=log_output)
        supervisor = Supervisor(record, stop, options, directory)
        outcome = None  # failed, unless `run` returns something else
        try:
            outcome = supervisor.run()
        finally:
            event = str(outcome or "failed")
            record.nb.metadata["treelstm"] = {"outcome": event, "deaths": supervisor.deaths}
            record.notebook_complete()
            if event != Outcome.FINISHED or supervisor.commits():  # else it had finished before
                notify(event, supervisor.where, supervisor.report())
    if outcome and not outcome.finished:
        raise SystemExit(outcome.exit_status)
    if record.save_error:
        raise SystemExit(f"{event}: {supervisor.report()}")
    executed: NotebookNode = record.nb
    return executed


class Supervisor:
    """Executes one notebook, in as many attempts as it takes, each with a new kernel."""

    def __init__(
        self, record: PageRecord, stop: StopForwarder, options: dict[str, Any], directory: Path
    ) -> None:
        self.record, self.stop = record, stop
        self.directory, self.night_file = directory, directory / TOLD
        self.began, self.deaths, self.told = time.monotonic(), list[str](), list[Line]()
        nbclient_names = {"start_timeout": "startup_timeout", "execution_timeout": "timeout"}
        self.options = {nbclient_names.get(name, name): value for name, value in options.items()}

    def run(self) -> Outcome | None:
        """Makes attempts until the notebook ends; how it ended, None if it failed."""
        wait, fruitless = 0.0, 0
        while True:
            began, commits = time.monotonic(), self.commits()
            self.record.notebook_start()
            if self.record.save_error and not self.deaths:
                return None  # fail now rather than after hours of work that cannot be saved
            if not (cause := self.attempt()):
                return self.ended()
            if outcome := self.stop.outcome or self.out_of_time():
                return self.stopped(outcome, cause)
            fruitless = 0 if self.commits() > commits else fruitless + 1
            if fruitless == _FRUITLESS_ATTEMPTS:
                self.give_up(f"{cause}, as the third kernel in a row without a new commit")
                return None
            if len(self.deaths) >= self.max_restarts:
                self.give_up(f"{cause}, after {len(self.deaths)} restarts (max_restarts)")
                return None
            short = time.monotonic() - began < _SHORT_ATTEMPT_SECONDS
            wait = min(max(1.0, 2 * wait), _LONGEST_WAIT_SECONDS) if short else 0.0
            self.prepare_restart(cause, wait)
            if self.stop.outcome:
                return self.stopped(self.stop.outcome, "between two kernels")

    def attempt(self) -> str:
        """Has a new kernel execute the cells; why it did not live to their end, else an empty text."""
        # ipykernel's own watch would end an orphaned kernel at once, even during a commit; with
        # JPY_PARENT_PID=1 it is off, and `watch_parent` replaces it. Without the addresses no notebook
        # can show them.
        environment = {**os.environ, "JPY_PARENT_PID": "1", NIGHT_FILE: str(self.night_file)}
        environment.pop(ADDRESSES, None)
        try:
            tell_night(self.night_file, {"event": KERNEL, "began": self.began})
            file = self.directory / f"{len(self.deaths)}.json"
            session = KernelSession(self.record, self.stop, self.options, file)
            session.execute(env=environment, independent=True)
        except DeadKernelError as error:
            return str(error)
        except _KERNEL_FAILURES as error:
            return f"the kernel did not start ({error})"
        finally:
            self.told = told(self.night_file)
        return ""

    def prepare_restart(self, cause: str, wait: float) -> None:
        """Reports the death and waits. The next kernel executes the same cells."""
        self.deaths.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {cause}")
        self.warn(f"{cause}: restart {len(self.deaths)} of at most {self.max_restarts}")
        event = ("restarted", self.where, self.report())
        threading.Thread(target=notify, args=event, daemon=True).start()  # the restart does not wait
        until = time.monotonic() + wait
        while time.monotonic() < until and not self.stop.outcome:
            time.sleep(0.1)
        self.explain()

    def ended(self) -> Outcome | None:
        """How the page ended, whose kernel did not die. Runs may have stopped though all cells were
        executed: a signal reached the kernel directly, or their time was up.
        """
        if self.record.nb.metadata.papermill["exception"]:
            return None
        complete = all(cell.metadata.papermill["status"] == "completed" for cell in self.record.nb.cells)
        ends = {line["output_dir"]: line["event"] for line in self.told if line["event"] in [*Outcome]}
        stops = [Outcome(end) for end in ends.values() if not Outcome(end).finished]
        if self.stop.outcome and (stops or not complete):
            return self.stopped(self.stop.outcome)
        if not stops:
            return Outcome.FINISHED
        again = "The cells after it were executed. The same command goes on from the last commit."
        self.explain(f"**The run was {stops[-1]}.** {again}")
        return stops[-1]

    def stopped(self, outcome: Outcome, cause: str = "") -> Outcome:
        again = "Cells after the stop were not executed. The same command goes on from the last commit."
        self.explain(f"**{outcome[0].upper()}{outcome[1:]}**. {again}", cause)
        if outcome == Outcome.STOPPED_BY_TIMEOUT:  # the kernel knew of SIGTERM only
            self.warn(f"{outcome}: a cell took longer than {self.options['timeout']} s")
        return outcome

    def give_up(self, why: str) -> None:
        """Puts an error into the cell that was running, so that papermill marks it and fails."""
        self.warn(f"{why}: not started again")
        code = [cell for cell in self.record.nb.cells if cell.cell_type == "code"]
        statuses = [cell.metadata.papermill["status"] for cell in code]
        cell = code[statuses.index("failed") if "failed" in statuses else 0]
        text = f"{why}. The same command goes on from the last commit."
        error = {"ename": "KernelDied", "evalue": text, "traceback": [f"KernelDied: {text}"]}
        cell.outputs.append(new_output("error", **error))
        cell.metadata.papermill.update(exception=True, status="failed")

    def explain(self, text: str = "", cause: str = "") -> None:
        """Says at the top of the executed page what happened, and of which causes its kernels died.

        Causes are shown as they are, as blocks of code: paths and messages may look like markup.
        """
        parts = [text, indent(cause, "    ")]
        if self.deaths:
            parts.append("**The kernel died and was started again.** Below is the last attempt.")
            parts.append(indent("\n".join(self.deaths), "    "))
        metadata = {"tags": [_TAG], "papermill": {"status": "completed"}}
        cell = new_markdown_cell("\n\n".join(filter(None, parts)), metadata=metadata)
        _remove_explanation(self.record.nb)
        self.record.nb.cells.insert(0, cell)

    def warn(self, text: str) -> None:
        """Logs a line, also in the run's own log if there is one."""
        log.warning(text)
        path = Path(self.where, "training.log")
        if path.is_file():
            with closing(LogFile(path)) as file:
                file.handle(log.makeRecord(log.name, logging.WARNING, "", 0, text, (), None))

    def last_told(self, name: str, default: Any = None) -> Any:
        """A setting as the kernel told it last."""
        return next((line[name] for line in reversed(self.told) if name in line), default)

    @property
    def max_restarts(self) -> int:
        return int(self.last_told("max_restarts", Config.max_restarts))

    @property
    def where(self) -> str:
        """The run's directory, or the page if there is no run yet."""
        return str(self.last_told("output_dir", self.record.output_path or "a page without a path"))

    def commits(self) -> int:
        """How many times a run, in a kernel, has made its first commit."""
        return sum(line["event"] == COMMITTED for line in self.told)

    def out_of_time(self) -> Outcome | None:
        hours = self.last_told("max_hours")
        over = hours is not None and time.monotonic() - self.began >= 3600 * hours
        return Outcome.STOPPED_BY_MAX_HOURS if over else None

    def report(self) -> str:
        """The page's error, why it is not on disk, the deaths of its kernels, and the best epoch."""
        outputs = (output for cell in self.record.nb.cells for output in cell.get("outputs", ()))
        errors = [f"{each.ename}: {each.evalue}" for each in outputs if each.output_type == "error"]
        try:
            history = json.loads(Path(self.where, "training_history.json").read_bytes())
        except (OSError, ValueError):
            history = []
        error = self.record.save_error
        unsaved = [f"The executed page could not be saved: {error}"] if error else []
        return "\n".join([*errors[:1], *unsaved, *self.deaths, summary(history)])


class KernelSession(PapermillNotebookClient):
    """One attempt: one kernel that executes the notebook from its beginning."""

    def __init__(
        self, record: PageRecord, stop: StopForwarder, options: dict[str, Any], file: Path
    ) -> None:
        module = '__import__("treelstm.night", fromlist=["watch_parent"])'
        arguments = [f"--IPKernelApp.exec_lines={module}.watch_parent({os.getpid()})"]
        seconds = options.get("timeout")
        limit = {"timeout": None, "timeout_func": lambda cell: seconds}  # of cells only
        others = {"log": papermill_log, "extra_arguments": arguments}
        super().__init__(record, **{**options, **limit, **others})
        self.create_kernel_manager()
        # Two engines could choose the same TCP port before their kernels take it.
        if os.name != "nt" and len(os.fsencode(file)) + len("-ipc-5") < _LONGEST_SOCKET_PATH:
            self.km.transport = "ipc"
        self.km.connection_file = str(file)
        self.stop, stop.session = stop, self

    @property
    def process(self) -> Any:
        """The kernel's, None before its start and after the end."""
        return getattr(self.km.provisioner, "process", None)

    def papermill_execute_cells(self) -> None:
        """As in papermill, but can stop between cells, and marks the cell in which the kernel died."""
        for index, cell in enumerate(self.nb.cells):
            if self.stop.outcome:
                return
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except BaseException as error:
                self.nb_man.cell_exception(cell, index)
                if isinstance(error, CellExecutionError):
                    return
                if isinstance(error, _KERNEL_FAILURES):
                    raise DeadKernelError(self.how_the_kernel_ended()) from error
                raise
            finally:
                self.nb_man.cell_complete(cell, index)

    async def _async_handle_timeout(self, timeout: int, cell: NotebookNode | None = None) -> None:
        """What nbclient does if a cell takes too long; its own would end the kernel at once."""
        self.stop.request(Outcome.STOPPED_BY_TIMEOUT)

    def how_the_kernel_ended(self) -> str:
        process = self.process
        status = process.poll() if process else None
        if status is None:
            return "the kernel died"
        if status >= 0:
            return f"the kernel exited with status {status}"
        name = signal.Signals(-status).name
        hint = " (out of memory? see the system's log)" if name == "SIGKILL" else ""
        return f"the kernel was killed by {name}{hint}"


class PageRecord(NotebookExecutionManager):
    """papermill's record of an execution, except that cells never reached stay "pending".

    The page on disk is always whole, and a failed save does not end a run that has begun.
    """

    save_error: OSError | None = None  # of the last save

    def __init__(self, nb: NotebookNode, output_path: str | None, *options: Any) -> None:
        super().__init__(nb, output_path, *options)
        self.path = _local_path(output_path)

    def save(self, **kwargs: Any) -> None:
        try:
            if path := self.path:
                path.parent.mkdir(parents=True, exist_ok=True)
                text = nbformat.writes(self.nb)
                write_whole(path, text.encode(errors="replace"))  # paths may hold lone surrogates
            else:
                super().save()
            self.save_error = None
        except OSError as error:
            if not self.save_error:
                log.warning("the executed page cannot be saved now: %s", error)
            self.save_error = error
        self.last_save_time = self.now()

    def notebook_complete(self, **kwargs: Any) -> None:
        self.end_time = self.now()
        about = self.nb.metadata.papermill
        about["end_time"] = self.end_time.isoformat()
        about["duration"] = (self.end_time - self.start_time).total_seconds()
        self.cleanup_pbar()
        self.save()
        # Its outputs are of this night, so Jupyter may trust them when the same user opens the page.
        try:
            NotebookNotary(log=papermill_log).sign(self.nb)
        except (OSError, sqlite3.Error) as error:
            log.warning("the executed page cannot be marked as trusted: %s", error)


class StopForwarder:
    """Forwards the first request to stop to the kernel as SIGTERM, and ignores all later ones.

    During training, SIGTERM asks for a commit and a stop; at other times it ends the kernel. A kernel
    that still runs after the grace period is killed.
    """

    outcome: Outcome | None = None
    session: KernelSession | None = None  # the last one

    def request(self, outcome: Outcome) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.forward(signal.SIGTERM)
            timer = threading.Timer(GRACE_SECONDS, self.forward, [signal.SIGKILL])
            timer.daemon = True
            timer.start()

    def forward(self, number: int) -> None:
        process = self.session and self.session.process  # asked once: it may end at any time
        if process:
            process.send_signal(number)


def _local_path(path: str | None) -> Path | None:
    """The file that papermill would write; None if there is none or it is not on a local disk.

    With papermill's `cwd` option, the path is relative to where papermill was started.
    """
    handler = papermill_io.get_handler(path)
    if not isinstance(handler, LocalHandler):
        return None
    return Path(handler._cwd or "", str(path)).absolute()


def _remove_explanation(nb: NotebookNode) -> None:
    nb.cells = [cell for cell in nb.cells if _TAG not in cell.metadata.get("tags", ())]
