"""The training loop, which starts at any step: training and resuming are the same function.

Everything that a step depends on is in `Run` or is a pure function of (seed, epoch, step). A commit is a
`Run` on disk, so a killed and resumed run ends bit-identical to one that was never killed.
"""

import logging
import time
from collections.abc import Sequence
from types import FrameType

from treelstm.config import Config
from treelstm.data.load import load_corpus
from treelstm.history import History, Outcome, Timing
from treelstm.log import logged
from treelstm.neutral import neutral_torch, require_neutral
from treelstm.process import memory_errors_explained, only_training, set_for_training
from treelstm.randomness import epoch_order
from treelstm.run.directory import (
    ResumePoint,
    clear_the_way,
    starting_point,
    write_commit,
    write_derived_files,
)
from treelstm.run.divergence import check_sound
from treelstm.run.listener import Listener
from treelstm.run.lock import only_writer, refuse_if_held
from treelstm.run.state import Run, new_run, resumed_run, state_of, versions
from treelstm.run.step import finish_epoch, train_step
from treelstm.signals import stop_signals

log = logging.getLogger("treelstm")


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
    output_dir = config.output_path
    refuse_if_held(output_dir)  # at once, not after reading the data
    corpus = load_corpus(config)
    with only_writer(output_dir), logged(output_dir / "training.log"):
        start = starting_point(output_dir, config.resume)
        with set_for_training(config.num_threads or (start.content["num_threads"] if start else None)):
            run = resumed_run(config, corpus, start) if start else new_run(config, corpus)
            clear_the_way(output_dir, start, config.resume)
            _log_start(run, start)
            if start is not None:
                write_derived_files(output_dir, start.content, run.outcome)
            for listener in listeners:
                listener.on_start(run)
            ended_before = run.outcome
            outcome = ended_before or _loop(run, listeners)
            _log_end(run, outcome)
    resumed_at = start.checkpoint.position if start else None
    history = History(list(run.history), outcome, output_dir, resumed_at)
    if ended_before is None:
        for listener in listeners:
            listener.on_end(history)
    return history


def _loop(run: Run, listeners: Sequence[Listener]) -> Outcome:
    """Steps, epochs and commits until the run ends or a signal stops it."""
    config, training = run.config, run.corpus.training
    ids = run.corpus.vocabulary.ids(training.forest.symbols)
    committed = time.monotonic()

    def commit() -> None:
        require_neutral()
        content = state_of(run)
        write_commit(config.output_path, content, config.keep)
        if not run.step:
            write_derived_files(config.output_path, content, run.outcome)
        for listener in listeners:
            listener.on_commit(content)

    def count_seconds() -> None:
        """Adds the time since the last commit to that of the epoch."""
        nonlocal committed
        now = time.monotonic()
        run.seconds += now - committed
        committed = now

    stop = StopRequest()
    with stop_signals(stop):
        while run.outcome is None:
            order = epoch_order(config.seed, run.epochs_done + 1, len(training))
            while run.step < run.steps_per_epoch:
                train_step(run, order, ids)
                for listener in listeners:
                    listener.on_step(run)
                if stop.outcome or time.monotonic() - committed >= config.checkpoint_every_seconds:
                    count_seconds()
                    check_sound(run)
                    commit()
                if stop.outcome:
                    return stop.outcome
            check_sound(run)  # before the metrics, which cannot be computed from NaN
            record = finish_epoch(run)
            count_seconds()
            note_timing(run)
            check_sound(run)
            commit()
            for listener in listeners:
                listener.on_epoch(record)
            if stop.outcome and run.outcome is None:
                return stop.outcome
        return run.outcome


def note_timing(run: Run) -> None:
    """Records the time of the epoch that has just ended."""
    pace, now = len(run.corpus.training) / max(run.seconds, 1e-9), time.time()
    run.timings.append(
        Timing(epoch=run.epochs_done, ended=now, seconds=run.seconds, pairs_per_second=pace)
    )
    run.seconds = 0.0


class StopRequest:
    """Set by the first signal and read between steps, so that no step or commit is interrupted."""

    outcome: Outcome | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.outcome = self.outcome or Outcome.stopped_by(number)


def _log_start(run: Run, start: ResumePoint | None) -> None:
    corpus, similar = run.corpus, int(run.corpus.training.label.sum())
    log.info(
        f"{len(corpus.training):,} training pairs ({similar:,} similar), {len(corpus.validation):,} "
        f"validation pairs; {corpus.overlap:.1%} of the validation trees occur in training; "
        f"{len(corpus.vocabulary):,} symbols"
    )
    if start is None:
        log.info(f"no checkpoint to resume: starting from scratch in {run.config.output_path}")
        return
    content, epochs = start.content, run.config.epochs
    to_do = f"epochs {run.epochs_done + 1} to {epochs} will run"
    if run.outcome:
        to_do = f"the run is {run.outcome}: nothing to do. Raise epochs (now {epochs}) to train on"
    log.info(
        f"resuming {start.checkpoint.path}: {run.place} of {run.steps_per_epoch}, train loss "
        f"{content['train_loss']:.4f}, {len(run.history)} epochs of history; {to_do}"
    )
    before = {**content["versions"], "device": content["device"]}
    for name, now in {**versions(), "device": run.device.type}.items():
        if before.get(name, now) != now:  # an older version of treelstm recorded fewer
            log.warning(
                f"{name} was {before.get(name)}, is {now} now: allowed, but the result may differ in "
                "the last bits from that of an undisturbed run"
            )


def _log_end(run: Run, outcome: Outcome) -> None:
    if outcome.finished:
        best = run.best["epoch"] if run.best else None
        log.info("%s: %s, best epoch %s, in %s", outcome, run.place, best, run.config.output_path)
    else:
        log.info('%s: %s is committed. Resume it with resume="auto"', outcome, run.place)
