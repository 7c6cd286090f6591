"""Unattended runs: `papermill --engine treelstm IN.ipynb OUT.ipynb`.

The engine supervises and computes nothing; it learns of a run from the notebook's outputs and from the
names of the commits. A signal to papermill asks the kernel to commit and stop. A kernel that dies is
started again, and the notebook is executed again with resume="auto". The executed page says what
happened. Exit status: 0 finished, 1 failed, 128 + signal stopped.
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
from contextlib import closing, suppress
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
from treelstm.history import Outcome, summary
from treelstm.log import LogFile
from treelstm.notify import ADDRESSES, notify
from treelstm.parent_watch import GRACE_SECONDS
from treelstm.signals import stop_signals

log = logging.getLogger("treelstm")

_TAG = "treelstm-overnight"  # of the cell at the top that says what happened
_SHORT_ATTEMPT_SECONDS, _LONGEST_WAIT_SECONDS = 15.0, 60.0


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
        SystemExit: it was stopped, and the code is 128 + the signal's number; or the page could not be
            saved, and the message says how the run ended (papermill would destroy the last whole page).
    """
    nb.cells = [cell for cell in nb.cells if _TAG not in cell.metadata.get("tags", ())]
    record = PageRecord(nb, output_path, log_output, progress_bar, autosave_cell_every)
    stop = StopForwarder()
    with stop_signals(stop), closing(stop):
        options.update(kernel_name=kernel_name, log_output=log_output)
        supervisor = Supervisor(record, stop, options)
        outcome = None  # failed, unless `run` returns something else
        try:
            outcome = supervisor.run()
        finally:
            event = str(outcome or "failed")
            record.nb.metadata["treelstm"] = {"outcome": event, "deaths": supervisor.deaths}
            record.notebook_complete()
            supervisor.announce(event)
    if outcome and not outcome.finished:
        raise SystemExit(outcome.exit_status)
    if record.save_error:
        raise SystemExit(f"{event}: {supervisor.report()}")
    executed: NotebookNode = record.nb
    return executed


