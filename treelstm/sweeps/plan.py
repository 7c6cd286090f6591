"""What a sweep is to run: named runs, a grid and seeds become named trials, or are refused by name.

Every trial's settings are checked before anything runs.
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import msgspec

from treelstm.config import Config, ConfigError, Settings, Value, did_you_mean, plain
from treelstm.history import metric_named
from treelstm.model.objectives import objective_of
from treelstm.run.changes import DECIDE_LOSS
from treelstm.sweeps.journal import optuna

PRUNERS = ("median", "hyperband")

FIELDS = {setting.name: setting for setting in dataclasses.fields(Config)}
OF_ONE_RUN = ("output_dir", "resume", "changes", "checkpoint", "compare_with", "max_hours")
_CORNERS = 4096  # of a search, at most, whose settings are tried
_LONGEST_NAME = 200  # bytes; file systems allow 255

Spec = str | Sequence[Value]  # of a searched setting: "low:high", "low:high:log", or its choices


class _File(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The entries of a plan in a TOML file."""

    settings: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    search: dict[str, str | list[Any]] = {}
    run: list[dict[str, Any]] = []
    seeds: int | None = None
    trials: int | None = None
    prune: str | None = None
    parallel: int | None = None
    sweep_dir: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is to run: `fixed` trials by name, or `trials` in all, which `search` these settings."""

    fixed: dict[str, Config]
    search: dict[str, Any]  # Optuna's distributions
    configs: list[Config]  # all trials; of a search, those at the ends of all ranges
    trials: int
    prune: str | None
    parallel: int
    max_hours: float | None  # of the whole night

    @property
    def base(self) -> Config:
        """One of the trials, for what they have in common."""
        return self.configs[0]

    @property
    def metric(self) -> str:
        """The key of the number by which trials are compared; "" if they do not share one."""
        keys = {config.best_by or objective_of(config).best_by for config in self.configs}
        return keys.pop() if len(keys) == 1 else ""


def make_plan(
    settings: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]] | None = None,
    search: Mapping[str, Spec] | None = None,
    runs: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int = 1,
    trials: int | None = None,
    prune: str | None = None,
    parallel: int = 1,
) -> Plan:
    """The plan of these words; ConfigError names what is wrong with them."""
    grid, search, runs, settings = grid or {}, search or {}, runs or {}, dict(settings)
    for name, number in (("seeds", seeds), ("trials", trials), ("parallel", parallel)):
        if number is not None and (type(number) is not int or not 1 <= number <= 10**6):
            raise ConfigError(f"{name} is {number!r}, expected a number of at least 1. Change it.")
    if prune is not None and prune not in PRUNERS:
        raise ConfigError(f"prune is {prune!r}, expected {' or '.join(PRUNERS)}. Change it.")
    hours = Config(max_hours=settings.pop("max_hours", None)).max_hours
    given = {"the settings": settings, "the grid": grid, "the search": search}
    given |= {f"run {name}": of_run for name, of_run in runs.items()}
    for where, name in ((where, name) for where, its in given.items() for name in its):
        if name not in FIELDS:
            raise ConfigError(f"{where}: {name}: no such setting. {did_you_mean(name, FIELDS)}")
        if name in OF_ONE_RUN:
            remedy = "Each trial has its own directory and goes on by itself; max_hours is for all"
            raise ConfigError(f"{where} cannot hold {name}. {remedy}.")
    if search and (grid or runs or seeds > 1):
        remedy = "Write the grid's values as choices, name=a,b, or make two sweeps"
        raise ConfigError(f"a search cannot be combined with a grid, seeds or runs. {remedy}.")
    if bool(search) != (trials is not None):
        raise ConfigError("trials counts those of a search: set trials for a search, and only then.")
    spaces = {name: _space(name, spec) for name, spec in search.items()}
    ends = {n: getattr(each, "choices", None) or (each.low, each.high) for n, each in spaces.items()}
    combined = _combinations(settings, {**grid, **ends}, runs, seeds)
    fixed = {} if search else _by_name(combined)
    configs = [*fixed.values()] or [config for _, config in islice(combined, _CORNERS)]
    plan = Plan(fixed, spaces, configs, trials or len(fixed), prune, parallel, hours)
    if search or prune:
        _require_one_metric(plan)
    return plan


def _combinations(
    settings: dict[str, Any],
    grid: Mapping[str, Sequence[Any]],
    runs: Mapping[str, Mapping[str, Any]],
    seeds: int,
) -> Iterator[tuple[str, Config]]:
    """All combinations of runs, the grid's values and seeds, with readable names."""
    axes: list[list[tuple[str, Mapping[str, Any]]]] = [[*runs.items()]] if runs else []
    for name in runs:
        if name != _file_name(name) or name.startswith("."):
            raise ConfigError(f"run {name!r}: use letters, digits and _ + - = , . in its name.")
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"the grid's {name} is {values!r}, expected a list of at least one value.")
        axes.append([(f"{name}={_text(name, value, values)}", {name: value}) for value in values])
    if seeds > 1:
        first = Config(seed=settings.pop("seed", Config.seed)).seed
        axes.append([(f"seed={n}", {"seed": n}) for n in range(first, first + seeds)])
    if not axes:
        raise ConfigError("no trials: give a grid, seeds, a search, or a plan with runs.")
    for parts in product(*axes):
        name, combined = ",".join(label for label, _ in parts), settings
        for _, its in parts:
            if both := combined.keys() & its.keys():
                what = "is set twice: for all trials, in the grid, search, a run or by seeds. Keep one"
                raise ConfigError(f"{', '.join(sorted(both))} {what}.")
            combined = {**combined, **its}
        try:
            yield name, Config(**combined)
        except ConfigError as error:
            raise ConfigError(f"trial {name}: {error}") from error


