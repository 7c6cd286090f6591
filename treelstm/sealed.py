"""A torch file with its SHA-256 inside: read back exactly as written, or refused.

The digest of all bytes before it is in the zip's comment, so torch can read the file as it is. (The
zip's own CRC-32 does not cover the headers, and torch does not check it.)
"""

import hashlib
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from treelstm.errors import UserError
from treelstm.files import write_whole

FORMAT = 3  # raised whenever another version of the package could misread a file

_SEAL = b"treelstm sha256 "  # begins the zip comment; 64 hex digits follow
_COMMENT_BYTES = len(_SEAL) + 64


class CheckpointError(UserError, ValueError):
    """A checkpoint or model file cannot be used."""


class MissingCheckpoint(CheckpointError, FileNotFoundError):
    """There is no file of that name."""


class DamagedCheckpoint(CheckpointError):
    """A file is truncated, altered, or was never a checkpoint."""


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as a torch file with its digest inside; raises as `write_whole`."""
    write_whole(path, *sealed(content))


def sealed(content: Mapping[str, Any]) -> tuple[memoryview, bytes]:
    """The bytes of a sealed file: what torch writes, then the digest in the zip's comment."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    data = buffer.getbuffer()
    data[-2:] = _COMMENT_BYTES.to_bytes(2, "little")  # the end record's comment length, 0 until now
    digest = hashlib.sha256(data).hexdigest().encode()
    return data, _SEAL + digest


def read_sealed(path: Path) -> dict[str, Any]:
    """The content of a file that `write_sealed` wrote, tensors on the CPU; parsing runs no code.

    Raises:
        MissingCheckpoint: there is no such file.
        DamagedCheckpoint: the file is not byte for byte what was written; says how.
        CheckpointError: another version of the package wrote it.
    """
    data = verified_bytes(path)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        # torch's text is mostly advice on loading the file unsafely; only the refused name helps.
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {code[1]}" if code else str(error).partition("\n")[0]
        raise DamagedCheckpoint(f"{path} is not a checkpoint: torch refuses it ({reason}).") from error
    if not isinstance(content, dict):
        raise DamagedCheckpoint(f"{path} is not a checkpoint: it holds a {type(content).__name__}.")
    if content.get("format") != FORMAT:
        other = content.get("format", "none")
        found = f"has format {other}, this version of treelstm reads format {FORMAT}"
        raise CheckpointError(f"{path} {found}. Use the version that wrote it, or a new output_dir.")
    return content


def verified_bytes(path: Path) -> bytes:
    """The bytes of a sealed file, which match their digest; raises as `read_sealed`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingCheckpoint(f"{path}: no such file. Name an existing checkpoint.") from None
    except OSError as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error.strerror}.") from error
    body, seal, digest = data[:-_COMMENT_BYTES], data[-_COMMENT_BYTES:-64], data[-64:]
    if not data:
        raise DamagedCheckpoint(f"{path} is damaged: it is empty.")
    if seal != _SEAL:
        found = f"{len(data):,} bytes, no digest at its end"
        why = "it is cut short, or treelstm did not write it"
        raise DamagedCheckpoint(f"{path} is damaged: {why} ({found}).")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamagedCheckpoint(f"{path} is damaged: its bytes do not match their SHA-256.")
    return data
