"""Encoders in files: in the checkpoints and models of a run, and exported for other tools.

An export is two plain files: `encoder.safetensors` holds the state dict, `encoder.json` the settings,
the vocabulary and the threshold. Exporting, importing and exporting again gives the same bytes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from treelstm.config import Config, ConfigError, EncoderSettings, completed
from treelstm.files import make_directory, write_whole
from treelstm.history import Number
from treelstm.model.content import ModelFile, Symbols, check_encoder, check_model, require_type
from treelstm.model.encoder import Origin, TreeEncoder
from treelstm.model.vectors import Vectors
from treelstm.plain import distinct_names
from treelstm.process import chosen_device
from treelstm.sealed import UNTYPED, CheckpointError, DamagedCheckpoint, bytes_of, read_sealed
from treelstm.trees.vocabulary import Vocabulary

EXPORT_FORMAT = 3  # raised whenever another version of the package could misread an export
_UNTYPED_EXPORT = 2  # its symbols are spelled as `Vocabulary` says of `typed=False`
WEIGHTS, SETTINGS = "encoder.safetensors", "encoder.json"


class _Export(TypedDict):
    threshold: Number | None
    vocabulary: Symbols


def model_part(content: ModelFile) -> ModelFile:
    """The keys of `ModelFile` out of a commit's content."""
    every = cast("dict[str, object]", content)
    return cast("ModelFile", {name: every[name] for name in ModelFile.__annotations__})


def read_model(path: Path | str) -> ModelFile:
    """The encoder's part of a checkpoint or model file; raises as `sealed.read_sealed`."""
    content = cast("ModelFile", read_sealed(Path(path)))
    missing = sorted(ModelFile.__required_keys__ - content.keys())
    if missing:
        raise DamagedCheckpoint(f"{path} does not hold an encoder: it lacks {', '.join(missing)}.")
    check_model(Path(path), content)
    return content


def model_epoch(path: Path) -> int | None:
    """The epoch whose weights a model file holds, or None if it is missing or damaged."""
    try:
        return read_model(path)["epoch"]
    except CheckpointError:
        return None


def load_encoder(path: Path | str, device: str = "cpu") -> TreeEncoder:
    """The encoder in a checkpoint, `best_model.pt` or `final_model.pt`, ready to `.encode(asts)`.

    Its `threshold` is the distance under which two trees count as similar, its `origin` says which file,
    epoch and settings it has. `device` is as in `Config`: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        MissingCheckpoint, DamagedCheckpoint, CheckpointError: the file cannot be used; says why.
        ConfigError: torch sees no such device.
    """
    on, content = chosen_device(device), read_model(path)
    config, known = Config.from_parameters(content["config"]), vocabulary_of(content)
    encoder = _encoder(config, known, content["model_state_dict"], content["threshold"]).to(on)
    encoder.origin = Origin(Path(path).absolute(), content["epoch"], config)
    return encoder


def same_weights(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are equal, to the last bit, wherever they lie."""
    same = first.keys() == second.keys()
    return same and all(torch.equal(first[name].cpu(), second[name].cpu()) for name in first)


def names_of(encoders: Sequence[TreeEncoder]) -> list[str]:
    """Names that tell encoders from files apart: file, directory where these differ, and epoch."""
    names = distinct_names([encoder.origin.path for encoder in encoders])
    return [f"{name}, epoch {of.origin.epoch}" for name, of in zip(names, encoders, strict=True)]


def vocabulary_of(content: ModelFile) -> Vocabulary:
    """The vocabulary of a model file."""
    return Vocabulary(content["vocabulary"], typed=content["format"] != UNTYPED)


def _encoder(
    settings: EncoderSettings, known: Vocabulary, weights: dict[str, Tensor], threshold: float | None
) -> TreeEncoder:
    vectors = Vectors.of_state(weights) if settings.vectors_keys else None
    encoder = TreeEncoder(known, settings, vectors=vectors)
    encoder.load_state_dict(weights)
    encoder.threshold = math.nan if threshold is None else float(threshold)
    return encoder.eval()


def export_encoder(encoder: TreeEncoder, directory: Path | str) -> None:
    """Writes `encoder.safetensors` and `encoder.json` into `directory`, each whole or not at all.

    Raises:
        WriteFailed: the disk refuses.
    """
    directory = Path(directory)
    make_directory(directory)
    weights = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    number = EXPORT_FORMAT if encoder.vocabulary.typed else _UNTYPED_EXPORT
    about = {"format": number, **encoder.settings.to_dict()}
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
    path = directory / SETTINGS
    if not isinstance(about, dict) or about.get("format") not in (_UNTYPED_EXPORT, EXPORT_FORMAT):
        read = f"format {_UNTYPED_EXPORT} or {EXPORT_FORMAT}, which this version of treelstm reads"
        raise CheckpointError(f"{path} is not an export of {read}. Export it again.")
    try:
        settings = EncoderSettings.among(completed(about))
    except KeyError as error:
        raise DamagedCheckpoint(f"{path} lacks a setting: {error}.") from error
    except ConfigError as error:
        raise DamagedCheckpoint(f"{path} is damaged: {error}") from error
    export: _Export = require_type(path, about, _Export)
    check_encoder(directory, settings, export["vocabulary"], weights)
    known = Vocabulary(export["vocabulary"], typed=about["format"] == EXPORT_FORMAT)
    return _encoder(settings, known, weights, export["threshold"]).to(on)
