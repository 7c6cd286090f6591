"""TensorBoard's file, derived from a commit: equal commits have byte for byte equal files.

The file is whatever `encoded` makes of the newest commit. So a kill in the middle of an append leaves
a beginning of it, which the next append completes; whatever else disagrees is replaced as a whole.
There is nothing to keep in step, hence no duplicate, no gap and no step backwards.
"""

from __future__ import annotations

import io
import logging
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from treelstm.files import write_whole

log = logging.getLogger("treelstm")

DIRECTORY = "tensorboard"
_NAME = "events.out.tfevents.treelstm"

_TAGS = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "train_acc": "accuracy/train",
    "validation_acc": "accuracy/validation",
    "validation_roc_auc": "validation/roc_auc",
    "validation_average_precision": "validation/average_precision",
    "learning_rate": "pace/learning_rate",
    "pairs_per_second": "pace/pairs_per_second",
    "seconds": "pace/seconds",
}


def write_events(output_dir: Path, content: dict[str, Any]) -> None:
    """Brings the event file up to date with a commit; a disk that refuses is said, and no harm."""
    path = output_dir / DIRECTORY / _NAME
    whole = encoded(content)
    try:
        path.parent.mkdir(exist_ok=True)
        there = path.read_bytes() if path.is_file() else b""
        if there and whole.startswith(there):  # a live TensorBoard reads on in a file that grows
            with path.open("ab") as file:
                file.write(whole[len(there) :])
        else:
            write_whole(path, whole)
    except OSError as error:
        log.warning("TensorBoard's file is behind, the next epoch tries again: %s", error)


def encoded(content: dict[str, Any]) -> bytes:
    """The event file of a commit: the settings as text, then every epoch's scalars."""
    timings = {timing["epoch"]: timing for timing in content.get("timings", ())}
    parts = [_opening(tuple((name, repr(value)) for name, value in content["config"].items()))]
    for record in content["history"]:
        parts.append(_epoch(tuple({**record, **timings.get(record["epoch"], {})}.items())))
    return b"".join(parts)


@lru_cache(maxsize=1)
def _opening(settings: tuple[tuple[str, str], ...]) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    rows = "".join(f"| {name} | {value} |\n" for name, value in settings)
    table = f"| setting | value |\n|---|---|\n{rows}"
    text = Summary.Value(
        tag="settings/text_summary",
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
        tensor=TensorProto(dtype=DT_STRING, string_val=[table.encode()]),
    )
    return _records(Event(file_version="brain.Event:2"), Event(summary=Summary(value=[text])))


@cache
def _epoch(record: tuple[tuple[str, Any], ...]) -> bytes:
    """One event holds all scalars of an epoch: it is there as a whole or not at all."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = dict(record)
    scalars = [
        Summary.Value(tag=tag, simple_value=values[name])
        for name, tag in _TAGS.items()
        if name in values
    ]
    return _records(
        Event(wall_time=values.get("ended", 0.0), step=values["epoch"], summary=Summary(value=scalars))
    )


def _records(*events: Any) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()
