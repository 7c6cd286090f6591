"""Ends whatever a test process has started, once that process is gone, however it was killed.

A test process starts this file as a small watcher and puts a mark into its environment, which all its
children inherit. When the test process has ended, the watcher kills every process that has the mark.
This also reaches processes that started a session of their own or lost their parent.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import psutil

MARK = "TREELSTM_TEST_MARKS"  # one mark for each test process above this one
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_KILL = 30.0


def end_with_this_process(follow_parent: bool = False) -> None:
    """From now on, the children of this process end with it; `follow_parent`: and it with its parent."""
    mark = uuid.uuid4().hex
    words = [sys.executable, __file__, mark, str(os.getpid())]
    if follow_parent:
        words.append(str(os.getppid()))
    null = subprocess.DEVNULL
    _watchers.append(
        subprocess.Popen(words, stdin=null, stdout=null, stderr=null, start_new_session=True)
    )
    os.environ[MARK] = f"{os.environ.get(MARK, '')} {mark}"


_watchers: list[subprocess.Popen[bytes]] = []  # kept, since Popen warns when it is collected too early


def marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has just ended, or belongs to somebody else
            if mark in process.environ().get(MARK, ""):
                yield process


def watch(mark: str, watched: int, parent: int | None = None) -> None:
    while os.getppid() == watched:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(watched)
            if parent is not None and process.ppid() != parent:
                process.kill()
        time.sleep(SECONDS_BETWEEN_LOOKS)
    # A process shows its mark only after exec, so one empty look is not enough.
    empty, end = 0, time.monotonic() + SECONDS_TO_KILL
    while empty < 3 and time.monotonic() < end:
        found = list(marked(mark))
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        empty = 0 if found else empty + 1
        time.sleep(SECONDS_BETWEEN_LOOKS / 2)


if __name__ == "__main__":
    watch(sys.argv[1], *map(int, sys.argv[2:]))
