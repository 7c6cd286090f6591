"""Every setting of a run: name, default, unit, range, and whether a resumed run may change it.

Notebook parameters, command line flags and this dataclass share one set of names.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from treelstm.errors import UserError

Value = bool | int | float | str | list[str] | None  # of a setting, as JSON holds it
Settings = dict[str, Value]

PARAMETERS_MARK = "# Parameters"  # first line of a notebook's parameters cell and of papermill's


class ConfigError(UserError, ValueError):
    """A setting has an unknown name, a wrong type or a value out of range."""


def project_root() -> Path:
    """The directory that relative paths start from: the repository, else the working directory."""
    repository = Path(__file__).resolve().parent.parent
    return repository if (repository / "pyproject.toml").is_file() else Path.cwd()


def _setting(default: Any, help: str, *, computed: bool = False, **checks: Any) -> Any:
    """A field of Config. `computed` settings decide what is computed: a resume may not change them."""
    return field(default=default, metadata={"help": help, "computed": computed, **checks})


def _at_least(low: float) -> dict[str, Any]:
    return {"valid": lambda value: value >= low, "expected": f"at least {low}"}


def _is_resume(value: str | None) -> bool:
    return value is None or value == "auto" or value.endswith(".pt")


_POSITIVE: dict[str, Any] = {
    "valid": lambda value: 0 < value < math.inf,
    "expected": "more than 0, and finite",
}
_NAME: dict[str, Any] = {"valid": lambda value: bool(value.strip()), "expected": "a path"}
_SCHEDULES = (None, "cosine", "plateau")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the closest of the known names, closest first; "" where none is close."""
    close = difflib.get_close_matches(name, known)
    return f"Did you mean {' or '.join(close)}? " if close else ""


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What an encoder is besides its weights and vocabulary. Building, saving, exporting, importing and
    checking an encoder follow these fields: a new one is listed here and nowhere else.

    Raises:
        ConfigError: a value has the wrong type or is out of range; names the setting, the value
            and what is expected; or there is no setting of a name, which may be misspelt.
    """

    embedding_dim: int = _setting(128, "size of a symbol's embedding", computed=True, **_at_least(1))
    hidden_dim: int = _setting(256, "size of a node's state", computed=True, **_at_least(1))
    output_dim: int = _setting(512, "size of a tree's encoding", computed=True, **_at_least(1))
    precision: str = _setting(
        "float32",
        '"float32" or "bfloat16": of the states and products inside the trees; weights stay float32',
        computed=True,
        valid=lambda value: value in ("float32", "bfloat16"),
        expected='"float32" or "bfloat16"',
    )
    ignored_keys: tuple[str, ...] = _setting(
        ("plena_vorto", "parse_status", "parse_error", "parse_statistics", "category"),
        "keys of the ASTs that the model must not see",
        computed=True,
    )

    def __new__(cls, **parameters: Any) -> Self:
        known = [setting.name for setting in dataclasses.fields(cls)]
        for name in parameters:
            if name not in known:
                guess = did_you_mean(name, known)
                raise ConfigError(
                    f"{name}: no such setting. {guess}The settings are {', '.join(sorted(known))}."
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value = _converted(setting, getattr(self, setting.name))
            valid = setting.metadata.get("valid", lambda value: True)
            if not valid(value):
                expected = setting.metadata["expected"]
                raise ConfigError(f"{setting.name} is {value!r}, expected {expected}. Change it.")
            object.__setattr__(self, setting.name, value)

    @classmethod
    def among(cls, settings: Mapping[str, Any]) -> Self:
        """These settings, picked from among others, such as a checkpoint's.

        Raises:
            KeyError: one is not among them.
        """
        return cls(**{setting.name: settings[setting.name] for setting in dataclasses.fields(cls)})

    def to_dict(self) -> Settings:
        """All settings as plain values, for checkpoints and logs."""
        return {setting.name: plain(getattr(self, setting.name)) for setting in dataclasses.fields(self)}


@dataclass(frozen=True, kw_only=True)
class Config(EncoderSettings):
    """The settings of one run; relative paths mean the repository's root.

    Raises:
        ConfigError: a value has the wrong type or is out of range; names the setting, the value
            and what is expected.
    """

    data_dir: str = _setting("data/training_pairs", "directory of the training pairs", **_NAME)
    validation_dir: str | None = _setting(
        None, "directory of unseen pairs; None splits the training pairs"
    )
    output_dir: str = _setting("models/tree_lstm", "directory of checkpoints, history, log", **_NAME)
    resume: str | None = _setting(
        "auto",
        '"auto", a checkpoint\'s path, or None for a fresh start',
        valid=_is_resume,
        expected='"auto", the path of a .pt file, or None',
    )
    start_from: str | None = _setting(
        None, "a checkpoint whose weights and vocabulary a fresh run starts from; ignored on resume"
    )
    checkpoint: str = _setting("best", '"best" or the path of a checkpoint to evaluate', **_NAME)
    compare_with: str | None = _setting(
        None, "path of a second checkpoint to evaluate beside it; None takes the run's newest"
    )
    epochs: int = _setting(50, "train until this epoch", **_at_least(1))
    batch_size: int = _setting(16, "pairs per optimizer step", computed=True, **_at_least(1))
    learning_rate: float = _setting(1e-3, "of Adam, per step", computed=True, **_POSITIVE)
    lr_schedule: str | None = _setting(
        None,
        'None, "cosine" (to 0 at the last epoch) or "plateau" (halved after 5 epochs without gain)',
        computed=True,
        valid=lambda value: value in _SCHEDULES,
        expected='None, "cosine" or "plateau"',
    )
    warmup_steps: int = _setting(
        0, "steps over which learning_rate rises from near 0", computed=True, **_at_least(0)
    )
    margin: float = _setting(
        1.0, "distance beyond which dissimilar pairs cost nothing", computed=True, **_POSITIVE
    )
    dropout: float = _setting(
        0.1,
        "share of the root state set to 0 in training",
        computed=True,
        valid=lambda value: 0 <= value < 1,
        expected="at least 0 and under 1",
    )
    validation_fraction: float = _setting(
        0.1,
        "share of the pairs held out where validation_dir is None",
        computed=True,
        valid=lambda value: 0 < value < 1,
        expected="more than 0 and under 1",
    )
    seed: int = _setting(42, "of weights, order, dropout and split", computed=True, **_at_least(0))
    device: str = _setting(
        "auto",
        '"auto" (a GPU where there is one), "cpu", "cuda", "cuda:N"',
        valid=lambda value: value.split(":")[0] in ("auto", "cpu", "cuda"),
        expected='"auto", "cpu", "cuda" or "cuda:N"',
    )
    num_threads: int | None = _setting(
        None,
        "CPU threads; None takes torch's own choice, on resume the checkpoint's",
        valid=lambda value: value is None or value >= 1,
        expected="at least 1, or None",
    )
    checkpoint_every_seconds: float = _setting(
        60.0, "time between commits inside an epoch", **_at_least(0)
    )
    patience: int | None = _setting(
        None,
        "stop after this many epochs without a better validation loss; None never stops",
        valid=lambda value: value is None or value >= 1,
        expected="at least 1, or None",
    )
    keep: str | int = _setting(
        "all",
        'epoch checkpoints to keep: "all", or the last N and the best',
        valid=lambda value: value == "all" or (isinstance(value, int) and value >= 1),
        expected='"all" or a number of at least 1',
    )
    max_restarts: int = _setting(
        20, "times papermill --engine treelstm starts a kernel that died again", **_at_least(0)
    )
    ignore_preflight: bool = _setting(False, "train in spite of a preflight that says no-go")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Config:
        """The settings named in `parameters`, defaults for the others.

        Raises:
            ConfigError: a name is no setting; says which names come closest.
        """
        return cls(**parameters)

    @classmethod
    def from_notebook(
        cls, namespace: Mapping[str, Any], others: Mapping[str, Any] | None = None
    ) -> Config:
        """The settings that a notebook's parameters cell, and papermill after it, assigned.

        All others have the values of `others` (a checkpoint's settings, say), else the defaults.

        `namespace` is the notebook's `globals()`. Only names assigned in those two cells count,
        so nothing else that lives in the kernel disturbs; a name that is no setting is refused.

        Raises:
            ConfigError: as `from_parameters`.
        """
        names = _assigned_names(namespace.get("In", ()))
        return cls.from_parameters({**(others or {}), **{name: namespace[name] for name in names}})

    @property
    def data_path(self) -> Path:
        return project_root() / self.data_dir

    @property
    def validation_path(self) -> Path | None:
        return None if self.validation_dir is None else project_root() / self.validation_dir

    @property
    def output_path(self) -> Path:
        return project_root() / self.output_dir

    def fixed_on_resume(self) -> Settings:
        """The settings that decide what is computed, as plain values; a resume must find them equal.

        A cosine schedule's shape depends on `epochs`, which then counts among them.
        """
        names = [setting.name for setting in dataclasses.fields(self) if setting.metadata["computed"]]
        if self.lr_schedule == "cosine":
            names.append("epochs")
        if self.validation_dir is not None:
            names.remove("validation_fraction")
        return {name: plain(getattr(self, name)) for name in names}

    def flags(self) -> list[str]:
        """The settings that differ from the defaults, as words of the command line."""
        words = []
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if value != setting.default:
                words.append(f"--{setting.name.replace('_', '-')}")
                if not isinstance(value, bool):
                    words += map(str, value if isinstance(value, tuple) else [value])
        return words


def plain(value: Any) -> Value:
    """`value` as JSON and a restricted unpickler would give it back."""
    return list(value) if isinstance(value, tuple) else value


def _converted(setting: dataclasses.Field[Any], value: Any) -> Any:
    """`value` as the setting's type: 1 is a float too, a list is a tuple, a Path is a string."""
    expected = str(setting.type)
    if isinstance(value, Path):
        value = str(value)
    if value is None and "None" in expected:
        return None
    if isinstance(value, list | tuple) and expected.startswith("tuple"):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(value, bool):
        if expected == "bool":
            return value  # elsewhere True is an int to Python, never a number to a user
    elif isinstance(value, int | float) and "float" in expected:
        return float(value)
    elif (isinstance(value, int) and "int" in expected) or (
        isinstance(value, str) and "str" in expected.replace("tuple[str, ...]", "")
    ):
        return value
    raise ConfigError(f"{setting.name} is {value!r}, expected {expected}. Change it.")


def _assigned_names(cells: Iterable[str]) -> list[str]:
    """Names assigned in the newest parameters cell and in the cell papermill put after it."""
    marked = [cell for cell in cells if cell.startswith(PARAMETERS_MARK)]
    own = max((i for i, cell in enumerate(marked) if cell.splitlines()[0] != PARAMETERS_MARK), default=0)
    names: dict[str, None] = {}
    for cell in marked[own:]:
        for statement in ast.parse(cell).body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names[node.id] = None
    return list(names)
