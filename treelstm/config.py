"""Every setting of a run: name, default, unit, range, and whether a resumed run may change it.

Notebook parameters, command line flags and this dataclass share one set of names.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from treelstm.errors import ConfigError as ConfigError
from treelstm.night import SETTINGS, begun_before, tell_engine
from treelstm.parameters import assigned

Value = bool | int | float | str | list[str] | None  # of a setting, as JSON holds it
Settings = dict[str, Value]

# What parsers write beside the tree. A list's name stands for its keys in the setting ignored_keys.
KEY_LISTS: dict[str, tuple[str, ...]] = {
    name: tuple(keys.split())
    for name, keys in {
        "esperanto": "plena_vorto parse_status parse_error parse_statistics category",
        "estree": "start end range loc raw extra errors tokens comments leadingComments innerComments "
        "trailingComments sourceFile",
        "python": "lineno col_offset end_lineno end_col_offset ctx type_comment type_ignores",
        "tree-sitter": "start_byte end_byte start_point end_point start_row start_column end_row "
        "end_column startByte endByte startPoint endPoint startIndex endIndex startPosition endPosition "
        "start end range id typeId kind_id grammarId grammar_id parseState nextParseState",
        "ud": "id head deps misc start_char end_char start end token_id head_token_id sent_id index "
        "characterOffsetBegin characterOffsetEnd before after",
    }.items()
}


def project_root() -> Path:
    """The directory that relative paths start from: the repository, else the working directory."""
    repository = Path(__file__).resolve().parent.parent
    return repository if (repository / "pyproject.toml").is_file() else Path.cwd()


def from_root(path: str | Path) -> Path:
    """A setting's path: relative to `project_root`, absolute, or from the home directory (~)."""
    try:
        return project_root() / Path(path).expanduser()
    except RuntimeError as error:
        words = f"{path}: this user has no home directory. Write the path without ~."
        raise ConfigError(words) from error


def as_setting(path: Path) -> str:
    """An absolute path as one writes it in a page: from `project_root`, if it is below it."""
    root = project_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def require_config(config: object) -> None:
    """Raises ConfigError if it is anything else than a Config."""
    if not isinstance(config, Config):
        raise ConfigError(f"expected a treelstm.Config(...), found {config!r:.60}.")


_Check = tuple[Callable[[Any], bool], str]  # whether a value, not None, is valid; in words
_MOST = 10**18  # what torch and the file system count with


def _at_least(low: int) -> _Check:
    return lambda value: low <= value <= _MOST, f"at least {low} and at most 10**18"


def _one_of(*values: str) -> _Check:
    return lambda value: value in values, " or ".join(f'"{value}"' for value in values)


_ANY: _Check = (lambda value: True, "")
_POSITIVE: _Check = (lambda value: 0 < value < math.inf, "more than 0, and finite")
_FINITE: _Check = (math.isfinite, "a finite number")
_TEMPERATURE: _Check = (lambda value: 0.001 <= value <= 1000, "0.001 to 1000")
_NOT_NEGATIVE: _Check = (lambda value: value >= 0, "at least 0")
_UNDER_1: _Check = (lambda value: 0 <= value < 1, "at least 0 and under 1")
_SHARE: _Check = (lambda value: 0 < value < 1, "more than 0 and under 1")
_THREADS: _Check = (lambda value: 1 <= value <= 1024, "1 to 1024")
_COUNT = _at_least(1)
_KEPT: _Check = (
    lambda value: value == "all" or (isinstance(value, int) and _COUNT[0](value)),
    '"all" or a number of at least 1',
)
_PATH: _Check = (lambda value: bool(value.strip()) and "\0" not in value, "a path")
_RESUME: _Check = (
    lambda value: value == "auto" or value.endswith(".pt"),
    '"auto" or the path of a .pt file',
)
_DEVICE: _Check = (
    lambda value: bool(re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value)),
    '"auto", "cpu", "cuda" or "cuda:N"',
)


