"""The training loop, which starts at any step: training and resuming are the same function.

Everything that a step depends on is in `Run` or is a pure function of (seed, epoch, step). A commit is a
`Run` on disk, so a killed and resumed run ends bit-identical to one that was never killed.
"""

import logging
import time
from collections.abc import Sequence
from types import FrameType

import torch

from treelstm.config import Config
from treelstm.data.load import load_corpus
from treelstm.history import History, Outcome, Timing
from treelstm.log import logged
from treelstm.neutral import neutral_torch, require_neutral
from treelstm.night import BEGUN, COMMITTED, night_began, tell_engine
from treelstm.process import memory_errors_explained, only_training, set_for_training
from treelstm.randomness import epoch_order
from treelstm.run.changes import epochs_left, in_words
from treelstm.run.deadline import Deadline
from treelstm.run.directory import (
    ResumePoint,
    clear_the_way,
    starting_point,
    write_commit,
    write_derived_files,
)
from treelstm.run.divergence import check_sound
from treelstm.run.listener import Listener, Prune
from treelstm.run.lock import Held, only_writer, refuse_if_held
from treelstm.run.state import Run, new_run, resumed_run, state_of, versions
from treelstm.run.step import finish_epoch, train_step
from treelstm.run.summary import failure_noted, write_summary
from treelstm.signals import stop_signals

log = logging.getLogger("treelstm")

_COST = 10  # commits inside an epoch take at most one part in so many of the time


def train_heard_by(listeners: Sequence[Listener], config: Config) -> History:
    """`treelstm.train` with these listeners only; also raises whatever a listener raises."""
    try:
        with only_training(config.output_path), neutral_torch(), memory_errors_explained():
            return _train(listeners, config)
    except Exception as error:
        for listener in listeners:
            listener.on_failure(error)
        raise


def _train(listeners: Sequence[Listener], config: Config) -> History:
    began = night_began() or time.monotonic()
    config, output_dir = config.for_this_kernel(), config.output_path
    refuse_if_held(output_dir)  # at once, not after reading the data
    corpus = load_corpus(config)
    weak = config.accept_weak_disk
    with only_writer(output_dir, weak) as held, logged(output_dir / "training.log", held.is_ours):
        for lack in held.given_up:
            log.warning("accept_weak_disk: this disk has no %s", lack)
        start = starting_point(output_dir, config.resume)
        with set_for_training(config.num_threads or (start.content["num_threads"] if start else None)):
            run = resumed_run(config, corpus, start) if start else new_run(config, corpus)
            clear_the_way(output_dir, start, config.resume)
            resumed_at = start.checkpoint.position if start else None
            tell_engine(BEGUN, output_dir, resumed_at=resumed_at)
            _log_start(run, start)
            ended_before = run.outcome
            with failure_noted(run, held):
                if start is not None:
                    write_derived_files(output_dir, start.content, ended_before, resumed=True)
                write_summary(run, ended_before)
                why = ""
                try:
                    for listener in listeners:
                        listener.on_start(run)
                    outcome = ended_before or _loop(run, listeners, held, began)
                except Prune as reason:
                    outcome, why = Outcome.PRUNED, str(reason)
                    write_summary(run, outcome, why)
            _log_end(run, outcome, why)
            tell_engine(outcome, output_dir)
    history = History([*run.history], outcome, output_dir, resumed_at)
    if ended_before is None:
        for listener in listeners:
            listener.on_end(history)
    return history


def _loop(run: Run, listeners: Sequence[Listener], held: Held, began: float) -> Outcome:
    """Steps, epochs and commits until the run ends, a signal stops it or its time is up."""
    config, training = run.config, run.corpus.training
    ids = run.corpus.vocabulary.ids(training.forest.symbols)
    deadline = Deadline(began, config.max_hours, len(run.corpus.validation) / config.batch_size)
    pace, order, slow = config.checkpoint_every_seconds, None, False
    stop, committed = StopRequest(), time.monotonic()

    def stop_if_time_is_up() -> None:
        if deadline.is_near(validates=run.step == run.steps_per_epoch):
            stop.outcome = stop.outcome or Outcome.STOPPED_BY_MAX_HOURS

    with stop_signals(stop):
        while run.outcome is None:
            record, step_began = None, time.monotonic()
            if run.step < run.steps_per_epoch:
                if order is None:
                    order = epoch_order(config.seed, run.epochs_done + 1, len(training))
                train_step(run, order, ids)
                for listener in listeners:
                    listener.on_step(run)
                deadline.step_seconds = time.monotonic() - step_began
                stop_if_time_is_up()
                wait = pace and max(pace, _COST * deadline.commit_seconds)  # 0: after every step
                if not stop.outcome and time.monotonic() - committed < wait:
                    continue
            else:
                check_sound(run)  # before the metrics, which cannot be computed from NaN
                validation_began = time.monotonic()
                record, order = finish_epoch(run), None
                deadline.validation_seconds = time.monotonic() - validation_began
            check_sound(run)
            now = time.monotonic()
            run.seconds, committed = run.seconds + now - committed, now
            if record is not None:
                note_timing(run)
            _commit(run, listeners, held, deadline)
            if not slow and 0 < pace < _COST * deadline.commit_seconds:
                slow = True
                log.warning(
                    f"a commit takes {deadline.commit_seconds:.3g} s, checkpoint_every_seconds is "
                    f"{pace:g}. Commits take a tenth of the time at most: inside an epoch, the next "
                    f"comes after {_COST * deadline.commit_seconds:.3g} s. If the disk is slow, choose "
                    "an output_dir on another"
                )
            if record is not None:
                for listener in listeners:
                    listener.on_epoch(record)
            stop_if_time_is_up()
            if stop.outcome and run.outcome is None:
                write_summary(run, stop.outcome)  # here, where further signals do no harm
                return stop.outcome
        return run.outcome


