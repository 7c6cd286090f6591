"""Checks of the output directory: whether it can be written to, its checkpoints, what resume does."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from treelstm.checks.report import ERROR, NOTE, OK, WARNING, Finding, judged
from treelstm.config import Config
from treelstm.data.pairs import Corpus
from treelstm.files import nearest_existing, write_whole
from treelstm.run.changes import epochs_left, in_words, new_changes, refusals
from treelstm.run.directory import list_checkpoints, load_checkpoint, starting_point
from treelstm.run.lock import ADVICE, holder, lacking
from treelstm.sealed import CheckpointError, MissingCheckpoint, UnreadableCheckpoint

_SECONDS = 10  # for reading a run's checkpoints, the newest first


def output_directory(config: Config, corpus: Corpus | None) -> Iterator[Finding]:
    """Without a corpus, checkpoints are not read."""
    directory = config.output_path
    writable = _writable(directory, config.accept_weak_disk)
    yield writable
    if writable.level != ERROR and (by := holder(directory)):
        remedy = "Wait for it, stop it, or choose another output_dir"
        yield Finding(ERROR, f"{directory} is in use by {by}", remedy)
    if corpus is None:
        return
    verified, began = 0, time.monotonic()
    checkpoints = list_checkpoints(directory)
    for number, checkpoint in enumerate(reversed(checkpoints)):
        if time.monotonic() - began > _SECONDS:
            yield Finding(NOTE, f"{len(checkpoints) - number} older checkpoint(s) were not read")
            break
        try:
            load_checkpoint(checkpoint.path)
            verified += 1
        except MissingCheckpoint:
            continue  # pruned by whoever trains the run
        except UnreadableCheckpoint as error:
            yield Finding(ERROR, str(error), "Make it readable")
        except CheckpointError as error:
            yield Finding(WARNING, str(error), 'resume="auto" skips it; restore it from a backup')
    if verified:
        yield Finding(OK, f"{verified} checkpoint(s) verified")
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
