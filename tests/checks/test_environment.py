"""Planted faults of the installation, and how OpenMP's threads wait, in real processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import fault, healthy_config

from treelstm import preflight
from treelstm.checks.report import ERROR, WARNING


def pretend_version(patch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    real = metadata.version

    def pretended(asked: str) -> str:
        if asked != name:
            return real(asked)
        if version is None:
            raise metadata.PackageNotFoundError(asked)
        return version

    patch.setattr(metadata, "version", pretended)


@fault("Dependencies", ERROR, r"papermill is missing \(required: >=")
def test_package_missing(base, config, patch):
    pretend_version(patch, "papermill", None)


@fault("Dependencies", ERROR, r"torch is 1\.9\.0 \(required: >=")
def test_package_too_old(base, config, patch):
    pretend_version(patch, "torch", "1.9.0")


@fault("Dependencies", ERROR, "the package treelstm is not installed")
def test_package_itself_missing(base, config, patch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    patch.setattr(metadata, "requires", missing)


@fault("Dependencies", ERROR, r"Python 3\.8\.1 \(required: >=3\.11\)")
def test_python_too_old(base, config, patch):
    patch.setattr("platform.python_version", lambda: "3.8.1")


@fault(
    "Dependencies", ERROR, r"\(built for CPU\) finds no GPU\. Set .* install a CUDA build", quick=True
)
def test_gpu_asked_for_of_a_torch_for_the_cpu(base, config, patch):
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.version, "cuda", None)
    return dataclasses.replace(config, device="cuda")


@fault(
    "Dependencies", ERROR, r"\(built for CUDA 13\.0\) finds no GPU\. Set .* driver to one", quick=True
)
def test_gpu_asked_for_and_absent(base, config, patch):
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.version, "cuda", "13.0")
    return dataclasses.replace(config, device="cuda")


@fault(
    "Dependencies", WARNING, r"this machine has a GPU, .* cannot use it\. Update the GPU's driver", True
)
def test_gpu_that_torch_cannot_use(base, config, patch):
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(torch.version, "cuda", "13.0")
    found = Path.is_dir
    patch.setattr(Path, "is_dir", lambda self: str(self).endswith("nvidia/gpus") or found(self))
    return dataclasses.replace(config, device="auto")


def break_gpu(patch):
    def broken(*args: Any, device: Any, **kwargs: Any) -> None:
        raise RuntimeError("no kernel image\nfor this device")

    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    patch.setattr(torch.cuda, "current_device", lambda: 0)
    patch.setattr(torch.cuda, "get_device_name", lambda device: "Pretended GPU")
    patch.setattr(torch, "ones", broken)


@fault("Dependencies", ERROR, "Pretended GPU fails: no kernel image. Repair", quick=True)
def test_gpu_seen_and_broken(base, config, patch):
    break_gpu(patch)
    return dataclasses.replace(config, device="auto")


def test_a_broken_gpu_that_is_not_asked_for_stops_nothing(base, monkeypatch):
    break_gpu(monkeypatch)
    report = preflight(healthy_config(base, base / "run", device="cpu"), quick=True)
    assert report.verdict == "go"
    assert "training on the CPU" in {f.found for f in report.all}


@fault("Dependencies", ERROR, r'device is "cuda:3", but torch sees 1 GPU', quick=True)
def test_gpu_of_a_number_that_is_not_there(base, config, patch):
    break_gpu(patch)
    return dataclasses.replace(config, device="cuda:3")


@fault("Dependencies", WARNING, r"999 threads on \d+ cores slow each other down", quick=True)
def test_too_many_threads(base, config, patch):
    return dataclasses.replace(config, num_threads=999)


@fault("Dependencies", ERROR, 'needs the kernel "python3", which does not exist')
def test_kernel_missing(base, config, patch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def missing(self: Any, name: str) -> None:
        raise NoSuchKernel(name)

    patch.setattr(KernelSpecManager, "get_kernel_spec", missing)


@fault("Dependencies", WARNING, 'the kernel "python3" runs /elsewhere/python, not this Python')
def test_kernel_of_another_environment(base, config, patch):
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    spec = KernelSpec(argv=["/elsewhere/python", "-m", "ipykernel_launcher"])
    patch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: spec)


# --- how threads wait --------------------------------------------------------------------------

REPORT = """
import json, sys
from treelstm import Config, preflight
report = preflight(Config(data_dir=sys.argv[1], output_dir=sys.argv[1]), quick=True)
print(json.dumps([vars(each) for each in report.findings["Dependencies"]]))
"""
TORCH_FIRST, TREELSTM_FIRST = "import torch, treelstm", "import treelstm, torch"


@pytest.mark.skipif(sys.platform != "linux", reason="only torch for Linux comes with GNU's OpenMP")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
@pytest.mark.parametrize(
    ("imports", "threads", "environment", "levels"),
    [
        (TORCH_FIRST, 2, {}, ["note"]),
        (TREELSTM_FIRST, 2, {}, []),
        pytest.param(TORCH_FIRST, 2, {"GOMP_SPINCOUNT": "3000"}, [], marks=pytest.mark.long),
        (TORCH_FIRST, 1, {}, []),
    ],
    ids=["torch first", "treelstm first", "count set outside", "one thread"],
)
def test_threads_that_spin_while_they_wait_are_noted_with_the_remedy(
    tmp_path, imports, threads, environment, levels
):
    unset = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{REPORT}", str(tmp_path)],
        env=unset | {"OMP_NUM_THREADS": str(threads)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    findings = [f for f in json.loads(done.stdout) if "threads spin while they wait" in f["found"]]
    assert [finding["level"] for finding in findings] == levels
    assert all("GOMP_SPINCOUNT=3000" in finding["remedy"] for finding in findings)