def _commit(run: Run, listeners: Sequence[Listener], held: Held, deadline: Deadline) -> None:
    began, output_dir = time.monotonic(), run.config.output_path
    require_neutral()
    held.check()
    content = state_of(run)
    write_commit(output_dir, content, run.config.keep)
    if not deadline.commit_seconds:  # the first of this process
        tell_engine(COMMITTED, output_dir)
    if not run.step:
        write_derived_files(output_dir, content, run.outcome, resumed=False)
        write_summary(run, run.outcome)
    for listener in listeners:
        listener.on_commit(content)
    deadline.commit_seconds = time.monotonic() - began


def note_timing(run: Run) -> None:
    """Records the time of the epoch that has just ended."""
    seconds, run.seconds = run.seconds, 0.0
    pace, epoch = len(run.corpus.training) / max(seconds, 1e-9), run.epochs_done
    run.timings.append(Timing(epoch=epoch, ended=time.time(), seconds=seconds, pairs_per_second=pace))


class StopRequest:
    """Set by the first signal or at the deadline, and read between steps and commits."""

    outcome: Outcome | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.outcome = self.outcome or Outcome.stopped_by(number)


def _log_start(run: Run, start: ResumePoint | None) -> None:
    corpus, similar = run.corpus, f"{int((run.corpus.training.label == 1).sum()):,} similar"
    kind = {"graded": "graded", "ranking": "only similar ones"}.get(run.config.objective, similar)
    log.info(
        f"{len(corpus.training):,} training pairs ({kind}), {len(corpus.validation):,} "
        f"validation pairs; {corpus.overlap:.1%} of the validation trees occur in training; "
        f"{len(corpus.vocabulary):,} symbols"
    )
    if start is None:
        log.info(f"no checkpoint to resume: starting from scratch in {run.config.output_path}")
        return
    content = start.content
    new = run.changes[len(content.get("changes", [])) :]
    _, to_do = epochs_left(run.config, content, new)
    log.info(
        f"resuming {start.checkpoint.path}: {run.place} of {run.steps_per_epoch}, train loss "
        f"{content['train_loss']:.4f}, {len(run.history)} epochs of history; {to_do}"
    )
    for change in new:
        log.warning("changed on purpose: %s", in_words(change))
    if any(change["best_anew"] for change in new):
        log.warning("epochs before and after this cannot be compared: the best epoch is sought anew")
    names = {change["name"] for change in new}
    if content["fingerprint"] != corpus.fingerprint and "data" not in names:
        log.info("the pair files are not the same bytes as before, but hold the same pairs: allowed")
    before = {name: str(content[name]) for name in ("device", "num_threads")} | content["versions"]
    here = {"device": run.device.type, "num_threads": str(torch.get_num_threads())}
    for name, now in (versions() | here).items():
        # An older version of treelstm recorded fewer names.
        if before.get(name, now) != now and name not in names:
            log.warning(
                f"{name} was {before.get(name)}, is {now} now: allowed, but the result may differ in "
                "the last bits from that of an undisturbed run"
            )


def _log_end(run: Run, outcome: Outcome, why: str) -> None:
    if why:
        log.info('%s at %s: %s. With resume="auto" it goes on', outcome, run.place, why)
    elif outcome.finished:
        best = run.best and run.best["epoch"]
        log.info("%s: %s, best epoch %s, in %s", outcome, run.place, best, run.config.output_path)
    else:
        log.info('%s: %s is committed. Resume it with resume="auto"', outcome, run.place)
