"""`train`, with its usual listeners: a bar or lines, a figure, TensorBoard, notifications."""

import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise, takewhile
from pathlib import Path

from treelstm.config import Config, ConfigError, require_config
from treelstm.history import EpochRecord, History, summary
from treelstm.launch import train_in_processes
from treelstm.log import logged
from treelstm.notify import is_configured, notify
from treelstm.process import memory_errors_explained
from treelstm.progress import Progress, asked_at, duration, in_notebook, is_interactive
from treelstm.run.directory import BEST
from treelstm.run.distributed import is_worker
from treelstm.run.listener import Listener
from treelstm.run.lock import holder
from treelstm.run.state import Run
from treelstm.run.tensorboard import TensorBoardFile
from treelstm.run.training import train_heard_by
from treelstm.sweeps.journal import pruning

log = logging.getLogger("treelstm")

# Runs that were stopped by day in this kernel, with the time: whoever had pressed Run twice by then does
# not want the second training either. A server that queues requests itself sends them once it is free.
_stopped: dict[Path, tuple[float, History]] = {}
_SECONDS_TO_PRESS = 1.0  # Run, by a person who sees that training has stopped


def train(config: Config, *, listeners: Sequence[Listener] = ()) -> History:
    """Trains until `config.epochs`, from scratch or from a commit; returns the whole history.

    `config.resume` decides: "auto" (the newest whole commit, else a fresh start), a checkpoint's path
    (later commits are set aside), or None (all are set aside). SIGINT, SIGTERM and the like, and
    `max_hours`, commit and stop. The outcome is sent to TREELSTM_NOTIFY_URLS. `listeners` are added to
    the usual ones.

    Raises:
        DataError: the pairs cannot be used; nothing has been written.
        SettingsChanged, CheckpointError: cannot resume from there.
        RunInUse: another process writes to the output directory.
        WriteFailed: the disk refuses; the last commit is intact.
        TrainingDiverged: the last commit is the last good state; names the step that went wrong.
    """
    require_config(config)
    live = in_notebook() and is_interactive()
    told = _stopped.get(config.output_path)
    if live and told and asked_at() < told[0] + _SECONDS_TO_PRESS:
        how = f"was {told[1].outcome.said} after this cell had been asked to run"
        print(f"Nothing was trained: {config.output_path} {how}. Run it again to go on.")
        return told[1]
    with memory_errors_explained():  # also lets go of the listeners, which hold the run
        history = _train(config, listeners, live)
    if live and not history.finished:
        _stopped[config.output_path] = (time.time(), history)
    return history


def _train(config: Config, listeners: Sequence[Listener], live: bool) -> History:
    if config.processes > 1 and not is_worker():
        return _launch(config, listeners)
    progress = Progress(figure_shown=live)
    figure = [LiveFigure()] if live else []
    files = TensorBoardFile(config.output_path), Notifications(config.output_path)
    usual = [progress, OneDistance(), Restarted(), *files, *figure]
    return train_heard_by([*usual, *listeners, *pruning(config.output_path)], config)


def _launch(config: Config, listeners: Sequence[Listener]) -> History:
    """`train` in other processes, with the usual listeners in the first of them."""
    told = Notifications(config.output_path)
    figure = LiveFigure() if in_notebook() and is_interactive() else None
    try:
        if listeners:
            found = f"processes is {config.processes}, and others cannot call listeners of this one"
            raise ConfigError(f"{found}. Set processes=1 to train with your own.")
        history, worked = train_in_processes(config, figure.show if figure else None)
    except Exception as error:
        told.on_failure(error)
        if figure:
            figure.on_failure(error)
        raise
    if figure:
        figure.on_end(history)
    if worked:
        told.on_end(history)
    return history


