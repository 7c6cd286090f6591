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
        self._sweep_dir, self._trial = directory.parent, trial

    def on_start(self, run: Run) -> None:
        self._run, self._metric = run, metric_named(run.best_by)
        if run.outcome is not None:
            return
        pruners = optuna().pruners
        pruner = pruners.MedianPruner()
        if self._trial.prune == "hyperband":
            pruner = pruners.HyperbandPruner(max_resource=run.config.epochs)
        direction = direction_of(run.best_by)
        self._study = optuna().create_study(study_name=STUDY, direction=direction, pruner=pruner)
        found = (read_trial(self._sweep_dir / name) for name in self._trial.peers)
        peers = {peer.number: peer for peer in found if peer}
        for number in range(max([*peers, self._trial.number]) + 1):  # Hyperband goes by the numbers
            asked = self._study.ask()
            if number == self._trial.number:
                self._asked = asked
            else:
                self._tell(asked, peers.get(number))
        judged = [self._is_hopeless(record, self._asked) for record in run.history]
        if any(judged[-1:]):
            raise Prune(self._why(run.history[-1]))

    def on_epoch(self, record: EpochRecord) -> None:
        if self._run.outcome is None and self._is_hopeless(record, self._asked):
            raise Prune(self._why(record))

    def _is_hopeless(self, record: EpochRecord, asked: Any) -> bool:
        """Optuna's word on a trial after this epoch, which it remembers."""
        asked.report(value_of(record, self._metric.key), record["epoch"])
        return bool(asked.should_prune())

    def _tell(self, asked: Any, peer: Trial | None) -> None:
        """Has the study know one of the trials that had ended."""
        states, history = (
            optuna().trial.TrialState,
            history_of(self._sweep_dir / peer.name) if peer else [],
        )
        for record in history:
            self._is_hopeless(record, asked)
        if peer is None or (record_of_best := best(history)) is None:
            self._study.tell(asked, state=states.FAIL)
        elif peer.outcome == Outcome.PRUNED:
            self._study.tell(asked, state=states.PRUNED)
        else:
            self._study.tell(asked, value_of(record_of_best, self._metric.key))

    def _why(self, record: EpochRecord) -> str:
        metric, epoch = self._metric, record["epoch"]
        if self._trial.prune == "hyperband":
            place = f"at epoch {epoch}, not among the best by then (hyperband)"
            return f"{metric.label} {metric.text(record)} {place}"
        complete = self._study.get_trials(states=(optuna().trial.TrialState.COMPLETE,))
        values = (each.intermediate_values for each in complete)
        others = [each[epoch] for each in values if epoch in each]
        shown = metric.text(best(self._run.history) or record)
        middle = metric.format.format(median(others))
        return f"best {metric.label} {shown} by epoch {epoch}, median of {len(others)} trials {middle}"


def pruning(output_dir: Path) -> list[Listener]:
    """The listener that prunes this run, if it is a trial of a sweep that asks for that."""
    if os.environ.get(TRIAL_DIR) != str(output_dir):
        return []
    trial = read_trial(output_dir)
    return [Pruning(output_dir, trial)] if trial and trial.prune else []
