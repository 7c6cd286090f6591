"""`sweep`: a night of many runs, each in a process of its own, that goes on wherever it was killed."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import msgspec

from treelstm.config import Config, ConfigError, from_root, require_config
from treelstm.files import make_directory, write_whole
from treelstm.history import Outcome
from treelstm.log import logged
from treelstm.night import NIGHT_FILE
from treelstm.notify import ADDRESSES, notify
from treelstm.plain import shown
from treelstm.process import usable_cores
from treelstm.run.directory import list_checkpoints
from treelstm.run.lock import only_writer
from treelstm.run.summary import FAILED
from treelstm.run_table import as_text
from treelstm.runs import list_runs
from treelstm.signals import stop_signals
from treelstm.sweeps import journal
from treelstm.sweeps.estimate import check_night
from treelstm.sweeps.plan import Plan, Spec, given_in, make_plan, search_name, with_values
from treelstm.sweeps.trials import (
    PLAN,
    TRIAL_DIR,
    Trial,
    history_of,
    read_as,
    read_trials,
    summary_of,
    write_trial,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("treelstm")

PAGE, SWEEP_DIR = "notebooks/02_train.ipynb", "models/sweep"
_FRUITLESS_STARTS = 3  # of a trial's process in a row that brought no new commit
_ENDS = (Outcome.FINISHED, Outcome.FINISHED_EARLY, Outcome.PRUNED)
_SECONDS_BETWEEN_LOOKS, _SECONDS_BETWEEN_NOTES = 0.1, 5.0
_STARTED_WITH = ("data_dir", "validation_dir", "start_from", "num_threads")  # which decide the bits too


@dataclass(frozen=True)
class Swept:
    """How a night ended; `print` shows the table of all trials, best first."""

    directory: Path
    trials: list[Trial]  # those that have begun
    metric: str  # by which they are compared; "": they have none in common
    outcome: Outcome  # of the whole night: finished, or what stopped it

    @property
    def exit_status(self) -> int:
        """0 if all trials are finished or pruned, 1 if some are not, else what stopped the night."""
        if self.outcome is not Outcome.FINISHED:
            return self.outcome.exit_status
        return int(any(trial.outcome in (None, FAILED) for trial in self.trials))

    def __str__(self) -> str:
        text = as_text(list_runs(self.directory))
        if any(trial.outcome == FAILED for trial in self.trials):
            text += "\nCorrect what made trials fail, then run the same command with --retry-failed."
        return text


def sweep(
    config: Config,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    search: Mapping[str, Spec] | None = None,
    runs: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int = 1,
    trials: int | None = None,
    prune: str | None = None,
    parallel: int = 1,
    sweep_dir: Path | str = SWEEP_DIR,
    retry_failed: bool = False,
    page: Path | str = PAGE,
) -> Swept:
    """Trains many runs, each in a directory of its own below `sweep_dir`; the same call goes on.

    `config` holds what all have in common. All combinations of `runs` (names with their settings), of
    the `grid`'s values and of `seeds` (config.seed and those after it) are trained; or `trials` in all
    by `search` ({"learning_rate": "1e-4:1e-2:log", "batch_size": [16, 32]}). `prune` ("median",
    "hyperband") ends hopeless ones at an epoch's end. A trial that fails does not end the night, and is
    tried again with `retry_failed`. Signals and `max_hours` have all trials commit and stop.

    Raises:
        ConfigError: something in the plan is wrong; nothing has run.
        PreflightRefused: the data, the largest trial or the disk will not do.
        RunInUse: another process runs this sweep.
        NeedsOptuna: for `search` and `prune`.
        WriteFailed, DamagedSweep: the sweep's own files cannot be written or read.
    """
    require_config(config)
    if config.output_dir != Config.output_dir or config.resume != "auto" or config.changes:
        remedy = "Leave output_dir, resume and changes as they are; set sweep_dir"
        raise ConfigError(f"each trial of a sweep has its own directory. {remedy}.")
    tried = {*(grid or ()), *(search or ()), *(name for run in (runs or {}).values() for name in run)}
    settings = {name: value for name, value in given_in(config).items() if name not in tried}
    settings |= {"max_hours": config.max_hours} if config.max_hours else {}
    plan = make_plan(settings, grid, search, runs, seeds, trials, prune, parallel)
    return run_plan(plan, from_root(sweep_dir), retry_failed, from_root(page))


def run_plan(plan: Plan, directory: Path, retry_failed: bool = False, page: Path | None = None) -> Swept:
    """`sweep` of a plan that has been made."""
    page = page or from_root(PAGE)
    if not page.is_file():
        raise ConfigError(f"{page}: no such page. Sweeps run it from a clone of the repository.")
    if plan.search or plan.prune:
        journal.optuna()
    make_directory(directory)
    try:
        with (
            only_writer(directory, plan.base.accept_weak_disk) as held,
            logged(directory / "sweep.log", held.is_ours),
        ):
            night = Night(plan, directory, page, retry_failed)
            with stop_signals(night.stop):
                night.run()
            swept = Swept(directory, night.mine(), plan.metric, night.outcome)
            log.info("%s", swept, extra={"shown": True})
    except Exception as error:
        notify("failed", directory, f"{type(error).__name__}: {error}")
        raise
    failed = sum(trial.outcome == FAILED for trial in swept.trials)
    notify(f"{swept.outcome}, {failed} failed" if failed else swept.outcome, directory, str(swept))
    return swept


@dataclass
class _Process:
    """The process of a trial that goes on."""

    trial: Trial
    popen: subprocess.Popen[bytes]
    commit: object  # the newest one when it was started
    told_to_stop: bool = False
    noted: float = 0.0  # in the journal, by the monotonic clock


class Night:
    """Starts the trials' processes, watches them, and writes down how each trial ended."""

    stopped_by: Outcome | None = None

    def __init__(self, plan: Plan, directory: Path, page: Path, retry_failed: bool) -> None:
        self.plan, self.directory, self.page = plan, directory, page
        self.began = time.monotonic()
        self.trials, self.running = read_trials(directory), list[_Process]()
        self.left, self.fruitless = set[str](), dict[str, int]()
        self.journal = bool(plan.metric) and journal.is_there()
        self._accept_plan()
        for trial in self.mine():
            if retry_failed and trial.outcome == FAILED:
                self.end(trial, None)

    @property
    def outcome(self) -> Outcome:
        return self.stopped_by or Outcome.FINISHED

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or Outcome.stopped_by(number)

    def mine(self) -> list[Trial]:
        """The trials that have begun and are in the plan."""
        search = self.plan.search
        return [t for t in self.trials.values() if search or t.name in self.plan.fixed]

    def run(self) -> None:
        """Until all trials have ended, or a signal or `max_hours` stops the night."""
        to_do = [self._rest_of(trial) for trial in self.mine() if not trial.ended]
        to_do += [config for name, config in self.plan.fixed.items() if name not in self.trials]
        new = max(0, self.plan.trials - len(self.trials)) if self.plan.search else 0
        if to_do or new:
            check_night(self.plan, self.directory, to_do, new)
        self.note()
        try:
            while self.go_on():
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            for process in self.running:  # an error, such as a full disk, ends the night
                process.popen.terminate()
            for process in self.running:
                process.popen.wait()

    def go_on(self) -> bool:
        """One look at all processes; whether there is anything left to wait for."""
        hours = self.hours_left()
        if hours is not None and hours <= 0:
            self.stopped_by = self.stopped_by or Outcome.STOPPED_BY_MAX_HOURS
        for process in [*self.running]:
            if (status := process.popen.poll()) is not None:
                self.running.remove(process)
                self.settle(process, status)
                self.note(process.trial)
            elif self.stopped_by and not process.told_to_stop:
                process.popen.terminate()
                process.told_to_stop = True
            elif time.monotonic() - process.noted > _SECONDS_BETWEEN_NOTES:
                process.noted = time.monotonic()
                self.note(process.trial)
        while not self.stopped_by and len(self.running) < self.plan.parallel:
            if (trial := self.next_trial()) is None:
                break
            if not self.start(trial):
                return True  # processes of an earlier start are still committing
        return bool(self.running)

    def next_trial(self) -> Trial | None:
        """One that has begun and goes on, else a new one, else None."""
        busy = self.left | {process.trial.name for process in self.running}
        open_ = (t for t in self.mine() if not t.ended and t.name not in busy)
        if trial := next(open_, None):
            return trial
        for name, config in self.plan.fixed.items():
            if name not in self.trials:
                return self.begin(name, config)
        if self.plan.search and len(self.trials) < self.plan.trials:
            plan, known = self.plan, [*self.trials.values()]
            values = journal.proposal(self.directory, known, plan.search, plan.metric, plan.base.seed)
            return self.begin(search_name(self.number(), values), with_values(plan.base, values))
        return None

    def number(self) -> int:
        """Of the next trial."""
        return max((trial.number for trial in self.trials.values()), default=-1) + 1

    def begin(self, name: str, config: Config) -> Trial:
        """Writes down what the trial is, for all its starts."""
        if config.num_threads is None and self.plan.parallel > 1:
            share = max(1, usable_cores() // self.plan.parallel)
            config = with_values(config, {"num_threads": share})
        peers = [t.name for t in self.mine() if t.ended and t.outcome != FAILED]
        trial = Trial(self.number(), given_in(config), prune=self.plan.prune, name=name)
        trial.peers = peers if self.plan.prune else []
        make_directory(self.directory / name)
        write_trial(self.directory, trial)
        self.trials[name] = trial
        return trial

    def start(self, trial: Trial) -> bool:
        """Starts the trial's process; False if those of an earlier start have not ended yet.

        They hold the lock of `engine.log`, which each process inherits with its standard output.
        """
        directory, hours = self.directory / trial.name, self.hours_left()
        words = [sys.executable, "-m", "treelstm.sweeps.trial_process", str(directory), str(self.page)]
        words += [str(os.getpid()), *([] if hours is None else [str(hours)])]
        environment = {**os.environ, TRIAL_DIR: str(directory)}
        for name in (ADDRESSES, NIGHT_FILE):  # one notification for the night; a night of its own
            environment.pop(name, None)
        with (directory / "engine.log").open("ab") as console:
            try:
                if fcntl:
                    fcntl.flock(console, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                pass  # a disk without locks, which accept_weak_disk accepts
            popen = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which forwards it
            )
        self.running.append(_Process(trial, popen, self._commit(trial)))
        self.note(trial)
        log.info("%s: started", self._of_all(trial))
        return True

    def settle(self, process: _Process, status: int) -> None:
        """Writes down how a trial ended, if it did; if not, it is started again."""
        trial, directory = process.trial, self.directory / process.trial.name
        summary, of_all = summary_of(directory), self._of_all(trial)
        if status == 0 and summary and summary["outcome"] in _ENDS:
            self.end(trial, summary["outcome"], summary["why"])
        elif self.stopped_by:
            log.info("%s: stopped after a commit", of_all)
        elif status == Outcome.STOPPED_BY_MAX_HOURS.exit_status:
            self.stopped_by = Outcome.STOPPED_BY_MAX_HOURS
        elif status < 0:
            fruitless = self.fruitless.get(trial.name, 0) + 1
            self.fruitless[trial.name] = 0 if self._commit(trial) != process.commit else fruitless
            why = f"its process was killed by {signal.Signals(-status).name}"
            if self.fruitless[trial.name] == _FRUITLESS_STARTS:
                self.end(trial, FAILED, f"{why} {fruitless} times in a row without a new commit")
            else:
                log.warning("%s: %s, it is started again", of_all, why)
        elif status > 128:
            self.left.add(trial.name)
            log.warning("%s: stopped by a signal, left for the next night", of_all)
        else:
            self.end(trial, FAILED, _last_line(directory / "engine.log"))

    def end(self, trial: Trial, outcome: str | None, why: str = "") -> None:
        trial.outcome, trial.why = outcome, why
        write_trial(self.directory, trial)
        if outcome:
            log.info("%s: %s%s", self._of_all(trial), outcome, why and f": {why}")

    def note(self, trial: Trial | None = None) -> None:
        """Brings the journal up to date, where there is Optuna."""
        if self.journal:
            trials = [trial] if trial else self.mine()
            journal.record(self.directory, trials, self.plan.search, self.plan.metric)

    def hours_left(self) -> float | None:
        hours = self.plan.max_hours
        return None if hours is None else hours - (time.monotonic() - self.began) / 3600

    def _rest_of(self, trial: Trial) -> Config:
        done = len(history_of(self.directory / trial.name))
        return with_values(trial.config, {"epochs": max(1, trial.config.epochs - done)})

    def _commit(self, trial: Trial) -> object:
        return [checkpoint.position for checkpoint in list_checkpoints(self.directory / trial.name)[-1:]]

    def _of_all(self, trial: Trial) -> str:
        ended = sum(each.ended for each in self.mine())
        return f"{trial.name} ({ended} of {self.plan.trials} have ended)"

    def _accept_plan(self) -> None:
        """Refuses a plan under which trials that have begun would be others; writes it down."""
        plan = self.plan
        search = {name: dataclasses.asdict(space) for name, space in plan.search.items()}
        about = {"search": search, "trials": plan.trials, "names": [*plan.fixed]}
        content = msgspec.json.format(msgspec.json.encode(about))
        before, now = (read_as(self.directory / PLAN, dict[str, Any]), msgspec.json.decode(content))
        if self.trials and before and before.get("search") != now["search"]:
            _refuse(self.directory, "search", before.get("search"), now["search"])
        for trial in self.mine():
            was, directory = trial.config, self.directory / trial.name
            tried = {name: getattr(was, name) for name in plan.search}
            config = plan.fixed.get(trial.name) or with_values(plan.base, tried)
            if config.num_threads is None:
                config = with_values(config, {"num_threads": was.num_threads})
            for name in [*(was.fixed_on_resume() | config.fixed_on_resume()), *_STARTED_WITH]:
                if getattr(was, name) != getattr(config, name):
                    _refuse(directory, name, getattr(was, name), getattr(config, name))
            if config.epochs < was.epochs:
                _refuse(directory, "epochs", was.epochs, config.epochs)
            if given_in(config) != trial.settings:
                trial.settings = given_in(config)
                longer = (config.epochs, config.patience) != (was.epochs, was.patience)
                if longer and trial.outcome != FAILED:
                    trial.outcome, trial.why = None, ""
                write_trial(self.directory, trial)
        write_whole(self.directory / PLAN, content)


def _refuse(directory: Path, name: str, before: object, now: object) -> NoReturn:
    remedy = "Put it back, or choose another sweep_dir"
    raise ConfigError(f"{directory} was begun with {name}={before!r}, now it is {now!r}. {remedy}.")


def _last_line(path: Path) -> str:
    text = path.read_bytes()[-20_000:].decode(errors="replace").rstrip()
    return shown(text.rpartition("\n")[2][:2000])