class Supervisor:
    """Executes one notebook, in as many attempts as it takes, each with a new kernel."""

    def __init__(self, record: PageRecord, stop: StopForwarder, options: dict[str, Any]) -> None:
        self.record, self.stop = record, stop
        self.config = _settings(record.nb)
        self.deaths: list[str] = []
        nbclient_names = {"start_timeout": "startup_timeout", "execution_timeout": "timeout"}
        self.options = {nbclient_names.get(name, name): value for name, value in options.items()}
        self.commits_at_start = self.commits()

    def run(self) -> Outcome | None:
        """Makes attempts until the notebook ends; how it ended, None if it failed."""
        wait = 0.0
        while True:
            began, before = time.monotonic(), self.commits()
            self.record.notebook_start()
            if self.record.save_error and not self.deaths:
                return None  # fail now rather than after hours of work that cannot be saved
            self.stop.session = None
            try:
                session = self.stop.session = KernelSession(self.record, self.stop, self.options)
                session.execute(env=_kernel_environment(), independent=True)
            except (RuntimeError, OSError) as error:  # nbclient's DeadKernelError; a full disk
                death = self.stop.session.death if self.stop.session else ""
                cause = death or f"the kernel did not start ({error})"
                if self.stop.signal:
                    return self.stopped(self.stop.signal, cause)
                if self.commits() <= before:
                    self.give_up(f"{cause}, and nothing new had been committed")
                    return None
                if len(self.deaths) == self.config.max_restarts:
                    self.give_up(f"{cause}, after {len(self.deaths)} restarts (max_restarts)")
                    return None
                short = time.monotonic() - began < _SHORT_ATTEMPT_SECONDS
                wait = min(max(1.0, 2 * wait), _LONGEST_WAIT_SECONDS) if short else 0.0
                self.prepare_restart(cause, wait)
                if self.stop.signal:
                    return self.stopped(self.stop.signal, "between two kernels")
            else:
                if session.failed:
                    return None
                if self.stop.signal and not session.complete:
                    return self.stopped(self.stop.signal)
                return _recorded_outcome(self.record.nb)

    def prepare_restart(self, cause: str, wait: float) -> None:
        """Reports the death, waits, and sets resume="auto", whatever the first attempt had."""
        self.deaths.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {cause}")
        self.warn(f"{cause}: restart {len(self.deaths)} of at most {self.config.max_restarts}")
        event = ("restarted", self.config.output_path, self.report())
        threading.Thread(target=notify, args=event, daemon=True).start()  # the restart does not wait
        until = time.monotonic() + wait
        while time.monotonic() < until and not self.stop.signal:
            time.sleep(0.1)
        nb, name = self.record.nb, self.options["kernel_name"]
        parameters = {**nb.metadata.papermill.get("parameters", {}), "resume": "auto"}
        self.record.nb = parameterize_notebook(nb, parameters, kernel_name=name)
        lines = "\n".join(f"- {death}" for death in self.deaths)
        self.explain(f"**The kernel died and was started again.** Below is the last attempt.\n\n{lines}")

    def stopped(self, number: int, cause: str = "") -> Outcome:
        self.explain(
            f"**Stopped by {signal.Signals(number).name}**{f' ({cause})' if cause else ''}. Cells after "
            "the stop were not executed. The same command goes on from the last commit."
        )
        return Outcome.stopped_by(number)

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

    def explain(self, text: str) -> None:
        """Puts text into the cell at the top of the executed page, above what is there already."""
        cells = self.record.nb.cells
        if _TAG in cells[0].metadata.get("tags", ()):
            text = f"{text}\n\n{cells.pop(0).source}"
        metadata = {"tags": [_TAG], "papermill": {"status": "completed"}}
        cells.insert(0, new_markdown_cell(text, metadata=metadata))

    def warn(self, text: str) -> None:
        """Logs a line, also in the run's own log if there is one."""
        path = self.config.output_path / "training.log"
        file = LogFile(path) if path.is_file() else logging.NullHandler()
        log.addHandler(file)
        try:
            log.warning(text)
        finally:
            log.removeHandler(file)
            file.close()

    def commits(self) -> set[tuple[str, int]]:
        """Name and time of each checkpoint; a file written again counts as a new commit."""
        found = set()
        for path in self.config.output_path.glob("checkpoint_epoch_*.pt"):
            with suppress(FileNotFoundError):  # the kernel has just removed it
                found.add((path.name, path.stat().st_mtime_ns))
        return found

    def announce(self, event: str) -> None:
        """Sends a notification, unless the run was already finished and nothing was done."""
        if event != Outcome.FINISHED or not self.commits() <= self.commits_at_start:
            notify(event, self.config.output_path, self.report())

    def report(self) -> str:
        """The page's error, why it is not on disk, the deaths of its kernels, and the best epoch."""
        outputs = _outputs(self.record.nb)
        errors = [f"{each.ename}: {each.evalue}" for each in outputs if each.output_type == "error"]
        try:
            history = json.loads((self.config.output_path / "training_history.json").read_bytes())
        except (OSError, ValueError):
            history = []
        error = self.record.save_error
        unsaved = [f"The executed page could not be saved: {error}"] if error else []
        return "\n".join([*errors[:1], *unsaved, *self.deaths, summary(history)])


