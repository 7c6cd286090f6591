"""What Optuna does for a sweep: it proposes settings, and its journal records the trials.

Studies are made from the trials' own files. So a proposal depends on what those hold alone, and is the
same whenever it is made again; and a journal that is lost or damaged is made anew.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from treelstm.config import Value
from treelstm.errors import UserError
from treelstm.history import Outcome, best, metric_named, value_of
from treelstm.run.summary import FAILED
from treelstm.sweeps.plan import Space
from treelstm.sweeps.trials import Trial, history_of

log = logging.getLogger("treelstm")

JOURNAL, STUDY = "journal.log", "sweep"


class NeedsOptuna(UserError, ImportError):
    """Optuna is not installed."""


def optuna() -> Any:
    """The package, which warns but does not chat."""
    try:
        import optuna as package
    except ImportError as error:
        remedy = 'pip install "treelstm[sweep]"'
        raise NeedsOptuna(f"search, prune and the journal need Optuna: {remedy}.") from error
    package.logging.set_verbosity(package.logging.WARNING)
    return package


def is_there() -> bool:
    """Whether there is Optuna, and so a journal."""
    try:
        optuna()
    except NeedsOptuna:
        return False
    return True


def direction_of(metric: str) -> str:
    return "minimize" if metric_named(metric).better == "lower" else "maximize"


def _distribution(space: Space) -> Any:
    package = optuna().distributions
    if space.choices:
        return package.CategoricalDistribution(space.choices)
    kind = package.IntDistribution if space.whole else package.FloatDistribution
    return kind(space.low, space.high, log=space.log)


def _frozen(sweep_dir: Path, trial: Trial, space: Mapping[str, Space], metric: str) -> Any:
    """A trial as Optuna knows it: its values by epoch, and its best one by `best_by`."""
    states, history = optuna().trial.TrialState, history_of(sweep_dir / trial.name)
    record, settings = best(history), trial.config.to_dict()
    state = {None: states.RUNNING, FAILED: states.FAIL, Outcome.PRUNED: states.PRUNED}.get(
        trial.outcome, states.COMPLETE
    )
    if state is states.COMPLETE and record is None:  # its files were removed
        state = states.FAIL
    return optuna().trial.create_trial(
        state=state,
        value=value_of(record, metric) if record and state in (states.COMPLETE, states.PRUNED) else None,
        params={name: settings[name] for name in space},
        distributions={name: _distribution(each) for name, each in space.items()},
        intermediate_values={each["epoch"]: value_of(each, metric) for each in history},
        user_attrs={"name": trial.name},
    )


def proposal(
    sweep_dir: Path, trials: Sequence[Trial], space: Mapping[str, Space], metric: str, seed: int
) -> dict[str, Value]:
    """The settings of the next trial, by Optuna's TPE: a function of the trials before it."""
    package = optuna()
    sampler = package.samplers.TPESampler(seed=(seed + len(trials)) % 2**32)
    study = package.create_study(direction=direction_of(metric), sampler=sampler)
    for trial in trials:
        study.add_trial(_frozen(sweep_dir, trial, space, metric))
    asked = study.ask({name: _distribution(each) for name, each in space.items()})
    return dict(asked.params)


def record(sweep_dir: Path, trials: Sequence[Trial], space: Mapping[str, Space], metric: str) -> None:
    """Brings the journal up to date. It ends no sweep: what cannot be written is written later, and a
    journal that cannot be read is set aside and made anew, as far as these trials go.
    """
    path = sweep_dir / JOURNAL
    known = [(trial.name, _frozen(sweep_dir, trial, space, metric)) for trial in trials]
    try:
        try:
            _write(path, known, metric)
        except OSError:
            raise
        except Exception as error:  # whatever a damaged line makes of it
            number = len([*sweep_dir.glob("journal.damaged*.log")])
            aside = path.replace(path.with_name(f"journal.damaged-{number}.log"))
            log.warning("%s is damaged (%s): set aside as %s, made anew", path, error, aside.name)
            _write(path, known, metric)
    except OSError as error:
        log.warning("%s is behind: %s. It is brought up to date later", path, error.strerror)


def _write(path: Path, trials: Sequence[tuple[str, Any]], metric: str) -> None:
    _clear_leftovers(path)
    storages = optuna().storages
    storage = storages.JournalStorage(storages.journal.JournalFileBackend(str(path)))
    options = {"storage": storage, "study_name": STUDY}
    try:
        study = optuna().load_study(**options)
    except KeyError:  # create_study would add a line each time
        study = optuna().create_study(**options, direction=direction_of(metric))
    known = {trial.user_attrs.get("name"): trial for trial in study.get_trials(deepcopy=False)}
    for name, now in trials:
        before = known.get(name)
        if before is None or (before.state.is_finished() and before.state != now.state):
            study.add_trial(now)  # also a failed one that is tried again
        elif not before.state.is_finished():
            for epoch in sorted(now.intermediate_values.keys() - before.intermediate_values.keys()):
                value = now.intermediate_values[epoch]
                storage.set_trial_intermediate_value(before._trial_id, epoch, value)
            if now.state.is_finished():
                values = None if now.value is None else [now.value]
                storage.set_trial_state_values(before._trial_id, state=now.state, values=values)


def _clear_leftovers(path: Path) -> None:
    """Removes what a killed sweep left: the journal's lock, for which Optuna would wait 30 s, and a part
    of a line, to which it would append.
    """
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        with path.open("rb+") as file:
            content = file.read()
            if not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
