"""Checks of the output directory: writable? what is in it, what would training do?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from treelstm.checks.report import ERROR, NOTE, OK, WARNING, Finding
from treelstm.config import Config
from treelstm.data import Corpus
from treelstm.files import nearest_existing, write_whole
from treelstm.run.directory import list_checkpoints, load_checkpoint, starting_point
from treelstm.run.lock import holder
from treelstm.run.state import changed_settings
from treelstm.sealed import CheckpointError


def output_directory(config: Config, corpus: Corpus | None) -> Iterator[Finding]:
    directory = config.output_path
    yield from _writable(directory)
    if directory.is_dir() and (by := holder(directory)):
        yield Finding(
            ERROR, f"{directory} is in use by {by}", "Wait for it, stop it, or choose another output_dir"
        )
    good = []
    for checkpoint in list_checkpoints(directory) if corpus is not None else []:
        try:
            load_checkpoint(checkpoint.path)
            good.append(checkpoint)
        except CheckpointError as error:
            yield Finding(
                WARNING, str(error), "Auto passes over it; restore it from a backup if you can"
            )
    if good:
        yield Finding(OK, f"{len(good)} checkpoint(s) verified")
    if corpus is not None:
        yield from _what_resume_does(config, corpus)


def _writable(directory: Path) -> Iterator[Finding]:
    """Writing, fsync, rename and locking work where the commits will go."""
    base = nearest_existing(directory)
    if not base.is_dir():
        yield Finding(ERROR, f"{base} is a file, expected a directory", "Choose another output_dir")
        return
    probe = base / f".treelstm-preflight-{os.getpid()}"
    try:
        write_whole(probe, b"a probe; may be deleted")
        with filelock.FileLock(probe, timeout=0):
            pass
        yield Finding(OK, f"write, fsync, rename and lock work in {base}")
    except (OSError, NotImplementedError) as error:
        yield Finding(ERROR, str(error), "Mend its permissions or choose another output_dir")
    finally:
        try:
            probe.unlink(missing_ok=True)
        except OSError as error:
            yield Finding(WARNING, f"{probe} cannot be removed ({error.strerror})", "Remove it by hand")


def _what_resume_does(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """One sentence on what training would do, or why it would refuse."""
    if config.resume is None:
        existing = len(list_checkpoints(config.output_path))
        aside = f", setting {existing} checkpoint(s) aside" if existing else ""
        yield Finding(OK, f"resume=None starts from scratch{aside}")
        return
    try:
        start = starting_point(config.output_path, config.resume)
    except CheckpointError as error:
        yield Finding(
            ERROR, str(error), "Name another checkpoint, restore one, or choose a new output_dir"
        )
        return
    if start is None:
        yield Finding(
            OK, f'resume="auto" starts from scratch in {config.output_path}: no checkpoint yet'
        )
        return
    content, name = start.content, start.checkpoint.path.name
    changes = changed_settings(config, corpus, content)
    for change in changes:
        remedy = "Put it back to resume, or choose a new output_dir"
        yield Finding(ERROR, f"{name} was trained with {change}", remedy)
    done = start.checkpoint.epochs_done
    if not changes and done >= config.epochs:
        yield Finding(
            NOTE, f"{name} has finished: nothing is left to do", f"Raise epochs (now {config.epochs})"
        )
    elif not changes:
        step = f", step {content['step']}" if content["step"] else ""
        yield Finding(
            OK,
            f"resume takes {name} (epoch {content['epoch']}{step}) and runs epochs {done + 1} to "
            f"{config.epochs}",
        )
