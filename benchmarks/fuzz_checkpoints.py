"""Sealed checkpoints that no run has written: refused by name, or resumed; no signal, no other error.

    python benchmarks/fuzz_checkpoints.py [COUNT]

Half of them have mutated bytes under their old seal; these must all be refused. Half have mutated
content under a new seal: each is refused by name, or one step is trained from it. Children do the work,
so that one that a signal kills is noticed, and named by its seed.
"""

from __future__ import annotations

import copy
import math
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from treelstm import Config, load_checkpoint, train, write_sample
from treelstm.errors import UserError
from treelstm.sealed import DamagedCheckpoint, read_sealed, write_sealed

import torch
from conftest import tiny_config
from runs import StopAfter

VALUES: list[Any] = [
    None, True, 0, -1, 1, 3, 10**18, 10**400, 0.5, -2.5, math.nan, math.inf, 1e300, "", "x", "\ud800",
    [], [1], [[]], {}, {"a": 1}, {1: 2}, (), (0.9, 0.999), b"x",
    torch.zeros(()), torch.zeros(0), torch.ones(3, 2), torch.zeros(1).expand(40, 40),
    torch.full((2, 2), math.nan), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2).to_sparse(),
]  # fmt: skip
PER_CHILD = 20


def main(count: int) -> None:
    began, ends = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        kinds = sources(work)
        for first in range(0, count, PER_CHILD):
            seeds = range(first, min(first + PER_CHILD, count))
            ends += in_a_child(work, kinds, seeds)
    print(f"{sum(ends.values())} checkpoints: {dict(ends)} ({time.monotonic() - began:.0f} s)")
    assert set(ends) <= {"bytes: refused", "content: refused", "content: resumed"}, ends


def sources(work: Path) -> list[tuple[Config, Path]]:
    """Stopped runs, made in a child: a process that has run torch's threads cannot be forked."""
    write_sample(work / "training", 24, 48)
    write_sample(work / "validation", 24, 48, seed=1, unlike=work / "training")
    often = {"num_threads": 1, "checkpoint_every_seconds": 0, "epochs": 3}
    settings = ({}, {"lr_schedule": "plateau", "warmup_steps": 20}, {"lr_schedule": "cosine"})
    kinds = []
    for number, setting in enumerate(settings):
        config = tiny_config(work, work / f"run{number}", **often, **setting)
        kinds.append((config, work / f"run{number}" / "checkpoint_epoch_2_step_3.pt"))
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for config, _ in kinds:
            train(config, listeners=[StopAfter(8)])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    return kinds


def in_a_child(work: Path, kinds: list[tuple[Config, Path]], seeds: range) -> Counter[str]:
    """What became of the checkpoints of these seeds; a child that dies is named by its last seed."""
    report = work / "report.txt"
    report.write_text("")
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            with report.open("a", buffering=1) as lines:
                for seed in seeds:
                    lines.write(f"{seed} ")
                    lines.write(one(work, kinds, seed) + "\n")
        except BaseException:  # of this script; the parent cleans up
            traceback.print_exc()
            os._exit(3)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    lines = report.read_text().splitlines()
    assert status == 0, f"seed {lines[-1]}: ended with status {os.waitstatus_to_exitcode(status)}"
    return Counter(line.partition(" ")[2] for line in lines)


def one(work: Path, kinds: list[tuple[Config, Path]], seed: int) -> str:
    draw = random.Random(seed)
    config, source = draw.choice(kinds)
    directory = work / "fuzzed"
    directory.mkdir(exist_ok=True)
    for old in directory.glob("*.pt"):
        old.unlink()
    path = directory / source.name
    if seed % 2:
        path.write_bytes(other_bytes(source.read_bytes(), draw))
        try:
            load_checkpoint(path)
        except DamagedCheckpoint:
            return "bytes: refused"
        return f"bytes: LOADED (seed {seed})"
    content = read_sealed(source)
    for _ in range(draw.choice((1, 1, 2))):
        mutate(content, draw)
    try:
        write_sealed(path, content)
    except (RecursionError, ValueError, RuntimeError, OverflowError):
        return "content: refused"  # by torch, when it was written
    settings = config.to_dict() | {"output_dir": str(directory), "resume": str(path)}
    try:
        train(Config.from_parameters(settings), listeners=[StopAfter(1)])
    except UserError:
        return "content: refused"
    except BaseException as error:
        return f"content: {type(error).__name__}: {error} (seed {seed})"
    return "content: resumed"


def other_bytes(data: bytes, draw: random.Random) -> bytes:
    changed, at = bytearray(data), draw.randrange(len(data))
    while changed == data:
        match draw.randrange(4):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                changed[at : at + 64] = draw.randbytes(len(changed[at : at + 64]))
            case 3:
                changed += draw.randbytes(draw.randrange(1, 99))
    return bytes(changed)


def mutate(content: Any, draw: random.Random) -> None:
    """Replaces, removes or adds one value somewhere in nested dicts and lists."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = draw.choice(keys)
        inner = content[key]
        if not isinstance(inner, dict | list) or not inner or draw.random() < 0.3:
            break
        content = inner
    kind = draw.randrange(6)
    if kind == 0:
        del content[key]
    elif kind == 1 and isinstance(content, dict):
        content[draw.choice(("step", "extra", 7, "optimizer"))] = draw.choice(VALUES)
    elif kind == 2 and isinstance(inner, torch.Tensor) and inner.numel():
        other = inner.clone()
        other.view(-1)[draw.randrange(other.numel())] = draw.choice((math.nan, -1.0, 1e38, math.inf))
        content[key] = other
    elif kind == 3 and isinstance(inner, torch.Tensor):
        content[key] = draw.choice(
            (inner.double(), inner.reshape(-1)[:1], inner.half(), inner.unsqueeze(0))
        )
    elif kind == 4 and type(inner) in (int, float):
        content[key] = draw.choice((inner + 1, -inner, inner * 10**6, inner * 0.5))
    else:
        content[key] = copy.copy(draw.choice(VALUES))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
