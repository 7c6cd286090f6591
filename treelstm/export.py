"""An encoder as plain files for other tools: weights as safetensors, everything else as JSON.

`encoder.safetensors` holds the state dict, `encoder.json` beside it the sizes, the vocabulary, the
ignored keys and the threshold. Both ways are exact: what is exported, loaded and exported again is
byte for byte the same.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from treelstm.checkpoint import CheckpointError, DamagedCheckpoint, load_weights
from treelstm.files import write_whole
from treelstm.model import TreeEncoder
from treelstm.trees import Vocabulary

FORMAT = 1  # raised whenever an older package could misread a newer export
WEIGHTS, SETTINGS = "encoder.safetensors", "encoder.json"
_SIZES = ("embedding_dim", "hidden_dim", "output_dim")


def export_encoder(encoder: TreeEncoder, directory: Path | str) -> None:
    """Writes `encoder.safetensors` and `encoder.json` into `directory`, each whole or not at all.

    Raises:
        WriteFailed: the disk refuses.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    settings = {
        "format": FORMAT,
        "embedding_dim": encoder.embedding.shape[1],
        "hidden_dim": encoder.hidden_dim,
        "output_dim": len(encoder.output_weight),
        "threshold": None if math.isnan(encoder.threshold) else encoder.threshold,
        "ignored_keys": list(encoder.ignored_keys),
        "vocabulary": list(encoder.vocabulary.symbols),
    }
    write_whole(directory / WEIGHTS, save(weights))
    write_whole(directory / SETTINGS, json.dumps(settings, indent=1).encode())


def import_encoder(directory: Path | str, device: str = "cpu") -> TreeEncoder:
    """The encoder that `export_encoder` wrote, ready to `.encode(asts)`.

    Raises:
        FileNotFoundError: one of the two files is missing.
        CheckpointError: they are damaged, of a newer version, or do not belong together.
    """
    directory = Path(directory)
    try:
        settings = json.loads((directory / SETTINGS).read_bytes())
        weights = load((directory / WEIGHTS).read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error.filename}: no such file. {directory} must hold {WEIGHTS} and {SETTINGS}."
        ) from None
    except (SafetensorError, ValueError) as error:
        raise DamagedCheckpoint(f"{directory} is damaged: {error}. Export it again.") from error
    names = {"format", "threshold", "ignored_keys", "vocabulary", *_SIZES}
    missing = names - set(settings if isinstance(settings, dict) else ())
    if missing:
        raise DamagedCheckpoint(f"{directory / SETTINGS} lacks {', '.join(sorted(missing))}.")
    if settings["format"] > FORMAT:
        raise CheckpointError(
            f"{directory / SETTINGS} has format {settings['format']}, this version of treelstm reads up "
            f"to {FORMAT}. Update treelstm."
        )
    sizes: dict[str, Any] = {name: settings[name] for name in _SIZES}
    encoder = TreeEncoder(
        Vocabulary(settings["vocabulary"]), ignored_keys=settings["ignored_keys"], **sizes
    )
    load_weights(encoder, {"model_state_dict": weights}, directory / WEIGHTS)
    threshold = settings["threshold"]
    encoder.threshold = math.nan if threshold is None else float(threshold)
    return encoder.to(device).eval()
