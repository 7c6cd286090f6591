from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest
import torch

from treelstm import Config, train
from treelstm.config import ConfigError
from treelstm.process import chosen_device, set_for_training, threads


@pytest.mark.parametrize(("count", "seen"), [(0, "no"), (1, "1")])
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out(monkeypatch, count, seen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    message = rf'device is "cuda:1", but torch sees {seen} GPU\. Set device="cpu" or "auto"'
    with pytest.raises(ConfigError, match=message):
        chosen_device("cuda:1")


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_if_there_is_one(monkeypatch, there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert chosen_device("auto") == torch.device(device)
    assert chosen_device("cpu") == torch.device("cpu")


def test_the_number_of_threads_is_put_back_also_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before
    with set_for_training(None):
        assert torch.get_num_threads() == before


def test_a_run_says_once_in_its_log_that_memory_is_kept(config: Config, caplog):
    with caplog.at_level(logging.INFO, "treelstm"):
        train(config)
    assert (config.output_path / "training.log").read_text().count("mallopt") == 1


# Counts the pages that the system hands out while six buffers of 8 MB are filled and freed.
CYCLES = """
import ctypes, json, resource
from treelstm.process import set_for_training

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
SIZE = 8 << 20

def new_pages():
    for _ in range(2):  # the first takes what the second may find again
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        buffers = [libc.malloc(SIZE) for _ in range(6)]
        for buffer in buffers:
            libc.memset(buffer, 1, SIZE)
        for buffer in buffers:
            libc.free(buffer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

counts = [new_pages()]
with set_for_training(1):
    counts.append(new_pages())
counts.append(new_pages())
print(json.dumps(counts))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told to keep freed memory")
def test_freed_memory_is_kept_during_training_and_given_back_afterwards():
    words = [sys.executable, "-c", CYCLES]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    before, during, after = json.loads(done.stdout)
    assert during < 0.05 * before and after > 0.9 * before, (before, during, after)


@pytest.mark.skipif(sys.platform != "linux", reason="only torch for Linux comes with GNU's OpenMP")
@pytest.mark.parametrize(
    ("said", "spins"),
    [
        ({}, "3000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000"),
    ],
)
def test_waiting_threads_sleep_soon_unless_the_environment_says_otherwise(said, spins):
    """OpenMP itself prints its settings. Beside busy processes, threads that spin slow training down."""
    unset = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", "from treelstm import train"],
        env=unset | said | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
