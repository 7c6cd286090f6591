"""Encoders in files: in the checkpoints and models of a run, and exported for other tools.

An export is two plain files: `encoder.safetensors` holds the state dict, `encoder.json` the settings,
the vocabulary and the threshold. Exporting, importing and exporting again gives the same bytes.
"""

import json
import math
from pathlib import Path
from typing import TypedDict, cast

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from treelstm.config import ConfigError, EncoderSettings, Settings
from treelstm.files import make_directory, write_whole
from treelstm.model.content import Content
from treelstm.model.encoder import TreeEncoder
from treelstm.process import chosen_device
from treelstm.sealed import CheckpointError, DamagedCheckpoint, bytes_of, read_sealed
from treelstm.trees.vocabulary import Vocabulary

EXPORT_FORMAT = 2  # raised whenever another version of the package could misread an export
WEIGHTS, SETTINGS = "encoder.safetensors", "encoder.json"


class ModelFile(TypedDict):
    """What every `.pt` file of a run holds: an encoder and its origin."""

    epoch: int
    model_state_dict: dict[str, Tensor]
    threshold: float  # distance under which a pair counts as similar
    vocabulary: list[str]
    config: Settings  # of the run
    versions: dict[str, str]


def model_part(content: ModelFile) -> ModelFile:
    """The keys of `ModelFile` out of a commit's content."""
    every = cast("dict[str, object]", content)
    return cast("ModelFile", {name: every[name] for name in ModelFile.__annotations__})


def read_model(path: Path | str) -> ModelFile:
    """The encoder's part of a checkpoint or model file; raises as `sealed.read_sealed`."""
    content = read_sealed(Path(path))
    missing = sorted(ModelFile.__required_keys__ - content.keys())
    if missing:
        raise DamagedCheckpoint(f"{path} does not hold an encoder: it lacks {', '.join(missing)}.")
    Content(Path(path), content).model()
    return cast("ModelFile", content)


def model_epoch(path: Path) -> int | None:
    """The epoch whose weights a model file holds, or None if it is missing or damaged."""
    try:
        return read_model(path)["epoch"]
    except CheckpointError:
        return None


def load_encoder(path: Path | str, device: str = "cpu") -> TreeEncoder:
    """The encoder in a checkpoint, `best_model.pt` or `final_model.pt`, ready to `.encode(asts)`.

    Its `threshold` is the distance under which two trees count as similar. `device` is as in `Config`:
    "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        MissingCheckpoint, DamagedCheckpoint, CheckpointError: the file cannot be used; says why.
        ConfigError: torch sees no such device.
    """
    path, on = Path(path), chosen_device(device)
    content = read_model(path)
    settings = EncoderSettings.among(content["config"])
    encoder = TreeEncoder(Vocabulary(content["vocabulary"]), settings)
    encoder.load_state_dict(content["model_state_dict"])
    encoder.threshold = float(content["threshold"])
    return encoder.to(on).eval()


def export_encoder(encoder: TreeEncoder, directory: Path | str) -> None:
    """Writes `encoder.safetensors` and `encoder.json` into `directory`, each whole or not at all.

    Raises:
        WriteFailed: the disk refuses.
    """
    directory = Path(directory)
    make_directory(directory)
    weights = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    about = {"format": EXPORT_FORMAT, **encoder.settings.to_dict()}
    about["threshold"] = None if math.isnan(encoder.threshold) else encoder.threshold
    about["vocabulary"] = list(encoder.vocabulary.symbols)
    write_whole(directory / WEIGHTS, save(weights))
    write_whole(directory / SETTINGS, json.dumps(about, indent=1).encode())


def import_encoder(directory: Path | str, device: str = "cpu") -> TreeEncoder:
    """The encoder that `export_encoder` wrote, ready to `.encode(asts)`; `device` as in `load_encoder`.

    Raises:
        MissingCheckpoint: one of the two files is missing.
        CheckpointError: they are damaged, of another version, or do not belong together.
        ConfigError: torch sees no such device.
    """
    directory, on = Path(directory), chosen_device(device)
    needed = f"{directory} must hold {WEIGHTS} and {SETTINGS}"
    files = [bytes_of(directory / name, needed) for name in (SETTINGS, WEIGHTS)]
    try:
        about, weights = json.loads(files[0]), load(files[1])
    except (SafetensorError, ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{directory} is damaged: {error}. Export it again.") from error
    if not isinstance(about, dict) or about.get("format") != EXPORT_FORMAT:
        raise CheckpointError(
            f"{directory / SETTINGS} is not an export of format {EXPORT_FORMAT}, which this version of "
            "treelstm reads. Export it again."
        )
    try:
        settings, threshold = EncoderSettings.among(about), about["threshold"]
        content = Content(directory, {"vocabulary": about["vocabulary"], "model_state_dict": weights})
    except KeyError as error:
        raise DamagedCheckpoint(f"{directory / SETTINGS} lacks a setting: {error}.") from error
    except ConfigError as error:
        raise DamagedCheckpoint(f"{directory / SETTINGS} is damaged: {error}") from error
    if threshold is not None:
        content.number("threshold", threshold)
    content.encoder(settings)
    encoder = TreeEncoder(Vocabulary(about["vocabulary"]), settings)
    encoder.load_state_dict(weights)
    encoder.threshold = math.nan if threshold is None else float(threshold)
    return encoder.to(on).eval()