def _free(default: Any, help: str, check: _Check = _ANY, fixed: bool = False) -> Any:
    """A field of Config. `fixed` ones decide what is computed: a resume may not change them."""
    return field(default=default, metadata={"help": help, "check": check, "fixed": fixed})


_fixed = functools.partial(_free, fixed=True)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the closest of the known names, closest first; "" where none is close."""
    close = difflib.get_close_matches(name, known)
    return f"Did you mean {' or '.join(close)}? " if close else ""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Fields whose values are checked.

    Raises:
        ConfigError: a value has the wrong type or is out of range (names the setting, the value and what
            is expected), or a name is unknown (names the closest ones).
    """

    _given: ClassVar[dict[str, Any]] = {}  # what `from_notebook` read last

    def __new__(cls, **parameters: Any) -> Self:
        known = sorted(setting.name for setting in dataclasses.fields(cls))
        for name in parameters:
            if name not in known:
                listed = f"{did_you_mean(name, known)}The settings are {', '.join(known)}."
                raise ConfigError(f"{name}: no such setting. {listed}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value = _converted(setting, getattr(self, setting.name))
            valid, expected = setting.metadata["check"]
            if value is not None and not valid(value):
                expected += ", or None" if "None" in str(setting.type) else ""
                raise ConfigError(f"{setting.name} is {value!r}, expected {expected}. Change it.")
            object.__setattr__(self, setting.name, value)

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """What a notebook's parameters cells assign; `namespace` is its `globals()`."""
        return cls(**cls._read(namespace))

    @classmethod
    def _read(cls, namespace: Mapping[str, Any]) -> dict[str, Any]:
        cls._given = assigned(namespace, [setting.name for setting in dataclasses.fields(cls)])
        return cls._given

    def require_current(self, namespace: Mapping[str, Any]) -> None:
        """Raises ConfigError if the parameters have changed since `from_notebook` read them."""
        before, names = self._given, [setting.name for setting in dataclasses.fields(self)]
        now = assigned(namespace, names)
        told = {name: [repr(each.get(name, "not set")) for each in (before, now)] for name in names}
        changed = [f"{name} was {old}, is {new} now" for name, (old, new) in told.items() if old != new]
        if changed:
            found = f"the parameters have changed since they were read: {'; '.join(changed)}"
            raise ConfigError(f"{found}. Run the cell with from_notebook(globals()) and those below it.")


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(Parameters):
    """What an encoder is besides its weights and vocabulary. Building, saving, exporting, importing and
    checking an encoder follow these fields: a new one is listed here and nowhere else.
    """

    embedding_dim: int = _fixed(128, "size of a symbol's embedding", _COUNT)
    hidden_dim: int = _fixed(256, "size of a node's state; 0: the bag alone, no tree", _at_least(0))
    output_dim: int = _fixed(512, "size of a tree's encoding", _COUNT)
    bag_of_symbols: bool = _fixed(True, "beside the tree, a path from its symbols to the encoding")
    precision: str = _fixed(
        "float32",
        '"float32" or "bfloat16": of the states and products inside the trees; weights stay float32',
        _one_of("float32", "bfloat16"),
    )
    child_order: bool = _fixed(False, "whether the order of a list's items counts, as in code")
    vectors_keys: tuple[str, ...] = _fixed((), 'keys whose values have pretrained vectors, as in "word"')
    vectors_frozen: bool = _fixed(False, "keep these vectors as they are, instead of tuning them")
    ignored_keys: tuple[str, ...] = _fixed(
        KEY_LISTS["esperanto"],
        f"keys of the ASTs that the model must not see: their names, or {' or '.join(KEY_LISTS)}",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ignored_keys", _expanded(self.ignored_keys))
        if not self.hidden_dim and not self.bag_of_symbols:
            raise ConfigError("hidden_dim is 0 (no tree), which needs bag_of_symbols=True. Change one.")

    @classmethod
    def among(cls, settings: Mapping[str, Any]) -> Self:
        """These settings out of a larger set, such as a checkpoint's; KeyError where one is missing."""
        return cls(**{setting.name: settings[setting.name] for setting in dataclasses.fields(cls)})

    def to_dict(self) -> Settings:
        """All settings as plain values, for checkpoints and logs."""
        return {setting.name: plain(getattr(self, setting.name)) for setting in dataclasses.fields(self)}


MODEL_SETTINGS = frozenset(setting.name for setting in dataclasses.fields(EncoderSettings))


@dataclass(frozen=True, kw_only=True)
class Config(EncoderSettings):
    """The settings of one run; relative paths start from the repository. Raises as `EncoderSettings`."""

    data_dir: str = _free("data/training_pairs", "directory of the training pairs", _PATH)
    validation_dir: str | None = _free(None, "directory of unseen pairs; None splits data_dir", _PATH)
    output_dir: str = _free("models/tree_lstm", "directory of checkpoints, history, log", _PATH)
    resume: str | None = _free(
        "auto", '"auto", a checkpoint\'s path, or None for a fresh start', _RESUME
    )
    start_from: str | None = _free(
        None, "checkpoint that gives a fresh run its weights and vocabulary; ignored on resume", _PATH
    )
    checkpoint: str = _free("best", '"best" or the path of a checkpoint to evaluate', _PATH)
    compare_with: str | None = _free(None, "second checkpoint; None: the newest or best other", _PATH)
    label_keys: tuple[str, ...] | None = _free(
        None, "keys whose value names a node in figures, first of them first; None: chosen from the data"
    )
    try_settings: bool = _free(False, "01_preflight also tries learning rates and batch sizes")
    epochs: int = _free(50, "train until this epoch", _COUNT)
    batch_size: int = _fixed(16, "pairs per optimizer step", _COUNT)
    shards: int = _fixed(1, "parts of a batch, of which each process takes some; decides bits", _COUNT)
    learning_rate: float = _fixed(1e-3, "of Adam, per step", _POSITIVE)
    lr_schedule: str | None = _fixed(
        None,
        'None, "cosine" (to 0 at the last epoch) or "plateau" (halved after 5 epochs without gain)',
        _one_of("cosine", "plateau"),
    )
    warmup_steps: int = _fixed(0, "steps over which learning_rate rises from near 0", _at_least(0))
    objective: str = _fixed(
        "contrastive",
        '"contrastive" (similar or not), "graded" (how similar), "ranking" (similar pairs only)',
        _one_of("contrastive", "graded", "ranking"),
    )
    positive_margin: float = _fixed(
        0.75, "distance up to which similar pairs cost nothing; at most margin", _NOT_NEGATIVE
    )
    temperature: float = _fixed(
        0.1, "of the ranking objective: distance that counts as large", _TEMPERATURE
    )
    similarity_low: float = _fixed(0.0, "lowest similarity on the graded pairs' scale", _FINITE)
    similarity_high: float = _fixed(1.0, "highest similarity on that scale", _FINITE)
    vectors: str | None = _fixed(
        None, "file of pretrained vectors: GloVe's or word2vec's text, or .npy beside a .txt", _PATH
    )
    best_by: str | None = _fixed(
        None, "number of the history that decides best_model.pt and patience; None: the objective's own"
    )
    margin: float = _fixed(1.0, "distance beyond which dissimilar pairs cost nothing", _POSITIVE)
    dropout: float = _fixed(0.1, "share of the root state set to 0 in training", _UNDER_1)
    validation_fraction: float = _fixed(0.1, "share of pairs held out without validation_dir", _SHARE)
    seed: int = _fixed(42, "of weights, order, dropout and split", _NOT_NEGATIVE)
    device: str = _free("auto", '"auto" (a GPU where there is one), "cpu", "cuda", "cuda:N"', _DEVICE)
    num_threads: int | None = _free(
        None, "CPU threads; None takes torch's own choice, on resume the checkpoint's", _THREADS
    )
    processes: int = _free(1, "processes that train together, at most `shards`; same bits", _THREADS)
    checkpoint_every_seconds: float = _free(60.0, "between commits inside an epoch", _NOT_NEGATIVE)
    patience: int | None = _free(
        None, "stop after this many epochs without a better best_by; None never", _COUNT
    )
    max_hours: float | None = _free(
        None, "hours after which this night's run commits and stops; None never", _POSITIVE
    )
    changes: tuple[str, ...] = _free(
        (), 'settings that a resumed run may change on purpose, such as "learning_rate" or "data"'
    )
    accept_weak_disk: bool = _free(
        False,
        "train on a disk without locks or fsync of directories: two writers may go unnoticed, and a "
        "power cut may lose the last commit",
    )
    keep: str | int = _free(
        "all", 'epoch checkpoints to keep: "all", or the last N and, for each, the best by then', _KEPT
    )
    max_restarts: int = _free(20, "of kernels by papermill's engine, of `processes`", _at_least(0))
    ignore_preflight: bool = _free(False, "train even if preflight says no-go")

    def __post_init__(self) -> None:
        """Also refuses settings that do not fit each other, and names that `changes` cannot hold."""
        super().__post_init__()
        names = tuple(filter(None, map(str.strip, ",".join(self.changes).split(","))))
        object.__setattr__(self, "changes", names)
        if self.objective == "contrastive" and self.positive_margin > self.margin:
            raise ConfigError(
                f"positive_margin is {self.positive_margin:g}, margin {self.margin:g}. "
                "Lower the first or raise the second."
            )
        low, high = self.similarity_low, self.similarity_high
        if not low < high:
            found = f"similarity_low is {low:g}, expected less than similarity_high, {high:g}"
            raise ConfigError(f"{found}. Change one.")
        if self.vectors and (self.start_from or not self.vectors_keys):
            remedy = 'Set vectors_keys to the keys whose values are words, such as "word"'
            if self.start_from:
                remedy = "start_from brings the vectors of its model: set vectors to None"
            raise ConfigError(f"vectors is {self.vectors!r}. {remedy}.")
        if self.vectors_keys and not (self.vectors or self.start_from):
            raise ConfigError(f"vectors_keys is {self.vectors_keys}. It needs vectors, a file of them.")
        needed = self.shards * (2 if self.objective == "ranking" else 1)
        if self.batch_size < needed:
            found = f"batch_size is {self.batch_size} with shards={self.shards}"
            why = "each shard needs a pair" + ", and others to compare it with" * (needed > self.shards)
            raise ConfigError(f"{found}: {why}. Set batch_size to at least {needed}, or fewer shards.")
        of_model = MODEL_SETTINGS | {"vectors"}
        known = {setting.name for setting in dataclasses.fields(self)} - of_model | {"data"}
        for name in names:
            if name in of_model:
                remedy = "it makes another model. Choose a new output_dir instead"
                raise ConfigError(f"changes names {name}, which no resume can change: {remedy}.")
            if name not in known:
                remedy = f'{did_you_mean(name, known)}Name settings, or "data", with commas between.'
                raise ConfigError(f"changes names {name}: no such setting. {remedy}")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """The settings named in `parameters`, defaults for the others."""
        return cls(**parameters)

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any], others: Settings | None = None) -> Self:
        """The settings that a notebook's parameters cells assign; `namespace` is its `globals()`.

        All other settings come from `others` (a checkpoint's settings, say), else from the defaults.
        With `others`, None means "as there" for a setting that cannot itself be None. If a kernel was
        started again, a run that had begun is resumed, whatever `resume` says.
        """
        given = cls._read(namespace)
        if others is not None:
            required = {s.name for s in dataclasses.fields(cls) if "None" not in str(s.type)}
            given = {k: v for k, v in given.items() if v is not None or k not in required}
        return cls(**{**(others or {}), **given}).for_this_kernel()

    def for_this_kernel(self) -> Self:
        """With resume="auto" if an earlier kernel of this night has begun this run; tells papermill's
        engine, if there is one, what it needs to know.
        """
        output_dir = self.output_path
        tell_engine(SETTINGS, output_dir, max_restarts=self.max_restarts, max_hours=self.max_hours)
        return dataclasses.replace(self, resume="auto") if begun_before(output_dir) else self

    @property
    def data_path(self) -> Path:
        return from_root(self.data_dir)

    @property
    def validation_path(self) -> Path | None:
        return None if self.validation_dir is None else from_root(self.validation_dir)

    @property
    def output_path(self) -> Path:
        return from_root(self.output_dir)

    def fixed_on_resume(self) -> Settings:
        """The settings that decide what is computed, as plain values; a resume must find them equal.

        A cosine schedule's shape depends on `epochs`, which then counts among them.
        """
        names = [setting.name for setting in dataclasses.fields(self) if setting.metadata["fixed"]]
        if self.lr_schedule == "cosine":
            names.append("epochs")
        if self.validation_dir is not None:
            names.remove("validation_fraction")
        return {name: plain(getattr(self, name)) for name in names}

    def flags(self) -> list[str]:
        """The settings that differ from the defaults, as words of `python -m treelstm train`."""
        words = []
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if value != setting.default and setting.name not in NOT_OF_TRAINING:
                words.append(f"--{'no-' * (value is False)}{setting.name.replace('_', '-')}")
                if not isinstance(value, bool):
                    words += map(str, value if isinstance(value, tuple) else [value])
        return words


