"""What Optuna does for a sweep: it proposes settings, and its journal records the trials that ended.

Studies are made from the trials' own files. So a proposal depends on what those hold alone, and is the
same whenever it is made again; and a journal that is lost or damaged is made anew.
"""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from treelstm.errors import UserError
from treelstm.history import Outcome, best, metric_named, value_of
from treelstm.run.summary import FAILED
from treelstm.sweeps.trials import Trial, history_of

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


def direction_of(metric: str) -> str:
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
    study = optuna().create_study(direction=direction_of(metric), sampler=sampler)
    for trial in trials:
        if trial.ended:
            study.add_trial(_frozen(sweep_dir, trial, space, metric))
    return dict(study.ask(dict(space)).params)


def record(sweep_dir: Path, trials: Sequence[Trial], space: Mapping[str, Any], metric: str) -> None:
    """Brings the journal up to date, where there is Optuna and one `metric`. It ends no sweep: what
    cannot be written is written later, and a journal that cannot be read is set aside and made anew.
    """
    if not metric or find_spec("optuna") is None:
        return
    path = sweep_dir / JOURNAL
    ended = [_frozen(sweep_dir, trial, space, metric) for trial in trials if trial.ended]
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
    _clear_leftovers(path)
    storages = optuna().storages
    storage = storages.JournalStorage(storages.journal.JournalFileBackend(str(path)))
    options = {"storage": storage, "study_name": STUDY}
    try:
        study = optuna().load_study(**options)
    except KeyError:  # create_study would add a line each time
        study = optuna().create_study(**options, direction=direction_of(metric))

    def told(trial: Any) -> tuple[object, ...]:
        return trial.user_attrs.get("name"), trial.state, len(trial.intermediate_values)

    known = {told(trial) for trial in study.get_trials(deepcopy=False)}
    for trial in ended:
        if told(trial) not in known:
            study.add_trial(trial)


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