class KernelSession(PapermillNotebookClient):
    """One attempt: one kernel that executes the notebook from its beginning."""

    def __init__(self, record: PageRecord, stop: StopForwarder, options: dict[str, Any]) -> None:
        module = '__import__("treelstm.parent_watch", fromlist=["watch_parent"])'
        watch = f"{module}.watch_parent({os.getpid()})"
        arguments = [f"--IPKernelApp.exec_lines={watch}"]
        super().__init__(record, **options, log=papermill_log, extra_arguments=arguments)
        # Every attempt at this page uses the same file, so that a killed one leaves at most one behind.
        name = hashlib.sha256(str(record.output_path).encode()).hexdigest()[:16]
        directory = Path(jupyter_runtime_dir())
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.km = self.create_kernel_manager()
        self.km.connection_file = str(directory / f"kernel-treelstm-{name}.json")
        self.stop, self.death = stop, ""
        self.failed = self.complete = False

    def papermill_execute_cells(self) -> None:
        """As in papermill, but can stop between cells, and marks the cell in which the kernel died."""
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
        self.complete = True

    def how_the_kernel_ended(self) -> str:
        process = getattr(self.km.provisioner, "process", None)
        status = process.poll() if process else None
        if status is None:
            return "the kernel died"
        if status >= 0:
            return f"the kernel exited with status {status}"
        name = signal.Signals(-status).name
        hint = " (out of memory? see the system's log)" if name == "SIGKILL" else ""
        return f"the kernel was killed by {name}{hint}"

    def send(self, number: int) -> None:
        """Sends the kernel a signal if it is running."""
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        if process is not None and process.poll() is None:
            process.send_signal(number)


class PageRecord(NotebookExecutionManager):
    """papermill's record of an execution, except that cells never reached stay "pending".

    The page on disk is always whole, and a failed save does not end a run that has begun.
    """

    save_error: OSError | None = None  # of the last save

    def save(self, **kwargs: Any) -> None:
        try:
            if path := _local_path(self.output_path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, nbformat.writes(self.nb).encode())
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


class StopForwarder:
    """Forwards the first signal to the kernel as SIGTERM, and ignores all later ones.

    During training, SIGTERM asks for a commit and a stop; at other times it ends the kernel. A kernel
    that still runs after the grace period is killed.
    """

    signal: int | None = None
    session: KernelSession | None = None
    timer: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            return
        self.signal = number
        self.forward(signal.SIGTERM)
        self.timer = threading.Timer(GRACE_SECONDS, self.forward, [signal.SIGKILL])
        self.timer.daemon = True
        self.timer.start()

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def forward(self, number: int) -> None:
        if self.session is not None:
            self.session.send(number)


def _local_path(path: str | None) -> Path | None:
    """The file that papermill would write; None if there is none or it is not on a local disk.

    With papermill's `cwd` option, the path is relative to where papermill was started.
    """
    handler = papermill_io.get_handler(path)
    if not isinstance(handler, LocalHandler):
        return None
    start = handler.cwd(None)  # returns the old value, so it has to be put back
    handler.cwd(start)
    return Path(start or "", str(path))


def _kernel_environment() -> dict[str, str]:
    """This process's, without the addresses: only the engine notifies, and no notebook can show them.

    JPY_PARENT_PID=1 turns off ipykernel's own watch, which would end an orphaned kernel at once, even
    during a commit. `watch_parent` replaces it.
    """
    others = {name: value for name, value in os.environ.items() if name != ADDRESSES}
    return {**others, "JPY_PARENT_PID": "1"}


def _settings(nb: NotebookNode) -> Config:
    """The two settings that the engine needs, from the notebook's parameters.

    Defaults if they are not valid: the notebook itself reports that.
    """
    values: dict[str, Any] = {}
    for cell in nb.cells:
        if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", ())):
            with suppress(SyntaxError, ValueError):
                for node in ast.parse(cell.source).body:
                    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                        values[node.targets[0].id] = ast.literal_eval(node.value)
    needed = {name: value for name, value in values.items() if name in ("output_dir", "max_restarts")}
    try:
        return Config.from_parameters(needed)
    except ConfigError:
        return Config()


def _outputs(nb: NotebookNode) -> list[NotebookNode]:
    return [output for cell in nb.cells for output in cell.get("outputs", ())]


def _recorded_outcome(nb: NotebookNode) -> Outcome:
    """How the run of a complete page ended: a signal may have reached the kernel directly."""
    stopped = [outcome for outcome in Outcome if not outcome.finished]
    for output in reversed(_outputs(nb)):
        results = output.get("data", {}).get("application/json")
        if isinstance(results, dict) and results.get("outcome") in stopped:
            return Outcome(results["outcome"])
    return Outcome.FINISHED