@dataclass(frozen=True, kw_only=True)
class Comparison(Parameters):
    """The parameters of 05_compare.ipynb, which are no settings of a run. Raises as `Parameters`."""

    directory: str = _free("models", "directory whose runs are compared", _PATH)
    runs: tuple[str, ...] | None = _free(None, "names of two to five of them; None: the best ones")
    validation_dir: str | None = _free(None, "unseen pairs; None: what the first run held out", _PATH)
    device: str = _free("auto", '"auto", "cpu", "cuda", "cuda:N"', _DEVICE)

    def __post_init__(self) -> None:
        if isinstance(self.runs, str):  # one name; those of a sweep's trials hold commas
            object.__setattr__(self, "runs", (self.runs,))
        super().__post_init__()


# What earlier versions did, which had no such settings.
_EARLIER: Settings = {"bag_of_symbols": False, "positive_margin": 0.0, "best_by": "validation_loss"}
_ADDED = """objective temperature similarity_low similarity_high vectors vectors_keys vectors_frozen
    child_order shards""".split()


def completed(settings: Settings) -> Settings:
    """A run's settings, with those that its version of treelstm did not have."""
    defaults = {name: plain(getattr(Config, name)) for name in _ADDED}
    return settings | {k: v for k, v in {**defaults, **_EARLIER}.items() if k not in settings}


