"""A small pytest session is killed in every way; none of its processes may be left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lab
import psutil
import pytest
from conftest import REPOSITORY
from lab import until
from pages import gone

# Two tests that end only when killed: each has a child in a session of its own and a grandchild.
SESSION = """
import os, subprocess, sys, time, urllib.request
from pathlib import Path
import lab, pytest

FORK = "import os, time; os.fork(); print(flush=True); time.sleep(600)"

@pytest.mark.parametrize("name", ["first", "second"])
def test_long(tmp_path, name):
    with_lab = name == "first" and "WITH_LAB" in os.environ
    words = [sys.executable, "-c", FORK]
    child = subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
    if with_lab:
        with lab.jupyterlab(tmp_path) as address, lab.chromium() as browser:
            urllib.request.urlopen(f"{address}/api/kernels", data=b"{}").close()
            browser.new_page().goto(f"{address}/lab")
            wait(name)
    wait(name)

def wait(name):
    Path(__file__).with_name(name).write_text(str(os.getpid()))
    time.sleep(600)
"""
LABEL = "TREELSTM_SMALL_SESSION"


def processes(directory: Path) -> list[psutil.Process]:
    """All processes of the session, watchers included: they inherit its label."""
    label, found = str(directory), psutil.process_iter(["environ"])
    return [process for process in found if (process.info["environ"] or {}).get(LABEL) == label]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the small session by these words, and returns once both tests are waiting."""
    (tmp_path / "test_long.py").write_text(SESSION)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    sessions: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **environment: str) -> subprocess.Popen[bytes]:
        path = f"{REPOSITORY / 'tests'}:{REPOSITORY}"
        environment = os.environ | {"PYTHONPATH": path, LABEL: str(tmp_path)} | environment
        with (tmp_path / "output.txt").open("wb") as output:
            session = subprocess.Popen(
                words, cwd=tmp_path, env=environment, stdout=output, stderr=output
            )
        sessions.append(session)

        def ready() -> bool:
            assert session.poll() is None, (tmp_path / "output.txt").read_text()
            paths = [tmp_path / "first", tmp_path / "second"]
            return all(path.exists() and path.read_text() for path in paths)

        until(ready, 120, "both tests to wait")
        return session

    yield start
    for process in processes(tmp_path):
        process.kill()
    for session in sessions:
        session.wait()


PYTEST = [sys.executable, "-m", "pytest", "-p", "conftest", "--numprocesses", "2"]


def assert_gone(found: list[psutil.Process]) -> None:
    until(lambda: all(map(gone, found)), 10, f"the end of {[p for p in found if not gone(p)]}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_pytest_leaves_no_process(start, tmp_path, number):
    session = start(*PYTEST)
    found = processes(tmp_path)
    assert len(found) == 10  # pytest, 2 workers, their 3 watchers, 2 children and 2 grandchildren
    session.send_signal(number)
    session.wait(10)
    assert_gone(found)
    assert not processes(tmp_path)


def test_a_killed_worker_leaves_no_process_and_the_other_worker_goes_on(start, tmp_path):
    session = start(*PYTEST)
    workers = [psutil.Process(int((tmp_path / name).read_text())) for name in ("first", "second")]
    first, second = (worker.children(recursive=True) for worker in workers)
    assert len(first) == len(second) == 3
    workers[0].kill()
    assert_gone([workers[0], *first])
    assert not any(map(gone, [workers[1], *second]))
    session.send_signal(signal.SIGHUP)
    session.wait(10)
    assert_gone([workers[1], *second])


@pytest.mark.browser
@pytest.mark.skipif(lab.missing() is not None, reason=str(lab.missing()))
def test_a_killed_ci_run_leaves_no_server_no_kernel_and_no_browser(start, tmp_path):
    """The real script and the real target; only the programs are stand-ins."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ruff", "mypy"):
        (programs / name).symlink_to("/bin/true")
    pytest_words = " ".join(PYTEST[:-2])
    (programs / "pytest").write_text(f'#!/bin/sh\ncd {tmp_path}\nexec {pytest_words} "$@"\n')
    (programs / "pytest").chmod(0o755)
    (tmp_path / "ready").touch()
    settings = f"BIN={programs} READY={tmp_path / 'ready'}"
    session = start("bash", str(REPOSITORY / ".ci" / "run"), MAKEFLAGS=settings, WITH_LAB="1")
    found = list({*processes(tmp_path), *psutil.Process(session.pid).children(recursive=True)})
    names = " ".join(" ".join(process.cmdline()) for process in found)
    for part in ("jupyterlab", "ipykernel", "playwright", "chromium"):
        assert part in names, part
    session.kill()
    session.wait(10)
    assert_gone(found)
    assert not processes(tmp_path)
