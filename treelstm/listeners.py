"""`train`, with its usual listeners: a bar or lines, a figure, TensorBoard, notifications."""

import logging
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise, takewhile
from pathlib import Path

from treelstm.config import Config, ConfigError, require_config
from treelstm.history import EpochRecord, History, summary
from treelstm.launch import train_in_processes
from treelstm.log import logged
from treelstm.notify import is_configured, notify
from treelstm.progress import Progress, in_notebook, is_interactive
from treelstm.run.distributed import is_worker
from treelstm.run.listener import Listener
from treelstm.run.lock import holder
from treelstm.run.state import Run
from treelstm.run.tensorboard import TensorBoardFile
from treelstm.run.training import train_heard_by
from treelstm.sweeps.journal import pruning

log = logging.getLogger("treelstm")


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
    if config.processes > 1 and not is_worker():
        return _launch(config, listeners)
    live = in_notebook() and is_interactive()
    progress = Progress(figure_shown=live)
    figure = [LiveFigure(progress)] if live else []
    files = TensorBoardFile(config.output_path), Notifications(config.output_path)
    usual = [progress, OneDistance(), Restarted(), *files, *figure]
    return train_heard_by([*usual, *listeners, *pruning(config.output_path)], config)


def _launch(config: Config, listeners: Sequence[Listener]) -> History:
    """`train` in other processes, with the usual listeners in the first of them."""
    told = Notifications(config.output_path)
    try:
        if listeners:
            found = f"processes is {config.processes}, and others cannot call listeners of this one"
            raise ConfigError(f"{found}. Set processes=1 to train with your own.")
        figure = LiveFigure() if in_notebook() and is_interactive() else None
        history, worked = train_in_processes(config, figure.show if figure else None)
    except Exception as error:
        told.on_failure(error)
        raise
    if worked:
        told.on_end(history)
    return history


class LiveFigure(Listener):
    """A figure in the notebook, redrawn after each epoch."""

    def __init__(self, progress: Progress | None = None) -> None:
        from treelstm.widgets.monitor import TrainingMonitor  # ipywidgets and matplotlib, here only

        self._monitor, self._progress = TrainingMonitor(), progress

    def on_start(self, run: Run) -> None:
        self._run = run

    def on_epoch(self, record: EpochRecord) -> None:
        self.show(self._run.config, self._run.history)

    def show(self, config: Config, history: list[EpochRecord]) -> None:
        """Draws it for a run of these settings; without a pace if other processes train."""
        newest = history[-1]
        words = [f"epoch {newest['epoch']}/{config.epochs}"]
        words += [self._progress.pace()] if self._progress else []
        words += [f"learning rate {newest['learning_rate']:.3g}"]
        self._monitor.show(history, " · ".join(words))


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
