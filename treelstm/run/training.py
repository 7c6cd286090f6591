"""The training loop, which starts at any step: training and resuming are the same function.

Everything that a step depends on is in `Run` or is a pure function of (seed, epoch, step). A commit is a
`Run` on disk, so a killed and resumed run ends bit-identical to one that was never killed.
"""

import logging
import time
import zlib
from collections.abc import Sequence
from functools import partial
from types import FrameType

import torch

from treelstm.config import Config
from treelstm.data.load import load_corpus
from treelstm.history import History, Outcome, Timing
from treelstm.log import logged
from treelstm.neutral import neutral_torch, require_neutral
from treelstm.night import BEGUN, COMMITTED, night_began, tell_engine
from treelstm.process import (
    default_threads,
    memory_errors_explained,
    only_training,
    set_for_training,
)
from treelstm.randomness import epoch_order
from treelstm.run.changes import epochs_left, in_words
from treelstm.run.deadline import Deadline
from treelstm.run.directory import (
    Checkpoint,
    ResumePoint,
    clear_the_way,
    load_checkpoint,
    starting_point,
    write_commit,
    write_derived_files,
)
from treelstm.run.distributed import (
    Group,
    goes_on,
    is_first,
    joined,
    require_startable,
)
from treelstm.run.divergence import check_sound
from treelstm.run.inputs import ahead, inputs_of, side_thread
from treelstm.run.listener import Listener, Prune
from treelstm.run.lock import Held, only_writer, refuse_if_held
from treelstm.run.state import Run, new_run, resumed_run, state_of, versions
from treelstm.run.step import finish_epoch, train_step
from treelstm.run.summary import failure_noted, write_summary
from treelstm.signals import stop_signals

log = logging.getLogger("treelstm")

_COST = 10  # commits inside an epoch take at most one part in so many of the time


class StopRequest:
    """Set by the first signal, at the deadline or by a listener; read between steps and commits."""

    outcome: Outcome | None = None
    why = ""

    def prune(self, reason: Prune) -> None:
        self.outcome, self.why = Outcome.PRUNED, str(reason)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.outcome = self.outcome or Outcome.stopped_by(number)


def train_heard_by(listeners: Sequence[Listener], config: Config) -> History:
    """`treelstm.train` with these listeners only; also raises whatever a listener raises."""
    try:
        with (
            joined() as group,
            only_training(config.output_path),
            neutral_torch(),
            memory_errors_explained(),
        ):
            return _train(listeners, config, group) if is_first() else _help(config, group)
    except Exception as error:
        if is_first() and not goes_on(error):
            for listener in listeners:
                listener.on_failure(error)
        raise


def _train(listeners: Sequence[Listener], config: Config, group: Group) -> History:
    """In the first process, which is the run."""
    began = night_began() or time.monotonic()
    require_startable(config)
    config, output_dir = config.for_this_kernel(), config.output_path
    refuse_if_held(output_dir)  # at once, not after reading the data
    corpus = load_corpus(config)
    group.first(None)  # the others read what has been compiled
    group.require_same(corpus.fingerprint, "data")
    weak = config.accept_weak_disk
    with only_writer(output_dir, weak) as held, logged(output_dir / "training.log", held.is_ours):
        for lack in held.given_up:
            log.warning("accept_weak_disk: this disk has no %s", lack)
        start = starting_point(output_dir, config.resume)
        by_default = start.content["num_threads"] if start else default_threads(config.shards)
        threads = config.num_threads or by_default
        group.first((start and start.checkpoint, threads))
        with set_for_training(threads):
            run = resumed_run(config, corpus, start) if start else new_run(config, corpus)
            run.group = group
            group.first(None)  # the others make theirs; what is wrong is said once
            group.agree(0)  # all have read the commit
            clear_the_way(output_dir, start, config.resume)
            resumed_at = start.checkpoint.position if start else None
            tell_engine(BEGUN, output_dir, resumed_at=resumed_at)
            _log_start(run, start)
            ended_before = run.outcome
            with failure_noted(run, held):
                if start is not None:
                    write_derived_files(output_dir, start.content, ended_before, resumed=True)
                write_summary(run, ended_before)
                stop = StopRequest()
                try:
                    for listener in listeners:
                        listener.on_start(run)
                except Prune as reason:
                    stop.prune(reason)
                    write_summary(run, stop.outcome, stop.why)
                outcome = group.first(stop.outcome) or ended_before
                outcome = outcome or _loop(run, listeners, held, began, stop)
            _log_end(run, outcome, stop.why)
            tell_engine(outcome, output_dir)
    history = History([*run.history], outcome, output_dir, resumed_at)
    if ended_before is None:
        for listener in listeners:
            listener.on_end(history)
    return history


