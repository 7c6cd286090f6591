from __future__ import annotations

import asyncio
import dataclasses
import errno
import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from runs import StopAfter, assert_same_run

from treelstm import Config, Listener, evaluate, load_encoder, load_pairs, preflight, train
from treelstm.checks.trial import free_bytes
from treelstm.config import ConfigError
from treelstm.process import (
    AlreadyTraining,
    OutOfMemory,
    chosen_device,
    lack_of_gpus,
    memory_errors_explained,
    set_for_training,
    threads,
)
from treelstm.run import inputs, step
from treelstm.run.distributed import require_startable


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has torch see that many GPUs."""

    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: count - 1)

    return see


@pytest.mark.parametrize(("count", "seen"), [(0, "no"), (1, "1")])
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out(gpus, count, seen):
    gpus(count)
    message = rf'device is "cuda:1", but torch sees {seen} GPU\. Set device="cpu" or "auto"'
    with pytest.raises(ConfigError, match=message):
        chosen_device("cuda:1")


@pytest.mark.parametrize(("count", "device"), [(1, "cuda:0"), (2, "cuda:1"), (0, "cpu")])
def test_auto_takes_the_current_gpu_if_there_is_one(gpus, count, device):
    gpus(count)
    assert chosen_device("auto") == torch.device(device)
    assert chosen_device("cpu") == torch.device("cpu")


def test_a_driver_that_does_not_work_counts_as_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert chosen_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        chosen_device("cuda")


@pytest.mark.parametrize(
    "name", ["cuda:", "cuda:x", "cuda:1:2", "auto:1", "cpu:3", "gpu", "cuda:-1", ""]
)
def test_what_is_no_device_is_refused_when_it_is_set(name):
    with pytest.raises(ConfigError, match='expected "auto", "cpu", "cuda" or "cuda:N"'):
        Config(device=name)


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(gpus, monkeypatch):
    gpus(2)
    for rank, own in enumerate(("cuda:0", "cuda:1")):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert {str(chosen_device(name)) for name in ("auto", "cuda")} == {own}
        assert str(chosen_device("cuda:1")) == "cuda:1"


@pytest.mark.parametrize(
    ("count", "device", "said"),
    [
        (
            1,
            "auto",
            '2 processes need a GPU each, this machine has 1. Set processes=1, or device="cpu".',
        ),
        (2, "cuda:1", 'device="cuda:1" is one GPU for 2 processes. Set device="cuda".'),
        (2, "auto", None),
        (1, "cpu", None),
        (0, "auto", None),
    ],
)
def test_processes_that_would_share_a_gpu_are_refused(gpus, tiny, tmp_path, count, device, said):
    gpus(count)
    config = tiny_config(tiny, tmp_path, processes=2, shards=2, device=device)
    if said is None:
        require_startable(config)
        return
    with pytest.raises(ConfigError, match=re.escape(said)):
        require_startable(config)
    found, remedy = lack_of_gpus(device, 2) or ("", "")
    assert f"{found}. {remedy}." == said


def test_memory_that_torch_keeps_of_a_gpu_counts_as_free(monkeypatch):
    """A kernel that has trained before must not be told that its own memory is missing."""
    for name, value in {"memory_reserved": 30, "memory_allocated": 10}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 200))
    assert free_bytes(torch.device("cuda:0")) == 120


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
        [sys.executable, "-c", "import treelstm, torch"],
        env=unset | said | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


# --- one run in a process ----------------------------------------------------------------------


class Beside(Listener):
    """Has another thread do some work after the second step, and waits for it."""

    def __init__(self, work: Any) -> None:
        self.work, self.error = work, None

    def on_step(self, run: Any) -> None:
        if run.steps_done == 2:
            thread = threading.Thread(target=self._try)
            thread.start()
            thread.join()

    def _try(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.error = error


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(tiny_config(tiny, run, num_threads=2))
    return run


def test_a_second_run_in_the_process_is_refused_and_leaves_nothing(tiny, tmp_path, undisturbed):
    config = tiny_config(tiny, tmp_path / "run", num_threads=2)
    beside = Beside(lambda: train(dataclasses.replace(config, output_dir=str(tmp_path / "second"))))
    train(config, listeners=[beside])
    assert isinstance(beside.error, AlreadyTraining)
    assert f"already trains the run in {config.output_path}. Wait until it ends" in str(beside.error)
    assert not (tmp_path / "second").exists()
    assert_same_run(undisturbed, config.output_path)
    assert train(dataclasses.replace(config, output_dir=str(tmp_path / "second"))).finished


def test_work_in_another_thread_disturbs_neither_the_bits_nor_the_log_of_a_run(
    tiny, tmp_path, undisturbed
):
    encoder = load_encoder(undisturbed / "final_model.pt")
    pairs = load_pairs(tiny / "validation", encoder.settings.ignored_keys)

    def work() -> None:
        torch.set_num_threads(1)  # of that thread
        report = preflight(tiny_config(tiny, tmp_path / "new", num_threads=1))
        assert report.verdict == "go", str(report)
        evaluate(encoder, pairs)
        logging.getLogger("treelstm").warning("a line of other work")

    config, beside = tiny_config(tiny, tmp_path / "run", num_threads=2), Beside(work)
    before = torch.get_num_threads()
    train(config, listeners=[beside])
    assert beside.error is None and torch.get_num_threads() == before
    assert_same_run(undisturbed, config.output_path)
    log = (config.output_path / "training.log").read_text()
    assert "a line of other work" not in log and log.count("mallopt") == 1


def test_two_runs_one_after_another_have_a_log_each_and_leave_the_logger_as_it_was(tiny, tmp_path):
    logger = logging.getLogger("treelstm")
    before = logger.level, list(logger.handlers)
    for name in ("first", "second"):
        train(tiny_config(tiny, tmp_path / name, epochs=1))
        assert (logger.level, list(logger.handlers)) == before
    for name, other in (("first", "second"), ("second", "first")):
        log = (tmp_path / name / "training.log").read_text()
        assert str(tmp_path / name) in log and str(tmp_path / other) not in log


def test_a_run_in_an_asyncio_loop_leaves_the_loops_signal_handlers(tiny, tmp_path):
    heard: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, heard.append, "SIGTERM")
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        stop = StopAfter(3, by=signal.SIGTERM)
        stopped = train(tiny_config(tiny, tmp_path / "here", num_threads=2), listeners=[stop])
        assert "SIGTERM" in str(stopped.outcome)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        config = tiny_config(tiny, tmp_path / "here", num_threads=2)
        history = await loop.run_in_executor(None, train, config)
        assert history.finished and history.resumed_at == (0, 3)
        heard.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert heard == ["SIGTERM"]

    asyncio.run(main())


def test_the_allocators_settings_in_the_environment_win(config: Config, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    train(config)
    assert "mallopt" not in (config.output_path / "training.log").read_text()


def test_memory_that_runs_out_in_training_is_said_with_the_remedy_and_the_commit_stays(tiny, tmp_path):
    """The process is allowed no more memory than it has, after its first commit."""
    pytest.importorskip("resource")
    config = tiny_config(tiny, tmp_path / "run", num_threads=1)
    code = (
        "import resource, sys, torch, treelstm\n"
        "class Limit(treelstm.Listener):\n"
        "    def on_step(self, run):\n"
        "        if run.steps_done == 7:\n"
        "            used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "            resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))\n"
        "            torch.zeros(1 << 30)\n"
        f"config = treelstm.Config.from_parameters({config.to_dict()})\n"
        "try: treelstm.train(config, listeners=[Limit()])\n"
        "except MemoryError as error: print(error)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert "Set a smaller batch_size or smaller sizes" in done.stdout, done.stderr
    assert "OutOfMemory: " in (config.output_path / "training.log").read_text()
    history = train(config)
    assert history.finished and history.resumed_at == (1, 0)


CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9.00 GiB of which "
    "1.00 GiB is free. Including non-PyTorch memory, this process has 8 GiB in use. If reserved, try X."
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError(CUDA), "of which 1.00 GiB is free. What was committed"),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors"),
            "CUDA error: out of memory. What",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), "ALLOC_FAILED when"),
        (MemoryError(), "no memory is left. What was committed"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), "not enough"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
@pytest.mark.parametrize("ahead", [False, True], ids=["in a step", "while its inputs are made"])
def test_whatever_memory_runs_out_the_remedy_is_said_and_the_commit_kept(
    tiny, tmp_path, monkeypatch, error, said, ahead
):
    held: list[Any] = []

    class Remember(Listener):
        def on_start(self, run: Any) -> None:
            held.append(weakref.ref(run.encoder))

    def failing(original: Any) -> Any:
        calls = count()

        def fail(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == 8:
                raise error
            return original(*args, **kwargs)

        return fail

    config = tiny_config(tiny, tmp_path / "run", checkpoint_every_seconds=0)
    with monkeypatch.context() as patch:
        home, name = (inputs, "dropout_mask") if ahead else (step, "_loss")
        patch.setattr(home, name, failing(getattr(home, name)))
        with pytest.raises(OutOfMemory) as caught:
            train(config, listeners=[Remember()])
    text = str(caught.value)
    assert said in text and "Set a smaller batch_size" in text and "non-PyTorch" not in text
    assert ('device="cpu"' in text) == ("CUDA" in str(error))
    gc.collect()
    assert held[0]() is None, "an error that a notebook keeps holds the memory that is missing"
    history = train(config)
    assert history.finished and history.resumed_at == (1, 3)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shape"), OSError(errno.EIO, "disk")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, memory_errors_explained():
        raise error
    assert caught.value is error
