"""Checks of the installation: packages, device, threads, the notebooks' kernel."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from treelstm.checks.report import ERROR, NOTE, OK, WARNING, Finding
from treelstm.config import Config, project_root
from treelstm.process import waiting_seconds

_LONGEST_WAIT_SECONDS = 1e-3  # of processor time after an operation: threads that sleep soon take 0.1 ms


def dependencies(config: Config) -> Iterator[Finding]:
    try:
        requires = metadata.requires("treelstm") or []
        python = metadata.metadata("treelstm")["Requires-Python"]
    except metadata.PackageNotFoundError:
        yield Finding(ERROR, "the package treelstm is not installed", "Run: pip install -e .")
        return
    fits = SpecifierSet(python).contains(platform.python_version())
    yield Finding(
        OK if fits else ERROR,
        f"Python {platform.python_version()} (asked for: {python})",
        "" if fits else "Make the environment again with a newer Python",
    )
    for requirement in map(Requirement, requires):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)
    yield from _device(config)
    yield from _waiting()
    yield from _kernel()


def _package(requirement: Requirement) -> Finding:
    remedy = f'Run: pip install "{requirement}"'
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(
            ERROR, f"{requirement.name} is missing (asked for: {requirement.specifier})", remedy
        )
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(OK, f"{requirement.name} {version} (asked for: {requirement.specifier})")
    return Finding(ERROR, f"{requirement.name} is {version}, asked for: {requirement.specifier}", remedy)


def _device(config: Config) -> Iterator[Finding]:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        try:
            worked = float(torch.ones(64, 64, device="cuda").mm(torch.ones(64, 64, device="cuda"))[0, 0])
        except RuntimeError as error:
            yield Finding(
                ERROR, f"{name} is seen, but fails: {error}", 'Mend the driver or set device="cpu"'
            )
        else:
            yield Finding(OK if worked == 64 else ERROR, f"{name} works, torch build for {build}")
    elif config.device.startswith("cuda"):
        yield Finding(
            ERROR,
            f'device is "{config.device}", but torch (built for {build}) sees no GPU',
            'Set device="cpu" or "auto", or install a CUDA build of torch',
        )
    elif Path("/proc/driver/nvidia/gpus").is_dir():
        yield Finding(
            WARNING,
            f"there is a GPU, but torch (built for {build}) cannot use it",
            "Install a CUDA build of torch",
        )
    else:
        yield Finding(OK, f"torch build for {build}, no GPU: training on the CPU")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = config.num_threads or torch.get_num_threads()
    if asked > cores:
        yield Finding(
            WARNING,
            f"{asked} threads on {cores} cores slow each other down",
            f"Set num_threads={cores}",
        )
    else:
        yield Finding(OK, f"{asked} threads on {cores} cores")


def _waiting() -> Iterator[Finding]:
    """Threads that wait for each other must sleep soon; too late to arrange once torch is loaded."""
    if torch.get_num_threads() == 1:
        return
    seconds = waiting_seconds()
    text = f"threads that wait for each other take {1000 * seconds:.1f} ms of processor time"
    if seconds < _LONGEST_WAIT_SECONDS:
        yield Finding(OK, text)
    else:
        yield Finding(
            NOTE,
            f"{text}: beside other busy processes, training can be 20 times as slow",
            "Import treelstm before torch, or set GOMP_SPINCOUNT=3000 in the environment",
        )


def _kernel() -> Iterator[Finding]:
    """The kernel that the notebooks name exists and is this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    for path in sorted((project_root() / "notebooks").glob("*.ipynb")):
        name = json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"]
        try:
            program = KernelSpecManager().get_kernel_spec(name).argv[0]
        except NoSuchKernel:
            yield Finding(
                ERROR,
                f'{path.name} names the kernel "{name}", which does not exist',
                f"Run: python -m ipykernel install --sys-prefix --name {name}",
            )
            return
        if program not in ("python", "python3", sys.executable):
            yield Finding(
                WARNING,
                f'the kernel "{name}" runs {program}, not this Python ({sys.executable})',
                f"Run: python -m ipykernel install --sys-prefix --name {name}",
            )
            return
    yield Finding(OK, "the kernel that the notebooks name exists and is this Python")