class LiveFigure(Listener):
    """Curve and epochs in the notebook, redrawn after each epoch, and at the end with a headline."""

    def __init__(self) -> None:
        from treelstm.widgets.monitor import TrainingMonitor  # ipywidgets and matplotlib, here only

        self._monitor, self._history, self._drawn = TrainingMonitor(), list[EpochRecord](), 0
        self._seconds, self._epoch_began = dict[int, float](), time.monotonic()
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        self._run, self._history = run, run.history
        self._draw()
        if run.outcome is not None:  # nothing to do: `on_end` is not called
            self._draw(_headline(History(run.history, run.outcome, run.config.output_path, None)))

    def on_step(self, run: Run | None) -> None:
        if self._drawn != len(self._history) and self._monitor.may_draw():
            self._draw()

    def on_epoch(self, record: EpochRecord) -> None:
        self.on_step(self._run)

    def show(self, config: Config, history: list[EpochRecord]) -> None:
        """The same for a run that other processes train."""
        now = time.monotonic()
        if self._history and len(history) == len(self._history) + 1:  # the first has a start before it
            self._seconds[history[-1]["epoch"]] = now - self._epoch_began
        self._epoch_began, self._history = now, history
        left = (config.epochs - len(history)) * self._seconds.get(history[-1]["epoch"], math.nan)
        said = f", {duration(left)} left" if left == left else ""
        self._draw(f"epoch {len(history)}/{config.epochs}{said}")

    def on_end(self, history: History) -> None:
        self._history = history.epochs
        self._draw(_headline(history))

    def on_failure(self, error: Exception) -> None:
        self._draw(f"failed: {type(error).__name__}: {error}".splitlines()[0])

    def _draw(self, said: str = "") -> None:
        if self._run:
            self._seconds = {each["epoch"]: each["seconds"] for each in self._run.timings}
        self._monitor.show(self._history, self._seconds, said)
        self._drawn = len(self._history)


def _headline(history: History) -> str:
    model = history.output_dir / BEST
    return f"{history.outcome.said}: {summary(history.epochs)}" + (
        f"; in {model}" if history.best else ""
    )


class Restarted(Listener):
    """Says in the log that a process was killed and all were started again."""

    def on_start(self, run: Run) -> None:
        if count := int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
            most = os.environ["TORCHELASTIC_MAX_RESTARTS"]
            log.warning(f"a process was killed or lost: restart {count} of at most {most}")


class Notifications(Listener):
    """Tells the configured addresses how a run ended, unless it had finished before."""

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir

    def on_end(self, history: History) -> None:
        self._announce(history.outcome, summary(history.epochs))

    def on_failure(self, error: Exception) -> None:
        self._announce("failed", f"{type(error).__name__}: {error}")

    def _announce(self, event: str, text: str) -> None:
        """Notifies, and logs if that fails, unless another process is writing the log."""
        output_dir = self._output_dir
        ours = is_configured() and output_dir.is_dir() and not holder(output_dir)
        with logged(output_dir / "training.log") if ours else nullcontext():
            notify(event, output_dir, text)


class OneDistance(Listener):
    """Warns while the training loss is no better than if all pairs had one distance.

    It depends on the history alone, so a resumed run says the same. Epochs that begin within the first
    200 steps do not count: there, encodings as drawn come to the scale of the margins.
    """

    def on_start(self, run: Run) -> None:
        self._run = run
        pairs, size = run.corpus.training, run.config.batch_size // run.config.shards
        self._bound = run.objective.constant_loss(pairs, size)
        self._first = math.ceil(200 / run.steps_per_epoch)

    def on_epoch(self, record: EpochRecord) -> None:
        losses = [each["train_loss"] for each in self._run.history[self._first :]]
        stays = [after > 0.95 * max(self._bound, before) for before, after in pairwise(losses)]
        if self._bound and len([*takewhile(bool, reversed(stays))]) % 5 == 1:
            remedies = ["more epochs"]
            if self._run.config.objective == "contrastive" and self._run.config.margin < 3:
                remedies += ["in another run margin=3 with positive_margin=2.25"]
            if not self._run.config.bag_of_symbols:
                remedies += ["in another run bag_of_symbols=True"]
            log.warning(
                f"still at the loss of one distance for all: {record['train_loss']:.4g} in training, "
                f"{self._bound:.4g} if all pairs had the best single distance. This is usual with large "
                f"trees; what has helped: {', '.join(remedies)}"
            )
