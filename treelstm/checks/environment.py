"""Checks of the installation: packages, device, threads, the notebooks' kernel."""

import json
import platform
import sys
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import treelstm
from treelstm.checks.report import ERROR, NOTE, OK, WARNING, Check, Finding, judged
from treelstm.config import Config, project_root
from treelstm.process import chosen_device, default_threads, usable_cores


def dependencies(config: Config) -> Iterator[Check]:
    yield _packages
    yield partial(_device, config)
    yield partial(_threads, config)
    yield _kernel


def _packages() -> Iterator[Finding]:
    try:
        requires = metadata.requires("treelstm") or []
        python = metadata.metadata("treelstm")["Requires-Python"]
    except metadata.PackageNotFoundError:
        text, remedy = "the package treelstm is not installed", "Run: pip install -e ."
        yield Finding("environment.package", ERROR, text, remedy)
        return
    text = f"Python {platform.python_version()} (required: {python})"
    wrong = not SpecifierSet(python).contains(platform.python_version())
    remedy = "Create the environment again with a newer Python"
    yield judged("environment.python", text, wrong, ERROR, remedy)
    for requirement in map(Requirement, requires):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)


def _package(requirement: Requirement) -> Finding:
    name, required = requirement.name, f"(required: {requirement.specifier})"
    remedy = f'Run: pip install "{requirement}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding("environment.package", ERROR, f"{name} is missing {required}", remedy)
    wrong = not requirement.specifier.contains(version, prereleases=True)
    return judged("environment.package", f"{name} is {version} {required}", wrong, ERROR, remedy)


def _device(config: Config) -> Finding:
    """Whether torch computes right on the device that training will use; other GPUs do not matter."""
    code = "environment.device"
    cuda = torch.version.cuda
    build = f"torch (built for {f'CUDA {cuda}' if cuda else 'CPU'})"
    mend = f"update the GPU's driver to one for CUDA {cuda}" if cuda else "install a CUDA build of torch"
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        found = f'device is "{config.device}", but {build} finds no GPU'
        return Finding(code, ERROR, found, f'Set device="cpu" or "auto", or {mend}')
    device = chosen_device(config.device)
    if device.type == "cpu":
        if config.device == "auto" and Path("/proc/driver/nvidia/gpus").is_dir():
            text = f"this machine has a GPU, but {build} cannot use it"
            return Finding(code, WARNING, text, mend[0].upper() + mend[1:])
        found = "" if config.device == "cpu" else f"{build} finds no GPU: "
        return Finding(code, OK, f"{found}training on the CPU")
    name = torch.cuda.get_device_name(device)
    try:
        ones = torch.ones(64, 64, device=device)
        if float(ones.mm(ones)[0, 0]) == 64:
            return Finding(code, OK, f"{name} works with {build}")
        problem = "computes wrong numbers"
    except RuntimeError as error:
        problem = f"fails: {str(error).partition(chr(10))[0]}"
    remedy = 'Repair the driver, install a build of torch for this GPU, or set device="cpu"'
    return Finding(code, ERROR, f"{name} {problem}", remedy)


def _threads(config: Config) -> Iterator[Finding]:
    """No more threads than cores, and waiting threads sleep instead of spinning (`__init__.py`)."""
    cores, count = usable_cores(), config.num_threads or default_threads(config.shards)
    text = f"{count} threads on {cores} cores" + (" slow each other down" if count > cores else "")
    yield judged("environment.threads", text, count > cores, WARNING, f"Set num_threads={cores}")
    if treelstm.torch_came_first and sys.platform == "linux" and min(count, cores) > 1:
        text = "torch was imported before treelstm, so its threads spin while they wait: while other "
        text += "processes are busy, training can be 20 times slower"
        remedy = "Import treelstm first, or set GOMP_SPINCOUNT=3000 in the environment"
        yield Finding("environment.spinning-threads", NOTE, text, remedy)


def _kernel() -> Finding:
    """The notebooks' kernel exists and runs this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    code = "environment.kernel"
    for path in sorted((project_root() / "notebooks").glob("*.ipynb")):
        name = json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"]
        remedy = f"Run: python -m ipykernel install --sys-prefix --name {name}"
        try:
            program = KernelSpecManager().get_kernel_spec(name).argv[0]
        except NoSuchKernel:
            text = f'{path.name} needs the kernel "{name}", which does not exist'
            return Finding(code, ERROR, text, remedy)
        except RuntimeError as error:  # Jupyter looks for kernels in the home directory
            text = f"the notebooks' kernel was not looked for: {error}"
            return Finding(code, NOTE, text, "Set HOME to use them")
        if program not in ("python", "python3", sys.executable):
            text = f'the kernel "{name}" runs {program}, not this Python ({sys.executable})'
            return Finding(code, WARNING, text, remedy)
    return Finding(code, OK, "the notebooks' kernel exists and runs this Python")
