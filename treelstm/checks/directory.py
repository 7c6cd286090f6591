"""Checks of the output directory: whether it can be written to, its checkpoints, what resume does."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import filelock

from treelstm.checks.report import ERROR, NOTE, OK, WARNING, Finding, judged
from treelstm.config import Config
from treelstm.data.pairs import Corpus
from treelstm.files import nearest_existing, write_whole
from treelstm.run.changes import epochs_left, in_words, new_changes, refusals
from treelstm.run.directory import list_checkpoints, starting_point
from treelstm.run.lock import ADVICE, lacking, refuse_if_held


def output_directory(config: Config, corpus: Corpus | None) -> Iterator[Finding]:
    """Without a corpus, nothing is said of what resume does."""
    directory = config.output_path
    writable = _writable(directory, config.accept_weak_disk)
    yield writable
    if writable.level != ERROR:
        refuse_if_held(directory)
    if corpus is not None:
        yield from _what_resume_does(config, corpus)


def _writable(directory: Path, accept_weak_disk: bool) -> Finding:
    """Write, fsync, rename and lock work in the directory, or where it will be created."""
    base = nearest_existing(directory)
    if not base.is_dir():
        return Finding(ERROR, f"{base} is a file, expected a directory", "Choose another output_dir")
    probe = base / f".treelstm-preflight-{os.getpid()}-{threading.get_ident()}"
    try:
        try:
            write_whole(probe, b"a probe; may be deleted")
            if lacks := lacking(base):
                found = f"the disk of {base} has no {' and no '.join(lacks)}"
                return judged(found, not accept_weak_disk, ERROR, ADVICE, good=NOTE)
            with filelock.FileLock(probe, timeout=0):
                pass
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, NotImplementedError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        text = f"write, fsync, rename or lock fails in {base} ({reason})"
        return Finding(ERROR, text, "Correct its permissions or choose another output_dir")
    return Finding(OK, f"write, fsync, rename and lock work in {base}")


def _what_resume_does(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """What training would do, or why it would refuse."""
    if config.resume is None:
        count = len(list_checkpoints(config.output_path))
        aside = f" and moves {count} checkpoint(s) to superseded/" if count else ""
        yield Finding(OK, f"resume=None starts from scratch{aside}")
        return
    start = starting_point(config.output_path, config.resume)
    for error in start.passed_over if start else ():
        yield Finding(WARNING, str(error), 'resume="auto" skips it; restore it from a backup')
    if start is None:
        yield Finding(OK, f'resume="auto" starts from scratch: no checkpoint in {config.output_path}')
        return
    content, name = start.content, start.checkpoint.path.name
    if reasons := refusals(config, corpus, content, start.checkpoint.path):
        yield from (Finding(ERROR, *reason) for reason in reasons)
        return
    changes = new_changes(config, corpus, content)
    yield from (Finding(NOTE, f"changed on purpose: {in_words(change)}") for change in changes)
    left, to_do = epochs_left(config, content, changes)
    if left:
        place = f"epoch {content['epoch']}" + (f", step {content['step']}" if content["step"] else "")
        yield Finding(OK, f"resumes from {name} ({place}); {to_do}")
    else:
        text, _, remedy = to_do.partition(". ")
        yield Finding(NOTE, f"{name}: {text}", remedy)
