"""`sweep`: a night of many runs, each in a process of its own, that goes on wherever it was killed."""

import fcntl
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil

from treelstm.checks.groups import preflight
from treelstm.checks.report import OK, PreflightRefused, summary
from treelstm.config import Config, ConfigError, from_root, require_config
from treelstm.files import make_directory, nearest_existing
from treelstm.history import Outcome
from treelstm.log import logged
from treelstm.model.encoder import parameter_shapes
from treelstm.notify import notify
from treelstm.plain import shown
from treelstm.process import usable_cores
from treelstm.progress import duration
from treelstm.run.directory import SUMMARY, SWEEP, list_checkpoints
from treelstm.run.lock import only_writer
from treelstm.run.summary import FAILED, Summary
from treelstm.run_table import as_text
from treelstm.runs import list_runs
from treelstm.signals import stop_signals
from treelstm.sweeps import journal
from treelstm.sweeps.plan import Plan, Spec, given_in, make_plan, search_name
from treelstm.sweeps.trials import Trial, history_of, read_as, read_trials, write_as_json, write_trial

log = logging.getLogger("treelstm")

PAGE, SWEEP_DIR = "notebooks/02_train.ipynb", "models/sweep"
_KILLS_AT_ONE_COMMIT = 5  # of a trial's process, which then has failed
_ENDS = (Outcome.FINISHED, Outcome.FINISHED_EARLY, Outcome.PRUNED)
_SECONDS_BETWEEN_LOOKS = 0.1
_DATA = attrgetter("data_dir", "validation_dir")
_STARTED_WITH = ("data_dir", "validation_dir", "start_from", "num_threads")  # which decide the bits too


@dataclass(frozen=True)
class Swept:
    """How a night ended; `print` shows the table of all trials, best first."""

    directory: Path
    trials: list[Trial]  # those that have begun
    outcome: Outcome  # of the whole night: finished, or what stopped it

    @property
    def failed(self) -> int:
        return sum(trial.outcome == FAILED for trial in self.trials)

    @property
    def exit_status(self) -> int:
        """0 if all trials are finished or pruned, 1 if some are not, else what stopped the night."""
        return self.outcome.exit_status or int(any(t.outcome not in _ENDS for t in self.trials))

    def __str__(self) -> str:
        text = as_text(list_runs(self.directory))
        if self.failed:
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
    given = given_in(config) | {"max_hours": config.max_hours}
    settings = {name: value for name, value in given.items() if name not in tried}
    plan = make_plan(settings, grid, search, runs, seeds, trials, prune, parallel)
    return run_plan(plan, from_root(sweep_dir), retry_failed, from_root(page))


def run_plan(plan: Plan, directory: Path, retry_failed: bool, page: Path) -> Swept:
    """`sweep` of a plan that has been made."""
    if not page.is_file():
        raise ConfigError(f"{page}: no such page. Sweeps run it from a clone of the repository.")
    if plan.prune:
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
            swept = Swept(directory, night.mine(), night.stopped_by or Outcome.FINISHED)
            log.info("%s", swept, extra={"shown": True})
    except Exception as error:
        notify("failed", directory, f"{type(error).__name__}: {error}")
        raise
    failed = f", {swept.failed} failed" if swept.failed else ""
    notify(f"{swept.outcome}{failed}", directory, str(swept))
    return swept


