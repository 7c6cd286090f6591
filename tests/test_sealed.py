from __future__ import annotations

import os
import pickle
import random
import zipfile

import pytest
import torch
from runs import identical

from treelstm import load_checkpoint, load_encoder
from treelstm.sealed import FORMAT, UNTYPED, CheckpointError, DamagedCheckpoint, write_sealed


def test_plain_torch_reads_a_checkpoint_as_well(path):
    assert identical(torch.load(path, weights_only=True), load_checkpoint(path))
    assert zipfile.ZipFile(path).testzip() is None


def test_every_truncation_is_detected(path):
    data = path.read_bytes()
    for length in [
        *range(0, 200),
        *range(200, len(data) - 200, 997),
        *range(len(data) - 200, len(data)),
    ]:
        path.write_bytes(data[:length])
        with pytest.raises(DamagedCheckpoint, match=r"checkpoint_epoch_2\.pt is damaged"):
            load_checkpoint(path)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A flipped bit, a truncation, a zeroed block or trailing bytes."""
    changed, kind = bytearray(data), draw.randrange(4)
    at = draw.randrange(len(data))
    if kind == 0:
        changed[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        changed[at : at + 512] = bytes(len(changed[at : at + 512]))
    else:
        changed += bytes(draw.randrange(1, 600))
    return bytes(changed)


def test_of_1000_random_damages_none_is_loaded_with_different_content(path):
    data, content = path.read_bytes(), load_checkpoint(path)
    draw = random.Random(0)
    detected = 0
    for _ in range(1000):
        path.write_bytes(damaged(data, draw))
        try:
            assert identical(load_checkpoint(path), content)
        except DamagedCheckpoint:
            detected += 1
    assert detected > 900  # a zeroed block may have been zero before


def test_a_foreign_file_under_a_checkpoints_name_is_named(path):
    torch.save({"model": torch.zeros(3)}, path)
    with pytest.raises(DamagedCheckpoint, match="cut short, or treelstm did not write it"):
        load_checkpoint(path)


class Trap:
    def __reduce__(self):
        return os.system, ("touch sprung",)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_sealed(path, {"epoch": 2, "trap": Trap()})
    with pytest.raises(DamagedCheckpoint, match=r"torch refuses it \(it asks for posix\.system\)"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DamagedCheckpoint, match="treelstm did not write it"):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_a_file_of_another_format_is_refused_by_name(path):
    content = load_checkpoint(path)
    for other in (FORMAT + 1, UNTYPED - 1):
        write_sealed(path, content | {"format": other})
        with pytest.raises(
            CheckpointError, match=rf"has format {other}, this .* reads {UNTYPED} and {FORMAT}\."
        ):
            load_checkpoint(path)
        with pytest.raises(CheckpointError, match=rf"has format {other}"):
            load_encoder(path)
