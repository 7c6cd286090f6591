"""The words of `python -m treelstm sweep`, and of a plan in a TOML file, as `make_plan` takes them."""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from treelstm.config import ConfigError, Settings
from treelstm.sweeps.plan import FIELDS

_BOOLS = {"true": True, "false": False}


class _File(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The entries of a plan."""

    settings: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    search: dict[str, str | list[Any]] = {}
    run: list[dict[str, Any]] = []
    seeds: int = 0
    trials: int = 0
    prune: str = ""
    parallel: int = 0
    sweep_dir: str = ""


def from_flags(words: dict[str, Any], value: Callable[[str, Any], Any]) -> dict[str, Any]:
    """What the flags say; `value` reads a setting's text."""

    def read(name: str, text: str) -> Any:
        is_bool = name in FIELDS and FIELDS[name].type == "bool"
        return _BOOLS.get(text.lower(), text) if is_bool else value(name, text)

    def choices(name: str, text: str) -> list[Any]:
        return [read(name, each) for each in text.split(",")] if text else []

    said = dict(words)
    if "sweep_dir" in words:
        said["sweep_dir"] = value("sweep_dir", words["sweep_dir"])
    if "grid" in words:
        said["grid"] = {name: choices(name, text) for name, text in _pairs("grid", words["grid"])}
    if "search" in words:
        pairs = _pairs("search", words["search"])
        said["search"] = {name: text if ":" in text else choices(name, text) for name, text in pairs}
    return said


def _pairs(flag: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    found = dict[str, str]()
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name in found:
            expected = "each setting once, as name=value,value"
            raise ConfigError(f"--{flag} {text}: expected {expected}. Correct it.")
        found[name] = values
    return [*found.items()]


def with_plan(path: Path, said: dict[str, Any], settings: Settings) -> tuple[dict[str, Any], Settings]:
    """What flags and file say together; ConfigError where the file is wrong or both say the same."""
    plan = read_plan(path)
    of_plan = plan.pop("settings", {})
    for name in [*(plan.keys() & said.keys()), *(of_plan.keys() & settings.keys())]:
        raise ConfigError(f"{name} stands in {path} and among the flags. Keep one.")
    return {"sweep_dir": f"models/{path.stem}", **plan, **said}, of_plan | settings


def read_plan(path: Path) -> dict[str, Any]:
    """The entries of a plan, its [[run]] tables as `runs` by name."""
    try:
        file = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        hint = f"It can hold {', '.join(_File.__struct_fields__)}; settings stand below [settings]"
        raise ConfigError(f"{path} is no plan: {error}. {hint}.") from error
    plan = dict(msgspec.to_builtins(file))
    runs = dict[str, Settings]()
    for run in plan.pop("run", []):
        name = run.pop("name", None)
        if not isinstance(name, str) or name in runs:
            raise ConfigError(f'{path}: each [[run]] needs a name of its own, as in name = "wide".')
        runs[name] = run
    return plan | ({"runs": runs} if runs else {})
