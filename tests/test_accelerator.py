"""The whole package on a pretended accelerator (accelerator.py): no CPU tensor strays to the device, a
step waits for nothing, and runs go on from one device on the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import assert_same_run
from vectors import some_vectors

SCRIPT = Path(__file__).with_name("on_accelerator.py")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("accelerator")


@pytest.fixture(scope="module")
def found(tiny: Path, work: Path) -> dict[str, Any]:
    """What tests/on_accelerator.py found, in one process."""
    words = [sys.executable, SCRIPT, tiny, work, some_vectors(tiny, work / "vectors.txt")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    if "_setup_privateuseone_for_python_backend" in done.stderr:
        pytest.skip("this version of torch cannot be given a device")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_step_of_any_kind_waits_for_nothing_and_computes_what_the_cpu_computes(found):
    assert len(found["steps"]) == 14
    for name, kind in found["steps"].items():
        assert not kind["waits"], name
        tolerance = 1e-2 if name == "bfloat16" else 1e-5
        np.testing.assert_allclose(kind["cuda"], kind["cpu"], rtol=tolerance, err_msg=name)


def test_nor_does_the_loop_between_two_steps_beside_one_thread_that_ends_with_the_run(found):
    loop = found["loop"]
    assert loop["steps"] > 30 and not loop["waits"]
    assert loop["threads"] == [1] and loop["left"] == 0


def test_memory_that_runs_out_on_the_side_thread_is_said_and_the_commit_kept(found):
    assert "What was committed is intact. Set a smaller batch_size" in found["loop"]["said"]
    assert found["loop"]["resumed_at"] == [1, 2]


@pytest.mark.parametrize("devices", ["cuda-cuda", "cuda-cpu", "cpu-cuda", "cpu-cpu"])
def test_a_run_goes_on_on_either_device_and_says_what_is_no_longer_promised(found, work, devices):
    run = found["resumed"][devices]
    assert run["at"] == [1, 2] and len(run["epochs"]) == 3
    np.testing.assert_allclose(run["epochs"], found["resumed"]["cpu-cpu"]["epochs"], rtol=1e-4)
    log = (work / devices / "training.log").read_text()
    first, second = devices.replace("cuda", "pretended").split("-")
    warning = f"device was {first}, is {second} now: allowed, but the result may differ in the last bits"
    assert (warning in log) == (first != second)


def test_a_run_that_stays_on_the_device_is_bit_identical(found, work):
    assert_same_run(work / "cuda", work / "cuda-cuda")


@pytest.mark.parametrize("what", ["encode", "import", "evaluate", "rivals", "explain", "nearest"])
def test_what_a_trained_encoder_is_used_for_gives_the_same_on_either_device(found, what):
    here, there = (found["used"][device][what] for device in ("cuda", "cpu"))
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)


def test_preflight_tries_its_steps_on_the_device(found):
    report = found["preflight"]
    assert report["verdict"] == "go", report["text"]
    for said in ("parameters on pretended:0", "give identical bits on pretended:0"):
        assert said in report["text"]
