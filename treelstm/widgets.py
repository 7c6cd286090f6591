"""What a person picks a checkpoint with. Each widget shows its default and never gates."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
from IPython.display import HTML

from treelstm.checkpoint import CheckpointError, describe, list_checkpoints, newest_usable
from treelstm.config import project_root

_COLUMNS = ("epoch", "step", "train loss", "validation loss", "average precision")


def checkpoint_table(output_dir: Path) -> HTML:
    """All checkpoints of a run, newest first, each one verified.

    The star marks the lowest validation loss that the run had seen when it wrote the last row.
    """
    rows = [describe(checkpoint) for checkpoint in reversed(list_checkpoints(output_dir))]
    best = next((row["path"] for row in rows if row["best"]), None)
    head = "".join(f"<th>{name}</th>" for name in (*_COLUMNS, "MB", "written", "status"))
    body = "".join(_row(row, row["path"] == best) for row in rows)
    return HTML(f"<table class='treelstm'><tr>{head}</tr>{body}</table>")


def _row(row: dict[str, Any], best: bool) -> str:
    numbers = (row["train_loss"], row["validation_loss"], row["average_precision"])
    cells = [str(row["epoch"]) + (" ★" if best else ""), "" if row["step"] is None else str(row["step"])]
    cells += ["" if number is None else f"{number:.4f}" for number in numbers]
    cells += [f"{row['bytes'] / 1e6:.1f}", f"{row['written']:%Y-%m-%d %H:%M:%S}", row["status"]]
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def checkpoint_choice(output_dir: Path, resume: str | None) -> ipywidgets.Dropdown:
    """A list of the run's whole checkpoints; `.value` is what `train` takes as `resume`.

    Raises:
        CheckpointError: `resume` names none of them, or asks for a fresh start.
    """
    rows = [describe(checkpoint) for checkpoint in reversed(list_checkpoints(output_dir))]
    newest = newest_usable(output_dir)
    options = [(f"auto: the newest whole one, {newest.checkpoint.path.name}", "auto")] if newest else []
    options += [(row["path"].name, str(row["path"])) for row in rows if row["status"] == "verified"]
    wanted = resume if resume in (None, "auto") else str(project_root() / str(resume))
    if wanted not in dict(options).values():
        raise CheckpointError(
            f"resume={resume!r} names no whole checkpoint of {output_dir}. Name one of the table, or "
            'say "auto"; for a fresh start use 02_train.ipynb.'
        )
    return ipywidgets.Dropdown(
        options=options,
        value=wanted,
        description="resume from",
        layout={"width": "60ch"},
        style={"description_width": "initial"},
    )
