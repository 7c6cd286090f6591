"""Training in several processes of this machine: torch's elastic agent starts them, as under torchrun.

The launcher computes nothing. Each worker is a `python -m treelstm train`; when one is killed, the agent
starts all of them again, and the run goes on from its newest commit. The launch directory holds the run's
settings and what they know of each other (see night.py): a stop that is asked for, how the run ended.
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
from contextlib import contextmanager
from pathlib import Path

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
    told,
    told_in_launch,
)
from treelstm.notify import ADDRESSES
from treelstm.process import only_training
from treelstm.run.directory import HISTORY
from treelstm.run.distributed import GroupLost
from treelstm.run.lock import refuse_if_held
from treelstm.signals import stop_signals

_SETTINGS = "settings.json"
_PATIENCE_SECONDS = 600  # of the agent, where it fails, with workers that commit


class WorkersLost(UserError, RuntimeError):
    """The processes of a run ended without a word, and were not started again."""


def train_in_processes(
    config: Config, show: Callable[[list[EpochRecord]], None] | None = None
) -> tuple[History, bool]:
    """Trains in `config.processes` new processes; also returns whether there was anything to do.

    Signals that ask to stop, in this thread if it is the main one, are passed on, and handled as before
    afterwards. `show` is called with the history when it has grown.

    Raises:
        WorkersLost: a worker was killed more than `max_restarts` times, or none could be started.
        Whatever a worker raised.
    """
    config = config.for_this_kernel()
    refuse_if_held(config.output_path)
    with only_training(config.output_path), night_directory() as directory:
        (directory / _SETTINGS).write_text(json.dumps(config.to_dict()))
        night = Path(os.environ.get(NIGHT_FILE, ""))
        night = night if night.is_file() else directory / TOLD
        tell_night(night, {"event": LAUNCH, "began": time.monotonic(), "pid": os.getpid()})
        environment = {LAUNCH_DIR: str(directory), NIGHT_FILE: str(night), ADDRESSES: None}
        number, failure = _supervised(config, directory, environment, show)
        lines = told(night)
    lines = lines[max(i for i, line in enumerate(lines) if line["event"] == LAUNCH) :]
    if not has_ended(lines):
        if number:  # before training: what a signal does then, it does now
            signal.raise_signal(number)
        raise WorkersLost(failure)
    return _end(lines, config.output_path)


def _supervised(
    config: Config,
    directory: Path,
    environment: dict[str, str | None],
    show: Callable[[list[EpochRecord]], None] | None,
) -> tuple[int, str]:
    """Runs the agent in a thread, where it leaves signal handlers alone, until all workers have ended;
    returns the first signal that asked to stop, or 0, and why the agent gave up.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    signals, failures = list[int](), list[str]()
    # Torch 2.13 hangs in a restart unless TORCH_DISABLE_SHARE_RDZV_TCP_STORE is set.
    environment |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "TORCHELASTIC_SIGNALS_TO_HANDLE": ""}
    environment |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}
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
            failures.append(_in_words(error, config.max_restarts))

    agent, history = threading.Thread(target=launch), config.output_path / HISTORY
    with (
        _set(environment),
        _silent() as said,
        stop_signals(lambda number, _: signals.append(number)),
    ):
        seen = _written(history)
        agent.start()
        try:
            while agent.is_alive():
                agent.join(0.1)
                if signals:
                    ask_to_stop(directory, signals[0])
                if show and (now := _written(history)) != seen and now:
                    seen = now
                    show(json.loads(history.read_bytes()))
        finally:
            ask_to_stop(directory, signal.SIGTERM)
            agent.join()
    return next(iter(signals), 0), "\n".join([*failures[:1], *said])


def _end(lines: list[Line], output_dir: Path) -> tuple[History, bool]:
    """How a run ended, from what its workers have told and its files."""
    for line in lines:
        if line["event"] == ERROR:
            error: Exception = pickle.loads(base64.b64decode(line["pickled"]))
            raise error
    (outcome,) = [Outcome(line["event"]) for line in lines if has_ended([line])][-1:]
    begun = next(line for line in lines if line["event"] == BEGUN)
    resumed_at = begun["resumed_at"] and tuple(begun["resumed_at"])
    worked = any(line["event"] == COMMITTED for line in lines)
    return History(_epochs(output_dir), outcome, output_dir, resumed_at), worked


def _written(path: Path) -> int:
    """When a file was written; 0: not there."""
    return path.stat().st_mtime_ns if path.exists() else 0


def _epochs(output_dir: Path) -> list[EpochRecord]:
    path = output_dir / HISTORY
    return json.loads(path.read_bytes()) if path.exists() else []  # none yet


def _in_words(error: Exception) -> str:
    """Why the agent gave up."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not isinstance(error, ChildFailedError):
        return f"the processes could not be started: {type(error).__name__}: {error}"
    rank, failure = error.get_first_failure()
    by = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else "ended without a word"
    hint = " (out of memory? see the system's log)" if failure.exitcode == -signal.SIGKILL else ""
    return f"process {rank} {by}{hint}"


@contextmanager
def _set(environment: dict[str, str | None]) -> Iterator[None]:
    """Sets and removes variables, which the workers inherit, and puts back what was there before."""
    before = {name: os.environ.get(name) for name in environment}

    def put(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(environment)
    try:
        yield
    finally:
        put(before)


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def _silent() -> Iterator[list[str]]:
    """Keeps the lines of torch's agent, which are of no use unless it fails, off the console."""
    torchs, kept = logging.getLogger("torch.distributed"), _Lines()
    before, torchs.handlers = torchs.handlers, [kept]
    try:
        yield kept.lines
    finally:
        torchs.handlers = before


def work(train: Callable[[Config], History]) -> int:
    """In a worker: trains; tells the launcher what it raises. 1 asks the agent to start all again."""
    directory = Path(os.environ[LAUNCH_DIR])
    try:
        train(Config(**json.loads((directory / _SETTINGS).read_bytes())))
    except GroupLost:
        pass
    except Exception as error:
        tell_night(os.environ[NIGHT_FILE], {"event": ERROR, "pickled": _pickled(error)})
    return 0 if has_ended(told_in_launch()) else 1


def _pickled(error: Exception) -> str:
    """An error for the launcher, with its traceback as a note unless it is one that users can cause."""
    if not isinstance(error, UserError | OSError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickled := pickle.dumps(error))
    except Exception:  # its class takes other arguments, or holds what cannot be pickled
        pickled = pickle.dumps(RuntimeError("".join(traceback.format_exception(error))))
    return base64.b64encode(pickled).decode()