def _help(config: Config, group: Group) -> History:
    """In every other process: the same steps, and nothing else."""
    log.addHandler(logging.NullHandler())  # else Python would show warnings
    group.first(None)
    corpus = load_corpus(config)
    group.require_same(corpus.fingerprint, "data")
    nothing: tuple[Checkpoint | None, int | None] = None, None
    checkpoint, threads = group.first(nothing)
    start = ResumePoint(checkpoint, load_checkpoint(checkpoint.path)) if checkpoint else None
    with set_for_training(threads):
        group.first(None)
        run = resumed_run(config, corpus, start) if start else new_run(config, corpus)
        run.group = group
        group.agree(0)
        outcome = group.first(None) or run.outcome
        outcome = outcome or _loop(run, (), None, time.monotonic(), StopRequest())
    resumed_at = start.checkpoint.position if start else None
    return History([*run.history], outcome, config.output_path, resumed_at)


def _loop(
    run: Run, listeners: Sequence[Listener], held: Held | None, began: float, stop: StopRequest
) -> Outcome:
    """Steps, epochs and commits until the run ends, a signal stops it or its time is up.

    All processes of a group stop and commit after the same step; only the first one holds the lock.
    """
    config, training = run.config, run.corpus.training
    ids = run.corpus.vocabulary.ids(training.forest.symbols)
    max_hours = config.max_hours if held else None
    deadline = Deadline(began, max_hours, len(run.corpus.validation) / config.batch_size)
    pace, inputs, slow = config.checkpoint_every_seconds, None, False
    committed = time.monotonic()

    def stop_if_time_is_up() -> None:
        if deadline.is_near(validates=run.step == run.steps_per_epoch):
            stop.outcome = stop.outcome or Outcome.STOPPED_BY_MAX_HOURS

    def asked(commit: bool = False) -> tuple[Outcome | None, bool]:
        """What any process asks for: to stop, to commit."""
        *stops, commits = run.group.agree(*(each is stop.outcome for each in Outcome), commit)
        return next((each for each, by in zip(Outcome, stops, strict=True) if by), None), commits > 0

    with stop_signals(stop), side_thread(run.device) as side:
        while run.outcome is None:
            record, step_began = None, time.monotonic()
            if run.step < run.steps_per_epoch:
                if inputs is None:
                    draw = partial(epoch_order, config.seed, run.epochs_done + 1, len(training))
                    order = run.group.once_a_machine(draw, len(training))
                    make = partial(inputs_of, run, order, ids)
                    steps = range(run.step, run.steps_per_epoch)
                    on_cpu = run.device.type == "cpu"
                    inputs = map(make, steps) if on_cpu else ahead(side, make, steps)
                train_step(run, order, ids, next(inputs))
                for listener in listeners:
                    listener.on_step(run)
                deadline.step_seconds = time.monotonic() - step_began
                stop_if_time_is_up()
                wait = pace and max(pace, _COST * deadline.commit_seconds)  # 0: after every step
                outcome, due = asked(bool(held) and time.monotonic() - committed >= wait)
                if not outcome and not due:
                    continue
            else:
                if held:  # the others wait for it
                    check_sound(run)  # before the metrics, which cannot be computed from NaN
                validation_began = time.monotonic()
                record, inputs = finish_epoch(run), None
                deadline.validation_seconds = time.monotonic() - validation_began
            if held:
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
            try:
                if record is not None:
                    for listener in listeners:
                        listener.on_epoch(record)
            except Prune as reason:
                stop.prune(reason)
            stop_if_time_is_up()
            outcome, _ = asked()
            if outcome and (run.outcome is None or outcome is Outcome.PRUNED):
                if held:
                    write_summary(run, outcome, stop.why)  # here, where further signals do no harm
                return outcome
        return run.outcome


def _commit(run: Run, listeners: Sequence[Listener], held: Held | None, deadline: Deadline) -> None:
    began, output_dir = time.monotonic(), run.config.output_path
    require_neutral()
    if run.group.size > 1:
        run.group.require_same(_checksum(run), f"weights or metrics after {run.place}")
    if held is None:
        return
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


def _checksum(run: Run) -> int:
    """Of the weights and the numbers so far."""
    found = zlib.crc32(repr((run.epoch_sums.tolist(), run.history[-1:])).encode())
    for weight in run.encoder.parameters():
        found = zlib.crc32(weight.detach().cpu().numpy().tobytes(), found)
    return found


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
    for name, now in (versions(run.device) | here).items():
        # An older version of treelstm recorded fewer names.
        if before.get(name, now) != now and name not in names:
            log.warning(
                f"{name} was {before.get(name)}, is {now} now: allowed, but the result may differ in "
                "the last bits from that of an undisturbed run"
            )


def _log_end(run: Run, outcome: Outcome, why: str) -> None:
    if why:
        log.info('%s at %s: %s. With resume="auto" it goes on', outcome.said, run.place, why)
    elif outcome.finished:
        best = run.best and run.best["epoch"]
        log.info("%s: %s, best epoch %s, in %s", outcome, run.place, best, run.config.output_path)
    else:
        log.info('%s: %s is committed. Resume it with resume="auto"', outcome.said, run.place)