NOT_OF_TRAINING = {"checkpoint", "compare_with", "label_keys", "try_settings"}  # settings of pages


def plain(value: Any) -> Value:
    """`value` as JSON and torch's restricted unpickler would give it back."""
    return list(value) if isinstance(value, tuple) else value


def _converted(setting: dataclasses.Field[Any], value: Any) -> Any:
    """`value` as the setting's type: 1 is a float too, a list is a tuple, a Path is a string."""
    expected = str(setting.type)
    kind = "None" if value is None else type(value).__name__  # True is an int, but not for a user
    if isinstance(value, Path | str):
        kind, value = "str", str(value)
    if "tuple" in expected and isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    if "tuple" in expected and isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            kind, value = "tuple[str, ...]", tuple(value)
    elif "float" in expected and isinstance(value, int | float) and kind != "bool":
        with suppress(OverflowError):  # an int beyond all floats
            kind, value = "float", float(value)
    if kind not in expected.split(" | "):
        raise ConfigError(f"{setting.name} is {value!r}, expected {expected}. Change it.")
    return value


def _expanded(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The keys, with those of a list in the place of its name."""
    for key in set(keys) - KEY_LISTS.keys():
        name = key.lower().replace("_", "-")
        if close := difflib.get_close_matches(name, KEY_LISTS, cutoff=0.81):  # "uid" is not "ud"
            known = ", ".join(KEY_LISTS)
            text = f'ignored_keys names "{key}". Did you mean "{close[0]}"? The lists are {known}; '
            raise ConfigError(text + "others are keys of your own.")
    return tuple(dict.fromkeys(one for key in keys for one in KEY_LISTS.get(key, (key,))))
