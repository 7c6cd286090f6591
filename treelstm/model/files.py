"""Encoders in the checkpoints and models of a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from treelstm.config import Config, EncoderSettings
from treelstm.model.content import ModelFile, check_model
from treelstm.model.encoder import Origin, TreeEncoder
from treelstm.model.vectors import Vectors
from treelstm.plain import distinct_names
from treelstm.process import chosen_device
from treelstm.sealed import UNTYPED, CheckpointError, DamagedCheckpoint, read_sealed
from treelstm.trees.vocabulary import Vocabulary


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
    encoder = encoder_of(config, known, content["model_state_dict"], content["threshold"]).to(on)
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


def encoder_of(
    settings: EncoderSettings, known: Vocabulary, weights: dict[str, Tensor], threshold: float | None
) -> TreeEncoder:
    """The encoder with these weights, ready to encode; without a threshold if that is None."""
    vectors = Vectors.of_state(weights) if settings.vectors_keys else None
    encoder = TreeEncoder(known, settings, vectors=vectors)
    encoder.load_state_dict(weights)
    encoder.threshold = math.nan if threshold is None else float(threshold)
    return encoder.eval()
