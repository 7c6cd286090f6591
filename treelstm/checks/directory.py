"""Checks of the output directory: whether it can be written to, its checkpoints, what resume does."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import filelock

from treelstm.checks.report import ERROR, NOTE, OK, WARNING, Check, Finding, judged
from treelstm.config import Config
from treelstm.data.pairs import Corpus
from treelstm.files import nearest_existing, write_whole
from treelstm.run.changes import epochs_left, in_words, new_changes, refusals
from treelstm.run.directory import list_checkpoints, starting_point
from treelstm.run.lock import ADVICE, lacking, refuse_if_held
from treelstm.sealed import CheckpointError


def output_directory(config: Config, corpus: Corpus | None) -> Iterator[Check]:
    """Without a corpus, nothing is said of what resume does."""
    yield partial(_writing, config.output_path, config.accept_weak_disk)
    if corpus is not None:
        yield partial(_what_resume_does, config, corpus)


def resumes(config: Config) -> bool:
    """Whether there is something to go on from; what cannot be listed is said elsewhere."""
    try:
        return config.resume is not None and bool(list_checkpoints(config.output_path))
    except CheckpointError:
        return False


def _writing(directory: Path, accept_weak_disk: bool) -> Iterator[Finding]:
    writable = _writable(directory, accept_weak_disk)
    yield writable
    if writable.level != ERROR:
        refuse_if_held(directory)


def _writable(directory: Path, accept_weak_disk: bool) -> Finding:
    """Write, fsync, rename and lock work in the directory, or where it will be created."""
    code, base = "output.writable", nearest_existing(directory)
    if not base.is_dir():
        text = f"{base} is a file, expected a directory"
        return Finding(code, ERROR, text, "Choose another output_dir")
    probe = base / f".treelstm-preflight-{os.getpid()}-{threading.get_ident()}"
    try:
        try:
            write_whole(probe, b"a probe; may be deleted")
            if lacks := lacking(base):
                found = f"the disk of {base} has no {' and no '.join(lacks)}"
                return judged("output.weak-disk", found, not accept_weak_disk, ERROR, ADVICE, good=NOTE)
            with filelock.FileLock(probe, timeout=0):
                pass
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, NotImplementedError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        text = f"write, fsync, rename or lock fails in {base} ({reason})"
        return Finding(code, ERROR, text, "Correct its permissions or choose another output_dir")
    return Finding(code, OK, f"write, fsync, rename and lock work in {base}")


def _what_resume_does(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """What training would do, or why it would refuse."""
    if config.resume is None:
        count = len(list_checkpoints(config.output_path))
        aside = f" and moves {count} checkpoint(s) to superseded/" if count else ""
        yield Finding("resume.fresh", OK, f"resume=None starts from scratch{aside}")
        return
    start = starting_point(config.output_path, config.resume)
    for error in start.passed_over if start else ():
        remedy = 'resume="auto" skips it; restore it from a backup'
        yield Finding("resume.damaged-checkpoint", WARNING, str(error), remedy)
    if start is None:
        text = f'resume="auto" starts from scratch: no checkpoint in {config.output_path}'
        yield Finding("resume.fresh", OK, text)
        return
    content, name = start.content, start.checkpoint.path.name
    if reasons := refusals(config, corpus, content, start.checkpoint.path):
        yield from (Finding("resume.refused", ERROR, *reason) for reason in reasons)
        return
    changes = new_changes(config, corpus, content)
    for change in changes:
        yield Finding("resume.changed", NOTE, f"changed on purpose: {in_words(change)}")
    left, to_do = epochs_left(config, content, changes)
    if left:
        place = f"epoch {content['epoch']}" + (f", step {content['step']}" if content["step"] else "")
        yield Finding("resume.position", OK, f"resumes from {name} ({place}); {to_do}")
    else:
        text, _, remedy = to_do.partition(". ")
        yield Finding("resume.finished", NOTE, f"{name}: {text}", remedy)
