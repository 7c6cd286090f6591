"""A torch file with its SHA-256 inside: read back exactly as written, or refused.

The digest of all bytes before it is in the zip's comment, so torch can read the file as it is. (The
zip's own CRC-32 does not cover the headers, and torch does not check it.)
"""

import errno
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import torch

from treelstm.errors import UserError
from treelstm.files import NotAFile, open_file, write_whole

FORMAT = 4  # raised whenever another version of the package could misread a file
UNTYPED = 3  # of earlier versions: the symbols are spelled as `Vocabulary` says of `typed=False`

_SEAL = b"treelstm sha256 "  # begins the zip comment; 64 hex digits follow
_COMMENT_BYTES = len(_SEAL) + 64


class CheckpointError(UserError, ValueError):
    """A checkpoint or model file cannot be used."""


class MissingCheckpoint(CheckpointError, FileNotFoundError):
    """There is no file of that name."""


class DamagedCheckpoint(CheckpointError):
    """A file is truncated, altered, or was never a checkpoint."""


class UnreadableCheckpoint(CheckpointError):
    """A file or directory cannot be read now: it may be good, so nothing is decided without it."""

    def __init__(self, path: Path, reason: str | None) -> None:
        remedy = "Nothing was changed. Make it readable, then run the same command again"
        super().__init__(f"{path} cannot be read now: {reason}. {remedy}.")


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as a torch file with its digest inside; raises as `write_whole`."""
    write_whole(path, *sealed(content))


def sealed(content: Mapping[str, Any]) -> tuple[memoryview, bytes]:
    """The bytes of a sealed file: what torch writes, then the digest in the zip's comment."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)  # a run that began in an older one keeps that
    data = buffer.getbuffer()
    data[-2:] = _COMMENT_BYTES.to_bytes(2, "little")  # the end record's comment length, 0 until now
    digest = hashlib.sha256(data).hexdigest().encode()
    return data, _SEAL + digest


def read_sealed(path: Path) -> dict[str, Any]:
    """The content of a file that `write_sealed` wrote, tensors on the CPU; parsing runs no code.

    Raises:
        MissingCheckpoint: there is no such file.
        DamagedCheckpoint: the file is not byte for byte what was written; says how.
        UnreadableCheckpoint: the file system refuses; the file may be good.
        CheckpointError: another version of the package wrote it.
    """
    data = verified_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > len(data):
            raise ValueError("its members are larger than the file")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        storages = {}
        for tensor in _tensors(content):
            if (
                tensor.layout != torch.strided
                or not tensor.is_contiguous()
                or tensor.device.type != "cpu"
            ):
                raise ValueError("it holds a tensor that is not dense")
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        if sum(storages.values()) > len(data):
            raise ValueError("its tensors are larger than the file")
    except Exception as error:  # a pickle whose parts do not fit raises errors of any kind
        # torch's text is mostly advice on loading the file unsafely; only the refused name helps.
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {code[1]}" if code else str(error).partition("\n")[0]
        raise DamagedCheckpoint(f"{path} is not a checkpoint: torch refuses it ({reason}).") from error
    if not isinstance(content, dict):
        raise DamagedCheckpoint(f"{path} is not a checkpoint: it holds a {type(content).__name__}.")
    require_format(path, content.get("format", "none"), (UNTYPED, FORMAT), "use a new output_dir")
    return content


def require_format(path: Path, found: object, known: tuple[int, ...], otherwise: str) -> None:
    """Raises CheckpointError, with both versions and what to do, unless the format is a known one."""
    if type(found) is int and found in known:
        return
    newer = type(found) is int and found > max(known)
    remedy = "A newer one wrote it: update treelstm" if newer else "Use the version that wrote it"
    number = found if isinstance(found, int | str) else f"of type {type(found).__name__}"
    reads = f"this version of treelstm reads {' and '.join(map(str, known))}"
    raise CheckpointError(f"{path} has format {number}, {reads}. {remedy}, or {otherwise}.")


def require_known(path: Path, settings: Set[str], known: Set[str]) -> None:
    """Raises CheckpointError if a file has settings that this version lacks: the file is not damaged."""
    if others := ", ".join(sorted(settings - known)):
        lacks = f"{path} has the setting(s) {others:.200}, which this version of treelstm does not know"
        raise CheckpointError(f"{lacks}. A newer one wrote it: update treelstm.")


def verified_bytes(path: Path) -> bytes:
    """The bytes of a sealed file, which match their digest; raises as `read_sealed`."""
    data = bytes_of(path)
    body, seal, digest = data[:-_COMMENT_BYTES], data[-_COMMENT_BYTES:-64], data[-64:]
    if seal != _SEAL:
        found = f"{len(data):,} bytes, no digest at its end"
        why = "it is cut short, or treelstm did not write it"
        raise DamagedCheckpoint(f"{path} is damaged: {why} ({found}).")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamagedCheckpoint(f"{path} is damaged: its bytes do not match their SHA-256.")
    return data


def bytes_of(path: Path, remedy: str = "Name an existing checkpoint") -> bytes:
    """The bytes of a file that must be there.

    Raises:
        MissingCheckpoint: there is no such file; says what to do (`remedy`).
        DamagedCheckpoint: it is no file, or a link that leads nowhere.
        UnreadableCheckpoint: the file system refuses.
    """
    try:
        with open_file(path) as file:
            size, data = os.fstat(file.fileno()).st_size, file.readall()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            lost = f"it is a link to {path.readlink()}, which does not exist"
            raise DamagedCheckpoint(f"{path} is damaged: {lost}.") from None
        raise MissingCheckpoint(f"{path}: no such file. {remedy}.") from None
    except OSError as error:
        if isinstance(error, NotAFile) or error.errno == errno.ELOOP:
            raise DamagedCheckpoint(f"{path} is damaged: it is not a file.") from error
        raise UnreadableCheckpoint(path, error.strerror) from error
    if len(data) != size:
        raise UnreadableCheckpoint(path, f"{len(data):,} of its {size:,} bytes were read")
    return data


def _tensors(content: object) -> Iterator[torch.Tensor]:
    """All tensors in nested dicts, lists and tuples, which may contain themselves."""
    waiting, seen = [content], set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, dict | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            waiting += [*each, *each.values()] if isinstance(each, dict) else each
