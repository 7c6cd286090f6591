"""TensorBoard's file, derived from a commit: equal commits have equal files, byte for byte.

The next write completes a file that a kill cut short. In place of one that is not a beginning of what
`encoded` makes of the newest commit, it writes another with a later name. A running TensorBoard goes on
to that one, and drops what it had read at the event with which every file begins: a session's start. So
the curves never repeat or skip an epoch, or go backwards. Earlier files are emptied, not removed: where
the file that it follows is gone, TensorBoard never looks for a later one.
"""

import io
import logging
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from treelstm.files import clear_leftovers, listed
from treelstm.history import IN_HISTORY, value_of
from treelstm.run.content import Commit
from treelstm.run.directory import newest_usable
from treelstm.run.listener import Listener
from treelstm.run.state import Run

log = logging.getLogger("treelstm")

DIRECTORY = "tensorboard"
_NAME = "events.out.tfevents.treelstm.{:06d}"
_OURS = re.compile(r"events\.out\.tfevents\.treelstm(?:\.(\d{6}))?")  # earlier versions had no number
_TAGS = {each.key: each.tag for each in IN_HISTORY if each.tag}
_TIMING_TAGS = {"pairs_per_second": "pace/pairs_per_second", "seconds": "pace/seconds"}


class TensorBoardFile(Listener):
    """Keeps the event file up to date with the newest epoch's commit."""

    def __init__(self, output_dir: Path) -> None:
        self._output_dir = output_dir

    def on_start(self, run: Run) -> None:
        clear_leftovers(self._output_dir / DIRECTORY, lambda name: bool(_OURS.fullmatch(name)))
        # A run with more to do writes at the end of its next epoch.
        if run.outcome and (newest := newest_usable(self._output_dir)):
            write_events(self._output_dir, newest.content)

    def on_commit(self, commit: Commit) -> None:
        if not commit["step"]:
            write_events(self._output_dir, commit)


def write_events(output_dir: Path, commit: Commit) -> None:
    """Brings the event file up to date with a commit. If the disk refuses, that is only logged."""
    directory, whole = output_dir / DIRECTORY, encoded(commit)
    try:
        directory.mkdir(exist_ok=True)
        matches = [_OURS.fullmatch(path.name) for path in listed(directory, "*")]
        numbers = {int(match[1] or 0): directory / match[0] for match in matches if match}
        newest = max(numbers, default=0)
        path = numbers.pop(newest, None)
        there = path.read_bytes() if path else b""
        alone = path is not None and path.stat().st_nlink == 1  # else a snapshot (`cp -al`) has it too
        if path and alone and whole.startswith(there):  # a running TensorBoard follows a file that grows
            with path.open("ab") as file:
                file.write(whole[len(there) :])
        else:
            with (directory / _NAME.format(newest + 1)).open("xb") as file:
                file.write(whole)
            if path:
                numbers[newest] = path
        for older in numbers.values():
            if older.stat().st_nlink == 1:
                os.truncate(older, 0)
            else:
                older.unlink()
    except OSError as error:
        log.warning("TensorBoard's file is behind, the next epoch tries again: %s", error)


def encoded(commit: Commit) -> bytes:
    """The event file of a commit: a session's start, every epoch's scalars."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    timings = {timing["epoch"]: timing for timing in commit["timings"]}
    start = Event(session_log=SessionLog(status=SessionLog.START))
    parts = [_records(Event(file_version="brain.Event:2"), start)]
    for record in commit["history"]:
        timing = timings[record["epoch"]]
        scalars = [(tag, value_of(record, key)) for key, tag in _TAGS.items() if key in record]
        scalars += [(tag, value_of(timing, key)) for key, tag in _TIMING_TAGS.items()]
        parts.append(_epoch(record["epoch"], timing["ended"], tuple(scalars)))
    return b"".join(parts)


@cache
def _epoch(epoch: int, ended: float, scalars: tuple[tuple[str, float], ...]) -> bytes:
    """One event with all scalars of an epoch, so that a reader sees all of them or none."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=number) for tag, number in scalars]
    return _records(Event(wall_time=ended, step=epoch, summary=Summary(value=values)))


def _records(*events: Any) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()
