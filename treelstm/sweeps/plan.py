"""What a sweep is to run: named runs, a grid and seeds become named trials, or are refused by name.

Every trial's settings are checked before anything runs.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from typing import Any

from treelstm.config import Config, ConfigError, Settings, Value, did_you_mean, plain
from treelstm.history import metric_named
from treelstm.model.objectives import objective_of

PRUNERS = ("median", "hyperband")

FIELDS = {setting.name: setting for setting in dataclasses.fields(Config)}
OF_ONE_RUN = ("output_dir", "resume", "changes", "checkpoint", "compare_with", "max_hours")
_NOT_COMPARABLE = {"margin", "positive_margin", "temperature", "similarity_low", "similarity_high"}
_CORNERS = 4096  # of a search, at most, whose settings are tried
_LONGEST_NAME = 200  # bytes; file systems allow 255

Spec = str | Sequence[Value]  # of a searched setting: "low:high", "low:high:log", or its choices


@dataclass(frozen=True)
class Space:
    """The values that a searched setting may have: choices, or a range."""

    choices: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.choices or (self.low, self.high)


@dataclass(frozen=True)
class Plan:
    """What is to run: `fixed` trials by name, or `trials` in all, which `search` these settings."""

    base: Config  # one of the trials, for what they have in common
    fixed: dict[str, Config] = field(default_factory=dict)
    search: dict[str, Space] = field(default_factory=dict)
    trials: int = 0
    prune: str | None = None
    parallel: int = 1
    max_hours: float | None = None  # of the whole night

    @property
    def largest(self) -> list[Config]:
        """Of each pair of data directories, the trial with the largest model."""
        found: dict[tuple[str, str | None], Config] = {}
        for config in [*self.fixed.values(), *islice(_corners(self.base, self.search), _CORNERS)]:
            key = config.data_dir, config.validation_dir
            found[key] = max(found.get(key, config), config, key=_size)
        return [*found.values()]

    @property
    def metric(self) -> str:
        """The key of the number by which trials are compared; "" if they do not share one."""
        configs = [self.base, *self.fixed.values()]
        keys = {config.best_by or objective_of(config).best_by for config in configs}
        return keys.pop() if len(keys) == 1 else ""


def _size(config: Config) -> tuple[int, int]:
    states, inputs = config.hidden_dim, config.embedding_dim
    return 4 * states * (states + inputs) + (states + inputs) * config.output_dim, config.batch_size


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
    grid, search, runs = grid or {}, search or {}, runs or {}
    for name, number in (("seeds", seeds), ("trials", trials), ("parallel", parallel)):
        if number is not None and (type(number) is not int or not 1 <= number <= 10**6):
            raise ConfigError(f"{name} is {number!r}, expected a number of at least 1. Change it.")
    if prune is not None and prune not in PRUNERS:
        raise ConfigError(f"prune is {prune!r}, expected {' or '.join(PRUNERS)}. Change it.")
    settings = dict(settings)
    hours = Config(max_hours=settings.pop("max_hours", None)).max_hours
    _require_settings("the settings", settings)
    if search:
        if grid or runs or seeds > 1:
            remedy = "Write the grid's values as choices, name=a,b, or make two sweeps"
            raise ConfigError(f"a search cannot be combined with a grid, seeds or runs. {remedy}.")
        if trials is None:
            raise ConfigError("a search needs the number of its trials: set trials.")
        spaces, fixed = _spaces(settings, search), dict[str, Config]()
        first = {name: space.ends[0] for name, space in spaces.items()}
        base = Config.from_parameters({**settings, **first})
        for _ in islice(_corners(base, spaces), _CORNERS):
            pass  # each is a valid Config
    else:
        if trials is not None:
            raise ConfigError("trials counts those of a search. Name what to search, or leave it out.")
        spaces, fixed = {}, _named_trials(settings, grid, runs, seeds)
        base = next(iter(fixed.values()))
    plan = Plan(base, fixed, spaces, trials or len(fixed), prune, parallel, hours)
    if search or prune:
        of_runs = {name for run in runs.values() for name in run}
        _require_one_metric(plan, of_runs | grid.keys() | search.keys())
    return plan


def _require_settings(where: str, names: Mapping[str, Any]) -> None:
    for name in names:
        if name in OF_ONE_RUN:
            remedy = "Each trial has a directory of its own in sweep_dir, and goes on by itself"
            if name == "max_hours":
                remedy = "It is for the whole night: set it for all trials"
            raise ConfigError(f"{where} cannot hold {name}. {remedy}.")
        if name not in FIELDS:
            raise ConfigError(f"{where}: {name}: no such setting. {did_you_mean(name, FIELDS)}")


def _named_trials(
    given: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    runs: Mapping[str, Mapping[str, Any]],
    seeds: int,
) -> dict[str, Config]:
    """All combinations of runs, the grid's values and seeds, by readable names."""
    axes: list[list[tuple[str, Mapping[str, Any]]]] = []
    for name, settings in runs.items():
        _require_settings(f"run {name}", settings)
        if name != file_name(name) or name.startswith("."):
            raise ConfigError(f"run {name!r}: use letters, digits and _ + - = , . in its name.")
    if runs:
        axes.append([*runs.items()])
    _require_settings("the grid", grid)
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"the grid's {name} is {values!r}, expected a list of at least one value.")
        texts = [_text(name, value, values) for value in values]
        axes.append([(f"{name}={text}", {name: v}) for text, v in zip(texts, values, strict=True)])
    if seeds > 1:
        first = Config(seed=given.get("seed", Config.seed)).seed
        axes.append([(f"seed={n}", {"seed": n}) for n in range(first, first + seeds)])
    if not axes:
        raise ConfigError("no trials: give a grid, seeds, a search, or a plan with runs.")
    trials, names = dict[str, Config](), dict[str, str]()
    for parts in product(*axes):
        combined = {name: value for name, value in given.items() if seeds == 1 or name != "seed"}
        for _, settings in parts:
            if both := combined.keys() & settings.keys():
                what = "is set twice: for all trials, in the grid, in a run or by seeds. Keep one"
                raise ConfigError(f"{', '.join(sorted(both))} {what}.")
            combined |= settings
        name = ",".join(label for label, _ in parts)
        try:
            config = Config(**combined)
        except ConfigError as error:
            raise ConfigError(f"trial {name}: {error}") from error
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise ConfigError(
                f"the name {name} is too long for a directory. Name runs in a plan instead."
            )
        if other := names.get(name.casefold()):
            what = "a value stands there twice" if trials[other] == config else "both are one directory"
            raise ConfigError(f"trials {other} and {name}: {what}. Change one.")
        same = next((other for other, before in trials.items() if before == config), None)
        if same:
            raise ConfigError(f"trials {same} and {name} have the same settings. Remove one.")
        trials[name], names[name.casefold()] = config, name
    return trials


