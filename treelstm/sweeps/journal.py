"""What Optuna does for a sweep: it proposes settings, prunes, and its journal records what has ended.

Studies are made from the trials' own files. So a proposal depends on what those hold alone, and is the
same whenever it is made again; and a journal that is lost or damaged is made anew.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from treelstm.errors import UserError
from treelstm.history import EpochRecord, Outcome, best, metric_named, value_of
from treelstm.run.listener import Listener, Prune
from treelstm.run.state import Run
from treelstm.run.summary import FAILED
from treelstm.sweeps.trials import TRIAL_DIR, Trial, history_of, read_trials

log = logging.getLogger("treelstm")

JOURNAL, STUDY = "journal.log", "sweep"


class NeedsOptuna(UserError, ImportError):
    """Optuna is not installed."""


def optuna() -> Any:
    """The package, which warns but does not chat."""
    if find_spec("optuna") is None:
        remedy = 'pip install "treelstm[sweep]"'
        raise NeedsOptuna(f"search, prune and the journal need Optuna: {remedy}.")
    import optuna as package

    package.logging.set_verbosity(package.logging.WARNING)
    return package


def _direction(metric: str) -> str:
    return "minimize" if metric_named(metric).better == "lower" else "maximize"


def _frozen(sweep_dir: Path, trial: Trial, space: Mapping[str, Any], metric: str) -> Any:
    """A trial that ended, as Optuna knows it: its values by epoch, and its best one by `best_by`."""
    states, history = optuna().trial.TrialState, history_of(sweep_dir / trial.name)
    record, settings = best(history), trial.config.to_dict()
    state = states.PRUNED if trial.outcome == Outcome.PRUNED else states.COMPLETE
    if trial.outcome == FAILED or record is None:  # None: its files were removed
        state, record = states.FAIL, None
    return optuna().trial.create_trial(
        state=state,
        value=record and value_of(record, metric),
        params={name: settings[name] for name in space},
        distributions=dict(space),
        intermediate_values={each["epoch"]: value_of(each, metric) for each in history},
        user_attrs={"name": trial.name},
    )


def proposal(
    sweep_dir: Path, trials: Sequence[Trial], space: Mapping[str, Any], metric: str, seed: int
) -> dict[str, Any]:
    """The settings of the next trial, by Optuna's TPE: a function of the trials before it."""
    sampler = optuna().samplers.TPESampler(seed=(seed + len(trials)) % 2**32)
    study = optuna().create_study(direction=_direction(metric), sampler=sampler)
    for trial in trials:
        if trial.outcome:
            study.add_trial(_frozen(sweep_dir, trial, space, metric))
    return dict(study.ask(dict(space)).params)


def record(sweep_dir: Path, trials: Sequence[Trial], space: Mapping[str, Any], metric: str) -> None:
    """Brings the journal up to date, where there is Optuna and one `metric`. It ends no sweep: what
    cannot be written is written later, and a journal that cannot be read is set aside and made anew.
    """
    if not metric or find_spec("optuna") is None:
        return
    path = sweep_dir / JOURNAL
    ended = [_frozen(sweep_dir, trial, space, metric) for trial in trials if trial.outcome]
    try:
        try:
            _write(path, ended, metric)
        except OSError:
            raise
        except Exception as error:  # whatever a damaged line makes of it
            number = len([*sweep_dir.glob("journal.damaged*.log")])
            aside = path.replace(path.with_name(f"journal.damaged-{number}.log"))
            log.warning("%s is damaged (%s): set aside as %s, made anew", path, error, aside.name)
            _write(path, ended, metric)
    except OSError as error:
        log.warning("%s is behind: %s. It is brought up to date later", path, error.strerror)


def _write(path: Path, ended: Sequence[Any], metric: str) -> None:
    """Adds the trials that are not there. One that ended again, after more epochs, is there twice."""
    # What a killed sweep left: a lock, for which Optuna would wait 30 s, and a part of a line.
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    storages = optuna().storages
    storage = storages.JournalStorage(storages.journal.JournalFileBackend(str(path)))
    options = {"storage": storage, "study_name": STUDY}
    try:
        study = optuna().load_study(**options)
    except KeyError:  # create_study would add a line each time
        study = optuna().create_study(**options, direction=_direction(metric))

    def told(trial: Any) -> tuple[object, ...]:
        return trial.user_attrs.get("name"), trial.state, len(trial.intermediate_values)

    known = {told(trial) for trial in study.get_trials(deepcopy=False)}
    for trial in ended:
        if told(trial) not in known:
            study.add_trial(trial)


class Pruning(Listener):
    """In a trial's kernel: ends a hopeless trial at an epoch's end, by Optuna's pruners.

    Compares it with the trials that had ended when it began, so that a kernel that is started again
    decides as the one before it would have.
    """

    def __init__(self, sweep_dir: Path, trial: Trial) -> None:
        self._sweep_dir, self._trial = sweep_dir, trial

    def on_start(self, run: Run) -> None:
        self._run = run
        if run.outcome is not None:
            return
        pruners, states = optuna().pruners, optuna().trial.TrialState
        pruner = pruners.MedianPruner()
        if self._trial.prune == "hyperband":
            pruner = pruners.HyperbandPruner(max_resource=run.config.epochs)
        study = optuna().create_study(study_name=STUDY, direction=_direction(run.best_by), pruner=pruner)
        names = self._trial.peers
        peers = {t.number: t for t in read_trials(self._sweep_dir).values() if t.name in names}
        for number in range(max([*peers, self._trial.number]) + 1):  # Hyperband goes by the numbers
            asked = study.ask()
            if number == self._trial.number:
                self._asked = asked
            elif number in peers:
                peer = _frozen(self._sweep_dir, peers[number], {}, run.best_by)
                for epoch, value in peer.intermediate_values.items():
                    _is_hopeless(asked, epoch, value)
                value = peer.value if peer.state is states.COMPLETE else None
                study.tell(asked, value, state=peer.state)
        for record in run.history[:-1]:
            _is_hopeless(self._asked, record["epoch"], value_of(record, run.best_by))
        for record in run.history[-1:]:
            self.on_epoch(record)

    def on_epoch(self, record: EpochRecord) -> None:
        run, epoch = self._run, record["epoch"]
        if run.outcome is None and _is_hopeless(self._asked, epoch, value_of(record, run.best_by)):
            metric, among = metric_named(run.best_by), len(self._trial.peers)
            found = f"best {metric.label} {metric.text(best(run.history) or record)} by epoch {epoch}"
            raise Prune(f"{found}, hopeless among {among} earlier trials ({self._trial.prune})")


def _is_hopeless(asked: Any, epoch: int, value: float) -> bool:
    """The pruner's word on a trial after this epoch, which the study remembers (Hyperband its rungs)."""
    asked.report(value, epoch)
    return bool(asked.should_prune())


def pruning(output_dir: Path) -> list[Listener]:
    """The listener that prunes this run, if it is a trial of a sweep that asks for that."""
    if os.environ.get(TRIAL_DIR) != str(output_dir):
        return []
    trial = read_trials(output_dir.parent).get(output_dir.name)
    return [Pruning(output_dir.parent, trial)] if trial and trial.prune else []
