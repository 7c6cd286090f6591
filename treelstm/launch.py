"""Training in several processes of this machine, which torchrun's elastic agent starts.

The launcher computes nothing. Each worker is a `python -m treelstm train`; when one is killed, the agent
starts all of them again, and the run goes on from its newest commit. A launch directory holds the run's
settings, the stop that is asked for, and what the workers tell (see night.py).
"""

import base64
import json
import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import NoReturn

from treelstm.config import Config
from treelstm.errors import UserError
from treelstm.history import EpochRecord, History, Outcome
from treelstm.night import (
    BEGUN,
    COMMITTED,
    ERROR,
    LAUNCH,
    LAUNCH_DIR,
    NIGHT_FILE,
    TOLD,
    Line,
    ask_to_stop,
    has_ended,
    night_directory,
    tell_night,
    told_in_launch,
)
from treelstm.notify import ADDRESSES
from treelstm.process import only_training
from treelstm.run.directory import HISTORY
from treelstm.run.distributed import GroupLost, joined, require_startable
from treelstm.run.lock import refuse_if_held
from treelstm.signals import stop_signals

_SETTINGS = "settings.json"
_PATIENCE_SECONDS = 600  # with workers that commit, where the agent itself has failed

Show = Callable[[Config, list[EpochRecord]], None]


class WorkersLost(UserError, RuntimeError):
    """The processes of a run were killed too often, or could not be started."""


def train_in_processes(config: Config, show: Show | None = None) -> tuple[History, bool]:
    """Trains in `config.processes` new processes; also returns whether there was anything to do.

    Calls `show` when the history has grown. A signal that asks to stop is passed on to the workers.

    Raises:
        WorkersLost: names what ended the last of them.
        Whatever else a worker raises.
    """
    require_startable(config)
    config = config.for_this_kernel()
    refuse_if_held(config.output_path)
    with only_training(config.output_path), night_directory() as directory:
        (directory / _SETTINGS).write_text(json.dumps(config.to_dict()))
        night = Path(os.environ.get(NIGHT_FILE, directory / TOLD))
        tell_night(night, {"event": LAUNCH, "began": time.monotonic(), "pid": os.getpid()})
        environment = {LAUNCH_DIR: str(directory), NIGHT_FILE: str(night), ADDRESSES: None}
        # Without the first of them, torch 2.13 hangs when it starts processes again.
        environment |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        environment |= {"TORCHELASTIC_SIGNALS_TO_HANDLE": None}  # torch sets it
        with _changed(environment):
            signals, failure = _supervised(config, directory, show)
            lines = told_in_launch()
    if not has_ended(lines):
        for number in signals[:1]:  # before training: what it does then, it does now
            signal.raise_signal(number)
        raise WorkersLost(failure)
    return _end(lines, config.output_path)


def _supervised(config: Config, directory: Path, show: Show | None) -> tuple[list[int], str]:
    """Has the agent work until all workers have ended; signals that asked to stop, why it gave up."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    signals, failures, history = list[int](), list[str](), config.output_path / HISTORY
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.processes,
        run_id=directory.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=config.max_restarts,
        shutdown_timeout=_PATIENCE_SECONDS,
        logs_specs=DefaultLogsSpecs(log_dir=str(directory)),
    )

    def launch() -> None:
        try:
            elastic_launch(settings, sys.executable)("-m", "treelstm", "train")
        except Exception as error:
            failures.append(_in_words(error, config.max_restarts, said))

    # In a thread, so that the agent leaves the handlers of signals alone.
    agent, seen = threading.Thread(target=launch, daemon=True), _written(history)
    with _silent() as said, stop_signals(lambda number, _: signals.append(number)):
        agent.start()
        try:
            while agent.is_alive():
                agent.join(0.1)
                if signals:
                    ask_to_stop(directory, signals[0])
                if show and seen != (now := _written(history)):
                    seen = now
                    if epochs := _epochs(config.output_path):
                        show(config, epochs)
        finally:
            ask_to_stop(directory, signal.SIGTERM)
            agent.join()
    return signals, "".join(failures) or "the processes of the run ended without a word"


def _end(lines: list[Line], output_dir: Path) -> tuple[History, bool]:
    """How the run has ended, from what was told and its files."""
    for line in lines:
        if line["event"] == ERROR:
            error: Exception = pickle.loads(base64.b64decode(line["pickled"]))
            raise error
    outcome = [Outcome(line["event"]) for line in lines if has_ended([line])][-1]
    resumed_at = next(line["resumed_at"] for line in lines if line["event"] == BEGUN)
    history = History(_epochs(output_dir), outcome, output_dir, resumed_at and tuple(resumed_at))
    return history, any(line["event"] == COMMITTED for line in lines)


def _epochs(output_dir: Path) -> list[EpochRecord]:
    epochs: list[EpochRecord] = []
    with suppress(FileNotFoundError):  # before the first epoch
        epochs = json.loads((output_dir / HISTORY).read_bytes())
    return epochs


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _in_words(error: Exception, most: int, said: BufferingHandler) -> str:
    """Why the agent gave up; what it said matters only if it is not for its processes."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not isinstance(error, ChildFailedError):
        lines = [f"the processes could not be started: {type(error).__name__}: {error}"]
        return "\n".join([*lines, *(record.getMessage() for record in said.buffer)])
    rank, failure = error.get_first_failure()
    hint = " (out of memory? see the system's log)" if failure.exitcode == -signal.SIGKILL else ""
    signalled = failure.exitcode < 0
    by = f"was killed by {failure.signal_name()}{hint}" if signalled else "ended without a word"
    again = "The same command goes on from the last commit."
    return f"process {rank} {by}, after {most} restarts (max_restarts). {again}"


@contextmanager
def _changed(environment: dict[str, str | None]) -> Iterator[None]:
    """Sets or removes variables, which the workers inherit, and puts back what was there."""

    def put(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    before = {name: os.environ.get(name) for name in environment}
    put(environment)
    try:
        yield
    finally:
        put(before)


@contextmanager
def _silent() -> Iterator[BufferingHandler]:
    """Keeps what torch's agent logs off the console."""
    torchs, kept = logging.getLogger("torch.distributed"), BufferingHandler(1000)
    before, torchs.handlers = torchs.handlers, [kept]
    try:
        yield kept
    finally:
        torchs.handlers = before


def work(train: Callable[[Config], History]) -> NoReturn:
    """In a worker: trains, tells the launcher what that raises, and exits; 1 has all started again."""
    settings = json.loads(Path(os.environ[LAUNCH_DIR], _SETTINGS).read_bytes())
    try:
        with joined():
            try:
                train(Config(**settings))
            except Exception as error:
                _tell(error)  # before the others see that this process is leaving
                raise
    except Exception as error:
        _tell(error)
    os._exit(0 if has_ended(told_in_launch()) else 1)  # the end of torch takes a second


def _tell(error: Exception) -> None:
    """Tells the launcher of an error; with its traceback, unless it is one that users can cause."""
    if isinstance(error, GroupLost) or has_ended(told_in_launch()):
        return  # the process that is gone has told why, or was killed
    whole = "".join(traceback.format_exception(error))
    if not isinstance(error, UserError | OSError):
        error.add_note(f"In the process that raised it:\n{whole}")
    try:
        pickle.loads(pickled := pickle.dumps(error))
    except Exception:  # a class whose errors cannot be made again from their arguments
        pickled = pickle.dumps(RuntimeError(whole))
    line = {"event": ERROR, "pickled": base64.b64encode(pickled).decode()}
    tell_night(os.environ[NIGHT_FILE], line)
