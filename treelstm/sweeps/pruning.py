"""In a trial's kernel: ends a hopeless trial at an epoch's end, by Optuna's pruners."""

import os
from pathlib import Path
from statistics import median
from typing import Any

from treelstm.history import EpochRecord, Outcome, best, metric_named, value_of
from treelstm.run.listener import Listener, Prune
from treelstm.run.state import Run
from treelstm.sweeps.journal import STUDY, direction_of, optuna
from treelstm.sweeps.trials import TRIAL_DIR, Trial, history_of, read_trial


class Pruning(Listener):
    """Compares a trial with those that had ended when it began, so that a kernel that is started again
    decides as the one before it would have.
    """

    def __init__(self, directory: Path, trial: Trial) -> None:
        self._directory, self._trial = directory, trial

    def on_start(self, run: Run) -> None:
        self._run, self._metric = run, metric_named(run.best_by)
        if run.outcome is not None:
            return
        trial, pruners = self._trial, optuna().pruners
        pruner = pruners.MedianPruner()
        if trial.prune == "hyperband":
            pruner = pruners.HyperbandPruner(max_resource=run.config.epochs)
        direction = direction_of(run.best_by)
        self._study = optuna().create_study(study_name=STUDY, direction=direction, pruner=pruner)
        found = (read_trial(self._directory.parent / name) for name in trial.peers)
        peers = {peer.number: peer for peer in found if peer}
        for number in range(max([*peers, trial.number]) + 1):  # Hyperband goes by the trials' numbers
            asked = self._study.ask()
            if number == trial.number:
                self._asked = asked
            else:
                self._tell(asked, peers.get(number))
        for record in run.history:
            hopeless = self._judge(record)
        if run.history and hopeless:
            raise Prune(self._why(run.history[-1]))

    def on_epoch(self, record: EpochRecord) -> None:
        if self._run.outcome is None and self._judge(record):
            raise Prune(self._why(record))

    def _judge(self, record: EpochRecord) -> bool:
        self._asked.report(value_of(record, self._metric.key), record["epoch"])
        return bool(self._asked.should_prune())

    def _tell(self, asked: Any, peer: Trial | None) -> None:
        """Has the study know one of the trials that had ended."""
        states, history = optuna().trial.TrialState, []
        if peer:
            history = history_of(self._directory.parent / peer.name)
        for record in history:
            asked.report(value_of(record, self._metric.key), record["epoch"])
            asked.should_prune()  # by which Hyperband notes its rungs
        record_of_best = best(history)
        if peer is None or record_of_best is None:
            self._study.tell(asked, state=states.FAIL)
        elif peer.outcome == Outcome.PRUNED:
            self._study.tell(asked, state=states.PRUNED)
        else:
            self._study.tell(asked, value_of(record_of_best, self._metric.key))

    def _why(self, record: EpochRecord) -> str:
        metric, epoch = self._metric, record["epoch"]
        mine = f"{metric.label} {metric.text(record)}"
        if self._trial.prune == "hyperband":
            return f"{mine} at epoch {epoch}, not among the best by then (hyperband)"
        complete = self._study.get_trials(states=(optuna().trial.TrialState.COMPLETE,))
        values = (each.intermediate_values for each in complete)
        others = [each[epoch] for each in values if epoch in each]
        shown = metric.text(best(self._run.history) or record)
        middle = metric.format.format(median(others))
        return f"best {metric.label} {shown} by epoch {epoch}, median of {len(others)} trials {middle}"


def pruning(output_dir: Path) -> list[Listener]:
    """The listener that prunes this run, if it is a trial of a sweep that asks for that."""
    directory = os.environ.get(TRIAL_DIR)
    if directory is None or Path(directory) != output_dir:
        return []
    trial = read_trial(output_dir)
    return [Pruning(output_dir, trial)] if trial and trial.prune else []