def file_name(text: str) -> str:
    """The text with _ for each character that a trial's name cannot hold."""
    return re.sub(r"[^\w.,=+-]", "_", text)


def _text(name: str, value: Any, values: Sequence[Any]) -> str:
    """A value in a trial's name; of paths the last part, if that tells them apart."""
    if isinstance(value, list | tuple):
        value = "+".join(map(str, value))
    elif isinstance(value, str) and "/" in value:
        lasts = {Path(str(each)).name for each in values}
        value = Path(value).name if len(lasts) == len(values) else value
    elif "float" in str(FIELDS[name].type) and isinstance(value, int | float):
        value = float(value)  # 1 and 1.0 are one value
        value = int(value) if value.is_integer() and abs(value) < 10**6 else value
    return file_name(str(value))


def _spaces(given: Mapping[str, Any], search: Mapping[str, Spec]) -> dict[str, Space]:
    _require_settings("the search", search)
    for name in search.keys() & given.keys():
        raise ConfigError(f"{name} is searched, and set for all trials. Keep one.")
    return {name: _space(name, spec) for name, spec in search.items()}


def _space(name: str, spec: Spec) -> Space:
    expected = f"the search of {name} is {spec!r}, expected low:high, low:high:log or a list of choices"
    if not isinstance(spec, str):
        if len(spec) < 2 or len(set(map(repr, spec))) < len(spec):
            raise ConfigError(f"{expected}, at least two and none twice.")
        if "tuple" in str(FIELDS[name].type):
            raise ConfigError(f"the search of {name}: its values are lists, which only a grid can try.")
        return Space((*spec,))
    kind = str(FIELDS[name].type).removesuffix(" | None")
    low, _, rest = spec.partition(":")
    high, _, log = rest.partition(":")
    try:
        ends = [{"int": int, "float": float}[kind](each) for each in (low, high)]
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{expected}; a range needs a setting that is a number.") from error
    if log not in ("", "log") or not ends[0] < ends[1] or (log and ends[0] <= 0):
        raise ConfigError(f"{expected}, the lower end first, and above 0 for log.")
    return Space(low=ends[0], high=ends[1], log=log == "log", whole=kind == "int")


def _corners(base: Config, search: Mapping[str, Space]) -> Iterator[Config]:
    """The trials at the ends of all ranges, and all choices."""
    for values in product(*(space.ends for space in search.values())) if search else ():
        yield with_values(base, dict(zip(search, values, strict=True)))


def with_values(base: Config, values: Mapping[str, Any]) -> Config:
    """The settings of a trial that tries these values."""
    return dataclasses.replace(base, **values)


def search_name(number: int, values: Mapping[str, Any]) -> str:
    """The name of a trial that a search has proposed."""
    texts = (f"{n}={v:.3g}" if isinstance(v, float) else f"{n}={v}" for n, v in values.items())
    return f"{number:03d},{file_name(','.join(texts))}"[:_LONGEST_NAME]


def _require_one_metric(plan: Plan, varied: set[str]) -> None:
    """A search and pruning compare trials by one number, which must mean the same for all."""
    if not plan.metric or "best_by" in varied or ("objective" in varied and not plan.base.best_by):
        text = "the trials are compared by different numbers of the history"
    elif plan.metric == "validation_loss" and (names := varied & (_NOT_COMPARABLE | {"objective"})):
        text = f"{', '.join(sorted(names))}: with other values, validation_loss means something else"
    else:
        metric_named(plan.metric)
        return
    remedy = 'Set best_by for all trials, such as "validation_average_precision"'
    raise ConfigError(f"{text}. {remedy}.")


def given_in(config: Config) -> Settings:
    """A trial's settings that differ from the defaults, as plain values."""
    found = {name: plain(getattr(config, name)) for name in FIELDS if name not in OF_ONE_RUN}
    return {name: value for name, value in found.items() if value != plain(FIELDS[name].default)}
