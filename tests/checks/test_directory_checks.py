"""Planted faults of the output directory, and of the run in it."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
from faults import fault, healthy_config, positive

from treelstm import preflight
from treelstm.checks.report import ERROR, NOTE, WARNING


@fault("Output directory", ERROR, r"file is a file, expected a directory")
def test_output_below_a_file(base, config, patch):
    (base / "file").touch()
    return dataclasses.replace(config, output_dir=str(base / "file" / "run"))


@fault("Output directory", ERROR, r"fails in .*/run \(Read-only file system\)")
def test_output_read_only(base, config, patch):
    refuse_every_fsync(patch, errno.EROFS)


@fault("Output directory", ERROR, r"fails in .*/run \(No space left on device\)")
def test_output_on_a_full_disk(base, config, patch):
    refuse_every_fsync(patch, errno.ENOSPC)


def refuse_every_fsync(patch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    patch.setattr(os, "fsync", refuse)


@fault("Output directory", ERROR, r"the disk of .*/run has no locks .*accept_weak_disk=True")
def test_file_system_without_locks(base, config, patch):
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    patch.setattr(fcntl, "flock", refuse)


HOLD = """
import sys, time
from pathlib import Path
from treelstm.run.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_that_another_process_writes_to_is_an_error(base):
    words = [sys.executable, "-c", HOLD, str(base / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            report = preflight(healthy_config(base, base / "run", epochs=4))
        finally:
            process.kill()
    found = rf"run is in use by process {process.pid} on \S+ since \d{{4}}-"
    (finding,) = (f for f in report.findings["Output directory"] if re.search(found, f.found))
    assert finding.level == ERROR and finding.remedy


@fault("Output directory", WARNING, r"checkpoint_epoch_2\.pt is damaged")
def test_newest_checkpoint_damaged(base, config, patch):
    path = base / "run" / "checkpoint_epoch_2.pt"
    path.write_bytes(path.read_bytes()[:-1])


@fault("Output directory", ERROR, r"holds 2 checkpoint\(s\), and all are damaged")
def test_all_checkpoints_damaged(base, config, patch):
    for path in (base / "run").glob("checkpoint_*"):
        path.write_bytes(b"")


@fault("Output directory", ERROR, r"checkpoint_epoch_9\.pt: no such file")
def test_resume_path_missing(base, config, patch):
    return dataclasses.replace(config, resume=str(base / "run" / "checkpoint_epoch_9.pt"))


@fault("Output directory", ERROR, r"is not a checkpoint of ")
def test_resume_path_of_another_run(base, config, patch):
    shutil.copytree(base / "run", base / "other")
    return dataclasses.replace(config, resume=str(base / "other" / "checkpoint_epoch_2.pt"))


@fault(
    "Output directory", ERROR, r"checkpoint_epoch_2\.pt was trained with seed=42, this run asks for 7"
)
def test_seed_changed(base, config, patch):
    return dataclasses.replace(config, seed=7)


@fault("Output directory", ERROR, r"was trained with hidden_dim=12, this run asks for 20")
def test_size_changed(base, config, patch):
    return dataclasses.replace(config, hidden_dim=20)


@fault("Output directory", ERROR, r"was trained with training/positive_pairs\.jsonl with SHA-256")
def test_data_changed_since(base, config, patch):
    first, *others = positive(base).read_bytes().splitlines(True)
    positive(base).write_bytes(b"".join([*others, first]))


@fault(
    "Output directory",
    NOTE,
    r"checkpoint_epoch_2\.pt: the run is finished: nothing to do\. Raise epochs",
)
def test_already_finished(base, config, patch):
    return dataclasses.replace(config, epochs=2)
