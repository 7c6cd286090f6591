"""Planted faults that only real batches and steps show, and what steps are said to cost."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
from collections import namedtuple
from typing import Any

import psutil
import pytest
import torch
from faults import fault, healthy_config, remove_children

from treelstm import preflight, train
from treelstm.checks import environment, trial
from treelstm.checks.report import ERROR, WARNING, as_text
from treelstm.run import state


@fault("Batches", WARNING, r"batch_size=500 for 100 training pairs: one step an epoch")
def test_batch_larger_than_corpus(base, config, patch):
    shutil.rmtree(base / "run")
    return dataclasses.replace(config, batch_size=500)


@fault("Model", ERROR, r"the first step gives a loss of inf .*Lower margin or learning_rate")
def test_loss_not_finite(base, config, patch):
    shutil.rmtree(base / "run")
    return dataclasses.replace(config, margin=1e30)


@fault("Model", WARNING, "no gradient reaches .*forget_weight")
def test_no_gradient_without_children(base, config, patch):
    shutil.rmtree(base / "run")
    return remove_children(base, config)


@fault("Model", ERROR, r"weights\.pt: no such file")
def test_start_from_missing(base, config, patch):
    shutil.rmtree(base / "run")
    return dataclasses.replace(config, start_from=str(base / "weights.pt"))


@fault("Model", ERROR, r"weights\.pt has hidden_dim=12, this run asks for hidden_dim=13")
def test_start_from_another_size(base, config, patch):
    source = (base / "run" / "final_model.pt").rename(base / "weights.pt")
    shutil.rmtree(base / "run")
    return dataclasses.replace(config, hidden_dim=13, start_from=str(source))


@fault("Processes", ERROR, r"processes=2 need as many parts.*found shards=1.*Set shards=2 and a new")
def test_more_processes_than_parts_of_a_batch(base, config, patch):
    return dataclasses.replace(config, processes=2)


@fault("Processes", ERROR, r"processes=99 need as many parts of each batch, found batch_size=16")
def test_more_processes_than_pairs_of_a_batch(base, config, patch):
    return dataclasses.replace(config, processes=99)


@fault(
    "Processes", WARNING, r"8 processes of 2 threads on 3 cores slow each other down. Set processes=1"
)
def test_more_processes_than_cores(base, config, patch):
    shutil.rmtree(base / "run")
    patch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    return dataclasses.replace(config, shards=8, processes=8)


@fault("Processes", ERROR, r"2 processes need a GPU each, this machine has 1\. Set processes=1, or dev")
def test_more_processes_than_gpus(base, config, patch):
    """The GPU is pretended: what is not asked about it takes the CPU."""
    shutil.rmtree(base / "run")
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    for module in (environment, state, trial):
        patch.setattr(module, "chosen_device", lambda name: torch.device("cpu"))
    return dataclasses.replace(config, shards=2, processes=2, device="cuda")


# --- resources ---------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "available")
Peak = namedtuple("Peak", "ru_maxrss")


@fault("Resources", ERROR, r"MB for \d+ checkpoints of .* MB; 0\.0 GB are free in")
def test_disk_too_small(base, config, patch):
    patch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**6, 10**6))
    return dataclasses.replace(config, epochs=500)


def test_the_estimate_says_that_max_hours_stops_the_run(base):
    config = healthy_config(base, base / "run", epochs=10**5, max_hours=0.1)
    assert "unless max_hours=0.1 stops it first" in as_text(preflight(config))
    assert "max_hours" not in as_text(preflight(dataclasses.replace(config, max_hours=None)))


@fault("Resources", ERROR, r"peak memory \S+ GB of \S+ GB free")
def test_memory_too_small(base, config, patch):
    free_memory_as_share_of_peak(patch, 0.9)


@fault("Resources", WARNING, r"peak memory \S+ GB of \S+ GB free")
def test_memory_tight(base, config, patch):
    free_memory_as_share_of_peak(patch, 1.1)


def free_memory_as_share_of_peak(patch: pytest.MonkeyPatch, share: float) -> None:
    """The true peak may be far above what this process holds now, if other tests ran before."""

    def getrusage(who: int) -> Peak:
        free = 2**30 + psutil.Process().memory_info().rss
        return Peak(int(free / share / 1024))

    patch.setattr(psutil, "virtual_memory", lambda: Memory(2**30))
    patch.setattr(resource, "getrusage", getrusage)


def test_the_disk_estimate_is_within_5_percent_and_time_within_reason(base, tmp_path):
    config = healthy_config(base, tmp_path / "new", epochs=8)
    report = preflight(config)
    train(config)
    written = sum(path.stat().st_size for path in (tmp_path / "new").glob("*.pt"))
    assert report.disk_bytes == pytest.approx(written, rel=0.05)
    assert 0 < report.seconds_per_epoch < 60 and report.peak_memory_bytes > 1e8


# --- determinism -------------------------------------------------------------------------------


@fault("Determinism", WARNING, "two steps from the same state differ on cpu")
def test_steps_that_differ(base, config, patch):
    step, calls = torch.optim.Adam.step, 0

    def noisy(optimizer: torch.optim.Adam, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        with torch.no_grad():
            optimizer.param_groups[0]["params"][-1].add_(1e-3 * calls)
        return step(optimizer, *args)

    patch.setattr(torch.optim.Adam, "step", noisy)
