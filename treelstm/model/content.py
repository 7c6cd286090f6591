"""What a file must hold to be used as an encoder, checked before anything is built from it.

A seal proves that a file is as it was written, not that what was written makes sense.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from treelstm.config import Config, ConfigError, EncoderSettings
from treelstm.model.encoder import parameter_shapes
from treelstm.sealed import DamagedCheckpoint

MOST = 10**12  # no count of a run is larger
_LARGEST = sys.float_info.max


class Content:
    """The content of a file. A check raises DamagedCheckpoint: path, key, found, expected."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path, self._content = path, content

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._content.get(key, default)

    def require(self, holds: bool, key: str, found: object, expected: str) -> None:
        if not holds:
            plain = found is None or isinstance(found, str | bool | int | float)
            self.refuse(key, f"{found!r:.60}" if plain else f"a {type(found).__name__}", expected)

    def refuse(self, key: str, found: str, expected: str) -> None:
        where, remedy = f"{self.path} is damaged: {key}", "Restore it from a backup, or use another"
        raise DamagedCheckpoint(f"{where} is {found}, expected {expected}. {remedy}.")

    def whole(self, key: str, value: object, low: int, high: int = MOST) -> int:
        self.require(
            type(value) is int and low <= value <= high, key, value, f"a number {low} to {high:,}"
        )
        return int(value)  # type: ignore[call-overload, no-any-return]

    def number(self, key: str, value: object, low: float = -math.inf) -> float:
        found = type(value) in (int, float) and max(low, -_LARGEST) <= value <= _LARGEST  # type: ignore
        self.require(
            found,
            key,
            value,
            f"a finite number of at least {low:g}" if low > -math.inf else "a finite number",
        )
        return float(value)  # type: ignore[arg-type]

    def mapping(self, key: str, value: object) -> dict[str, Any]:
        found = isinstance(value, dict) and all(isinstance(name, str) for name in value)
        self.require(found, key, value, "a dict with strings as keys")
        return value  # type: ignore[return-value]

    def strings(self, key: str) -> None:
        names = self.mapping(key, self[key])
        printable = all(isinstance(text, str) and text.isprintable() for text in names.values())
        self.require(printable, key, names, "texts by name")

    def tensor(self, key: str, value: object, shape: tuple[int, ...], low: float = -math.inf) -> None:
        """A float32 tensor of this shape, all of it finite and at least `low`."""
        expected = f"a dense float32 tensor of shape {list(shape)}"
        self.require(isinstance(value, torch.Tensor), key, value, expected)
        assert isinstance(value, torch.Tensor)
        if tuple(value.shape) != shape or value.dtype != torch.float32:
            found = f"a {value.dtype} tensor of shape {list(value.shape)}".replace("torch.", "")
            self.refuse(key, found, expected)
        smallest, largest = (float(each) for each in value.aminmax())
        self.number(f"the smallest number of {key}", smallest, low)
        self.number(f"the largest number of {key}", largest)

    def encoder(self, settings: EncoderSettings) -> dict[str, tuple[int, ...]]:
        """Checks vocabulary and weights of an encoder with these settings; the shapes of its weights."""
        words = self["vocabulary"]
        found = isinstance(words, list) and words and all(isinstance(word, str) for word in words)
        self.require(
            bool(found) and len({*words}) == len(words), "vocabulary", words, "distinct strings"
        )
        weights = self.mapping("model_state_dict", self["model_state_dict"])
        shapes = parameter_shapes(settings, len(words))
        sets = {"Missing": shapes.keys() - weights.keys(), "Unexpected": weights.keys() - shapes.keys()}
        for which, names in sets.items():
            if names:
                raise DamagedCheckpoint(
                    f"{self.path} holds the weights of another model ({which} key(s): "
                    f"{', '.join(sorted(names)):.200}). Use the version of treelstm that wrote it, or "
                    "start a new output_dir."
                )
        for name, shape in shapes.items():
            self.tensor(name, weights[name], shape)
        return shapes

    def model(self) -> tuple[Config, dict[str, tuple[int, ...]]]:
        """Checks all keys of a `ModelFile`; the run's settings, and the shapes of its weights."""
        self.whole("epoch", self["epoch"], 1)
        self.number("threshold", self["threshold"])
        self.strings("versions")
        try:
            settings = self.mapping("config", self["config"])
            config = Config.from_parameters(settings)
            EncoderSettings.among(settings)
        except (ConfigError, KeyError, OverflowError) as error:
            lacks = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise DamagedCheckpoint(f"{self.path} is damaged: in its config, {lacks}") from error
        return config, self.encoder(config)
