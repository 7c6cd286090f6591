"""What a file must hold to be used as an encoder, checked before anything is built from it.

A seal proves that a file is as it was written, not that what was written makes sense.
"""

from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from treelstm.config import Config, ConfigError, EncoderSettings, Settings, completed
from treelstm.history import Epoch, Number
from treelstm.model.encoder import parameter_shapes
from treelstm.model.vectors import STATE
from treelstm.sealed import DamagedCheckpoint, require_known

Shape = tuple[int, ...]
Symbols = Annotated[list[str], Meta(min_length=1)]

_LOWEST = torch.finfo(torch.float32).min


class ModelFile(TypedDict):
    """What every `.pt` file of a run holds: an encoder and its origin."""

    format: int  # of the file, see sealed.py
    epoch: Epoch
    model_state_dict: dict[str, Tensor]
    threshold: Number | None  # distance under which a pair counts as similar, if that is known
    vocabulary: Symbols
    config: Settings  # of the run
    versions: dict[str, str]


def require(path: Path, holds: bool, otherwise: str) -> None:
    """Raises DamagedCheckpoint, which says what was found and expected, unless it holds."""
    if not holds:
        remedy = "Restore it from a backup, or use another"
        raise DamagedCheckpoint(f"{path} is damaged: {otherwise}. {remedy}.")


def require_type(path: Path, value: object, kind: Any) -> Any:
    """The value with the keys and bounds of this type, others left out; raises as `require`."""
    try:
        found = msgspec.convert(value, kind)
    # The last two: a number of 5,000 digits, a tensor where something else belongs.
    except (msgspec.ValidationError, ValueError, AttributeError) as error:
        return require(path, False, f"it holds what no run writes ({error})")
    if isinstance(value, dict):  # msgspec takes tuples and sets for lists
        others = [key for key in found if type(found[key]) is list and type(value[key]) is not list]
        require(path, not others, f"it holds no list as {', '.join(others)}")
    return found


def require_tensor(path: Path, key: str, tensor: Tensor, shape: Shape, low: float = _LOWEST) -> None:
    """A float32 tensor of this shape, all of it finite and at least `low`; raises as `require`."""
    found = f"a {tensor.dtype} tensor of shape {list(tensor.shape)}".replace("torch.", "")
    expected = f"a float32 tensor of shape {list(shape)}"
    require(path, found == expected, f"{key} is {found}, expected {expected}")
    least, most = (float(each) for each in tensor.aminmax())
    finite = f"expected finite ones of at least {low:g}"
    require(path, low <= least <= most < torch.inf, f"{key} has numbers {least:g} to {most:g}, {finite}")


def check_encoder(
    path: Path, settings: EncoderSettings, symbols: list[str], weights: dict[str, Tensor]
) -> list[Shape]:
    """Checks vocabulary and weights of an encoder with these settings; the shapes of its weights."""
    require(path, len({*symbols}) == len(symbols), "its vocabulary holds a symbol twice")
    with_vectors = STATE if settings.vectors_keys and weights.keys() >= STATE else set()
    size = _check_vectors(path, weights) if with_vectors else 0
    shapes = parameter_shapes(settings, len(symbols), size)
    names = shapes.keys() | (STATE if settings.vectors_keys else set())
    sets = {"Missing": names - weights.keys(), "Unexpected": weights.keys() - names}
    for which, names in sets.items():
        if names:
            raise DamagedCheckpoint(
                f"{path} holds the weights of another model ({which} key(s): "
                f"{', '.join(sorted(names)):.200}). Use the version of treelstm that wrote it, or "
                "start a new output_dir."
            )
    for name, shape in shapes.items():
        require_tensor(path, name, weights[name], shape)
    return [*shapes.values()]


def _check_vectors(path: Path, weights: dict[str, Tensor]) -> int:
    """Checks an encoder's pretrained vectors; returns their size."""
    table, words = weights["vector_table"], weights["vector_words"]
    texts = words.dtype == torch.uint8 and words.ndim == 1 and len(words) > 0
    require(path, texts and table.ndim == 2 and table.numel() > 0, "its vectors are no table of words")
    require_tensor(path, "vector_table", table, (1 + int((words == ord("\n")).sum()), table.shape[1]))
    try:
        words.numpy().tobytes().decode()
    except UnicodeDecodeError:
        require(path, False, "the words of its vectors are no text")
    return table.shape[1]


def check_model(path: Path, content: ModelFile) -> tuple[Config, list[Shape]]:
    """Checks all keys of a `ModelFile`; the run's settings, and the shapes of its weights."""
    known = {key: value for key, value in content.items() if key in ModelFile.__annotations__}
    require_type(path, known, ModelFile)  # whatever else a later version may have added
    require_known(path, content["config"].keys(), {*Config.__dataclass_fields__})
    content["config"] = completed(content["config"])
    require(path, all(map(str.isprintable, content["versions"].values())), "its versions are no texts")
    try:
        config = Config.from_parameters(content["config"])
        EncoderSettings.among(content["config"])
    except (ConfigError, KeyError, OverflowError) as error:
        lacks = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedCheckpoint(f"{path} is damaged: in its config, {lacks}") from error
    return config, check_encoder(path, config, content["vocabulary"], content["model_state_dict"])