def _by_name(trials: Iterable[tuple[str, Config]]) -> dict[str, Config]:
    """The trials, each of which needs settings and a directory of its own."""
    found, names = dict[str, Config](), dict[object, str]()
    for name, config in trials:
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise ConfigError(f"{name} is too long for a directory. Name the runs in a plan.")
        if other := names.get(config) or names.get(name.casefold()):
            what = "have the same settings" if found[other] == config else "are one directory"
            raise ConfigError(f"trials {other} and {name} {what}. Change one.")
        names[config] = names[name.casefold()] = name
        found[name] = config
    return found


def _file_name(text: str) -> str:
    """The text with _ for each character that a trial's name cannot hold."""
    return re.sub(r"[^\w.,=+-]", "_", text)


def _text(name: str, value: Any, values: Sequence[Any]) -> str:
    """A value in a trial's name; of paths the last part, if that tells them apart."""
    if isinstance(value, list | tuple):
        value = "+".join(map(str, value))
    elif isinstance(value, str) and "/" in value:
        lasts = {Path(str(each)).name for each in values}
        value = Path(value).name if len(lasts) == len(values) else value
    elif isinstance(value, float) or (isinstance(value, int) and "float" in str(FIELDS[name].type)):
        value = str(float(value)).removesuffix(".0")  # 1 and 1.0 are one value
    return _file_name(str(value))


def _space(name: str, spec: Spec) -> Any:
    """Optuna's distribution of a searched setting."""
    distributions = optuna().distributions
    expected = "low:high or low:high:log of a setting that is a number, the lower end first and above 0"
    expected += " for log, or a list of at least two choices, none twice; lists only a grid can try"
    wrong = ConfigError(f"the search of {name} is {spec!r}, expected {expected}.")
    kind = str(FIELDS[name].type).removesuffix(" | None")
    try:
        if isinstance(spec, str):
            low, high, *log = spec.split(":")
            number = {"int": int, "float": float}[kind]
            its = distributions.IntDistribution if kind == "int" else distributions.FloatDistribution
            if log in ([], ["log"]) and number(low) < number(high):
                return its(number(low), number(high), log=bool(log))
        elif len(set(map(repr, spec))) == len(spec) > 1 and "tuple" not in kind:
            return distributions.CategoricalDistribution((*spec,))
    except (ValueError, KeyError, TypeError) as error:
        raise wrong from error
    raise wrong


def search_name(number: int, values: Mapping[str, Any]) -> str:
    """The name of a trial that a search has proposed."""
    texts = (f"{n}={v:.3g}" if isinstance(v, float) else f"{n}={v}" for n, v in values.items())
    return f"{number:03d},{_file_name(','.join(texts))}"[:_LONGEST_NAME]


def _require_one_metric(plan: Plan) -> None:
    """A search and pruning compare trials by one number, which must mean the same for all."""
    names = [n for n in sorted(DECIDE_LOSS) if len({getattr(each, n) for each in plan.configs}) > 1]
    text = "the trials are compared by different numbers of the history"
    if plan.metric == "validation_loss" and names:
        text = f"{', '.join(names)}: with other values, validation_loss means something else"
    elif plan.metric:
        metric_named(plan.metric)
        return
    remedy = 'Set best_by for all trials, such as "validation_average_precision"'
    raise ConfigError(f"{text}. {remedy}.")


def given_in(config: Config) -> Settings:
    """A trial's settings that differ from the defaults, as plain values."""
    found = {name: plain(getattr(config, name)) for name in FIELDS if name not in OF_ONE_RUN}
    return {name: value for name, value in found.items() if value != plain(FIELDS[name].default)}


def read_plan(path: Path) -> dict[str, Any]:
    """The entries of a plan, its [[run]] tables as `runs` by name."""
    try:
        file = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        hint = f"It can hold {', '.join(_File.__struct_fields__)}; settings stand below [settings]"
        raise ConfigError(f"{path} is no plan: {error}. {hint}.") from error
    plan, runs = dict(msgspec.to_builtins(file)), dict[str, Settings]()
    for run in plan.pop("run", ()):
        name = run.pop("name", None)
        if not isinstance(name, str) or name in runs:
            raise ConfigError(f'{path}: each [[run]] needs a name of its own, as in name = "wide".')
        runs[name] = run
    return plan | {"runs": runs}