class Night:
    """Starts the trials' processes, watches them, and writes down how each trial ended."""

    def __init__(self, plan: Plan, directory: Path, page: Path, retry_failed: bool) -> None:
        self.plan, self.directory, self.page = plan, directory, page
        self.stopped_by: Outcome | None = None
        self.over = time.monotonic() + 3600 * (plan.max_hours or math.inf)
        self.trials, self.running = read_trials(directory), dict[str, subprocess.Popen[bytes]]()
        self.left, self.kills = set[str](), Counter[object]()
        search = {name: str(space) for name, space in plan.search.items()}
        before = (read_as(directory / SWEEP, dict[str, Any]) or {}).get("search", search)
        if self.trials and before != search:
            _refuse(directory, "search", before, search)
        for trial in self.mine():
            self.trials[trial.name] = self.as_planned(trial, retry_failed)
        about = {"search": search, "trials": plan.trials, "names": [*plan.fixed]}
        write_as_json(directory / SWEEP, about)

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or Outcome.stopped_by(number)

    def mine(self) -> list[Trial]:
        """The trials that have begun and are in the plan."""
        search = self.plan.search
        return [t for t in self.trials.values() if search or t.name in self.plan.fixed]

    def as_planned(self, trial: Trial, retry_failed: bool) -> Trial:
        """The trial as it goes on under this plan, which may give it more epochs; ConfigError where it
        would be another one.
        """
        was, directory = trial.config, self.directory / trial.name
        tried = {name: getattr(was, name) for name in self.plan.search}
        config = self.plan.fixed.get(trial.name) or replace(self.plan.base, **tried)
        config = replace(config, num_threads=config.num_threads or was.num_threads)
        names = [*config.fixed_on_resume(), *_STARTED_WITH, *["epochs"] * (config.epochs < was.epochs)]
        for name in names:
            if getattr(was, name) != getattr(config, name):
                _refuse(directory, name, getattr(was, name), getattr(config, name))
        longer = (config.epochs, config.patience) != (was.epochs, was.patience)
        now = replace(trial, settings=given_in(config))
        if retry_failed if trial.outcome == FAILED else longer:
            now = replace(now, outcome=None, why="")
        if now != trial:
            write_trial(self.directory, now)
        return now

    def run(self) -> None:
        """Until all trials have ended, or a signal or `max_hours` stops the night."""
        to_do = list[Config]()
        for trial in self.mine():
            left = trial.config.epochs - len(history_of(self.directory / trial.name))
            to_do += [replace(trial.config, epochs=max(1, left))] * (not trial.outcome)
        to_do += [config for name, config in self.plan.fixed.items() if name not in self.trials]
        new = max(0, self.plan.trials - len(self.trials)) if self.plan.search else 0
        if to_do or new:
            check_night(self.plan, self.directory, to_do, new)
        self.note()
        try:
            while not self.stopped_by and self.go_on():
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:  # an error, such as a full disk, ends the night too
            for process in self.running.values():
                process.terminate()
            for process in self.running.values():
                process.wait()
        self.look()

    def go_on(self) -> bool:
        """Looks at all processes and starts others; whether there is anything left to wait for."""
        self.look()
        if time.monotonic() > self.over:
            self.stopped_by = self.stopped_by or Outcome.STOPPED_BY_MAX_HOURS
        while not self.stopped_by and len(self.running) < self.plan.parallel:
            if (trial := self.next_trial()) is None:
                break
            if not self.start(trial):
                return True  # processes of an earlier start are still committing
        return bool(self.running)

    def look(self) -> None:
        """Writes down which processes have ended, and how."""
        for name, process in [*self.running.items()]:
            if (status := process.poll()) is not None:
                del self.running[name]
                self.settle(self.trials[name], status)

    def next_trial(self) -> Trial | None:
        """One that has begun and goes on, else a new one, else None."""
        plan, busy = self.plan, self.left | self.running.keys()
        for trial in self.mine():
            if not trial.outcome and trial.name not in busy:
                return trial
        known = [*self.trials.values()]
        number = max((trial.number for trial in known), default=-1) + 1
        for name, config in plan.fixed.items():
            if name not in self.trials:
                return self.begin(number, name, config)
        if plan.search and len(known) < plan.trials:
            values = journal.proposal(self.directory, known, plan.search, plan.metric, plan.base.seed)
            return self.begin(number, search_name(number, values), replace(plan.base, **values))
        return None

    def begin(self, number: int, name: str, config: Config) -> Trial:
        """Writes down what the trial is, for all its starts."""
        if config.num_threads is None and self.plan.parallel > 1:
            at_once = self.plan.parallel * config.shards
            config = replace(config, num_threads=max(1, usable_cores() // at_once))
        trial = Trial(number, given_in(config), prune=self.plan.prune, name=name)
        if trial.prune:
            trial.peers = [t.name for t in self.mine() if t.outcome in _ENDS]
        make_directory(self.directory / name)
        write_trial(self.directory, trial)
        self.trials[name] = trial
        return trial

    def start(self, trial: Trial) -> bool:
        """Starts the trial's process; False if those of an earlier start have not ended yet.

        They hold the lock of `engine.log`, which each process inherits with its standard output.
        """
        directory = self.directory / trial.name
        with (directory / "engine.log").open("ab") as console:
            try:
                fcntl.flock(console, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:  # also on a disk without locks, which accept_weak_disk accepts
                if isinstance(error, BlockingIOError):
                    return False
            self.running[trial.name] = subprocess.Popen(
                [sys.executable, "-m", "treelstm.sweeps.trials", directory, self.page, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which forwards it
            )
        log.info("%s: started", self._of_all(trial))
        return True

    def settle(self, trial: Trial, status: int) -> None:
        """Writes down how a trial ended, if it did; if not, it is started again."""
        directory, of_all = self.directory / trial.name, self._of_all(trial)
        told = read_as(directory / SUMMARY, Summary)
        if status == 0 and told and told["outcome"] in _ENDS:
            self.end(trial, told["outcome"], told["why"])
        elif self.stopped_by:
            log.info("%s: stopped after a commit", of_all)
        elif status > 128:
            self.left.add(trial.name)
            log.warning("%s: stopped by a signal, left for the next night", of_all)
        else:
            lines = (directory / "engine.log").read_text("utf-8", "replace").rstrip().rpartition("\n")
            why = shown(lines[2][:2000])
            if status < 0:
                why = f"its process was killed by {signal.Signals(-status).name}"
            if status < 0 or why.startswith("KernelDied"):  # as the third kernel in a row
                at = trial.name, *(each.position for each in list_checkpoints(directory)[-1:])
                self.kills[at] += 1
                if self.kills[at] < _KILLS_AT_ONE_COMMIT:
                    log.warning("%s: %s, it is started again", of_all, why.rstrip("."))
                    return
                why += f"; the {_KILLS_AT_ONE_COMMIT}th time without a new commit"
            self.end(trial, FAILED, why)

    def end(self, trial: Trial, outcome: str, why: str) -> None:
        trial.outcome, trial.why = outcome, why
        write_trial(self.directory, trial)
        log.info("%s: %s%s", self._of_all(trial), outcome, why and f": {why}")
        self.note()

    def note(self) -> None:
        journal.record(self.directory, self.mine(), self.plan.search, self.plan.metric)

    def _of_all(self, trial: Trial) -> str:
        ended = sum(bool(each.outcome) for each in self.mine())
        return f"{trial.name} ({ended} of {self.plan.trials} have ended)"


def _refuse(directory: Path, name: str, before: object, now: object) -> NoReturn:
    remedy = "Put it back, or choose another sweep_dir"
    raise ConfigError(f"{directory} was begun with {name}={before!r}, now it is {now!r}. {remedy}.")


def check_night(plan: Plan, directory: Path, to_do: Sequence[Config], new: int) -> None:
    """Checks what `to_do` and so many trials that a search will propose need; logs what it finds.

    Raises PreflightRefused if that will not do, unless `ignore_preflight` is set.
    """
    seconds, size, peak = 0.0, 0.0, 0.0
    any_of = [*to_do, *(plan.configs if new else ())]
    for where in dict.fromkeys(map(_DATA, any_of)):
        here = (each for each in any_of if _DATA(each) == where)
        largest = max(here, key=lambda each: (_weights(each), each.batch_size))
        # In a directory that is not there: each trial checks its own when it starts.
        report = preflight(replace(largest, output_dir=str(directory / "none")))
        for finding in report.all:
            if finding.level != OK:
                log.info("%s: %s. %s", finding.level, finding.found, finding.remedy)
        log.info("preflight of the largest trial on %s: %s", largest.data_dir, summary(report))
        report.require_go()
        symbols = len(report.pairs.forest.symbols) if report.pairs else 1
        of_one = report.disk_bytes / (_weights(largest, symbols) * _checkpoints_kept(largest))
        for each in [*(each for each in to_do if _DATA(each) == where), *[largest] * new]:
            seconds += report.seconds_per_epoch * each.epochs
            size += of_one * _weights(each, symbols) * _checkpoints_kept(each)
        peak = max(peak, report.peak_memory_bytes)
    together = min(plan.parallel, len(to_do) + new)
    free = shutil.disk_usage(nearest_existing(directory)).free
    memory = psutil.virtual_memory().available
    log.info(
        f"{len(to_do) + new} trials to do: at most {duration(seconds / together)} with {together} at "
        f"once, {size / 1e9:,.2f} GB of disk ({free / 1e9:,.1f} GB are free)"
    )
    problem = ""
    if together * peak > memory:
        needed = f"{together} trials at once need {together * peak / 1e9:.1f} GB of memory"
        problem = f"{needed}, {memory / 1e9:.1f} GB are free: lower parallel."
    if size > free:
        problem = "The disk is too small for all trials: set keep=3, or make room."
    if problem and not plan.base.ignore_preflight:
        raise PreflightRefused(f"preflight of the night says no-go:\n{problem}")


def _weights(config: Config, symbols: int = 1) -> int:
    return sum(map(math.prod, parameter_shapes(config, symbols).values()))


def _checkpoints_kept(config: Config) -> int:
    return config.epochs if config.keep == "all" else min(config.epochs, 2 * int(config.keep))
