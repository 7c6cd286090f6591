"""The table of 05_compare.ipynb: runs to compare, to write a note on, to go on with."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import traitlets

from treelstm import run_tables
from treelstm.config import ConfigError, as_setting, did_you_mean, from_root
from treelstm.errors import UserError
from treelstm.files import open_file, write_whole
from treelstm.plain import AS_WRITTEN, in_html, shown
from treelstm.run.directory import find_best_model
from treelstm.run.summary import FAILED
from treelstm.runs import BROKEN, NOTES, RunRow
from treelstm.side_by_side import SideBySide, compare_encoders
from treelstm.tables import html_table
from treelstm.widgets import TablePicker, key_of, mark, settings_in_words

_MOST = 5  # runs that are compared
_MOST_OF_NOTE = 100_000  # bytes that can be edited here
_SHOWN_OF_NOTE = 200  # characters in the table


class NoteRefused(UserError, OSError):
    """A note cannot be read or written here."""


def read_note(run: Path) -> str:
    """The note on a run, "" if there is none. Raises NoteRefused if it cannot be read whole."""
    try:
        with open_file(run / NOTES) as file:
            data = file.read(_MOST_OF_NOTE + 1) or b""
        if len(data) > _MOST_OF_NOTE:
            raise ValueError(f"it is longer than {_MOST_OF_NOTE:,} bytes")
        return data.decode()
    except FileNotFoundError:
        return ""
    except (ValueError, OSError) as error:
        why = f"{run / NOTES} cannot be edited here: {error}. Use another program"
        raise NoteRefused(f"{why}.") from error


def write_note(run: Path, text: str, was: str) -> None:
    """Writes the note on a run, whole or not at all, if the present one is `was`.

    Raises:
        NoteRefused: it is another one by now, or cannot be read.
        WriteFailed: the disk refuses.
    """
    if (now := read_note(run)) != was:
        found = f"has changed meanwhile and is now: {now}" if now else "has been removed meanwhile"
        raise NoteRefused(f"Not saved: {NOTES} {found}\nSave again to replace it.")
    write_whole(run / NOTES, shown(text).encode())


class RunTable(TablePicker):
    """All runs, best first; `.value` are those chosen to be compared.

    By default the best runs of two different settings, else the best two.
    """

    chosen: traitlets.List[str] = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, runs: Sequence[RunRow], names: Sequence[str] | None = None) -> None:
        """`names` of the chosen ones.

        Raises:
            ConfigError: there is no run of a name, or none with an encoder.
        """
        runs, metric = run_tables.ranked(runs), run_tables.main_metric(runs)
        self._runs = {key_of(run.name): run for run in runs}
        differing, shared = run_tables.differing(runs), run_tables.shared_metrics(runs)
        head, texts = run_tables.table(runs, shared)
        head[-3:-1] = ["minutes", "MB"]
        # beside the name, the number by which they are ranked
        columns = sorted(range(len(head)), key=lambda n: n > 0 and head[n] != (metric and metric.label))
        rows = []
        for position, (run, line) in enumerate(zip(runs, texts, strict=True)):
            settings = [run.settings.get(name) for name in differing]
            best = dict[str, Any](run.best or {})
            numbers = [run.epochs_done, *(best.get(key) for key in ["epoch", *(m.key for m in shared)])]
            minutes, size = run.seconds and run.seconds / 60, run.size / 1e6
            values = [run.name, run.says, *settings, *numbers, minutes, size, run.note]
            line[-3:-1] = ["" if minutes is None else f"{minutes:.1f}", f"{size:.1f}"]
            line[-1] = run_tables.cut(run.note, _SHOWN_OF_NOTE)
            cells = [[shown(line[n]), _sorted_by(values[n])] for n in columns]
            rows.append(_row(run, position, cells))
        super().__init__(
            label="runs",
            columns=[head[n] for n in columns],
            rows=rows,
            order=[1, metric.better == "higher"] if metric else [0, False],
            most=_MOST,
            chosen=self._default() if names is None else [self._named(name) for name in names],
        )
        self.on_msg(self._write)

    @property
    def value(self) -> list[RunRow]:
        return [self._runs[key] for key in self.chosen]

    def _default(self) -> list[str]:
        runs = [run for run in self._runs.values() if _can_be_compared(run)]
        setting = {run.name: group.label for group in run_tables.groups(runs) for run in group.rows}
        best = {setting[run.name]: run.name for run in reversed(runs)}
        names = [run.name for run in runs if run.name in best.values()] + [run.name for run in runs]
        return [key_of(name) for name in dict.fromkeys(names)][:2]

    def _named(self, name: str) -> str:
        if name not in self._runs:
            listed = did_you_mean(name, self._runs) or "The table of runs lists them. "
            raise ConfigError(f"runs names {name!r}: no such run. {listed}Change it.")
        if not _can_be_compared(self._runs[name]):
            raise ConfigError(f"runs names {name!r}, which has no encoder to compare. Name another.")
        return name

    def _write(self, _: Any, content: dict[str, str], buffers: Any) -> None:
        """Saves the note that was typed in the browser, and says there what came of it."""
        key, saved, said = content["path"], True, f"Saved in {NOTES}."
        try:
            write_note(self._runs[key].path, content["note"], content["was"])
        except (UserError, OSError) as error:
            saved, said = False, str(error)
        rows = {row["path"]: dict(row) for row in self.rows}
        note = _note(self._runs[key])[0]
        cells = [*rows[key]["cells"][:-1], [run_tables.cut(note or "", _SHOWN_OF_NOTE), note]]
        rows[key] |= {"note": note, "said": said, "saved": saved, "cells": cells}
        self.rows = [*rows.values()]

    def _html(self) -> str:
        if not self.rows:
            return ""
        lines = list[list[str]]()
        for row in self.rows:
            name, *texts = (text for text, _ in row["cells"])
            lines.append([name, mark(row["path"] in self.chosen), *texts])
        html = html_table([self.columns[0], "", *self.columns[1:]], lines)
        for row in self.rows:
            if row["path"] in self.chosen:
                parts = "\n\n".join(f"# {label}\n{text}" for label, text in row["copies"])
                html += f"<pre {AS_WRITTEN}>{in_html(row['name'])}\n\n{in_html(parts)}</pre>"
        return html


def about(runs: Sequence[RunRow], directory: Path | str) -> str:
    """How many runs stand how, and what to know before they are compared."""
    if not runs:
        none = f"No run is under {from_root(directory)}. Train one, or name the directory of others"
        return shown(f"{none}.")
    counts = Counter(run.state for run in runs).most_common()
    states = ", ".join(f"{count} {state}" for state, count in counts)
    words = f"{len(runs)} run{'s' * (len(runs) > 1)}: {states}"
    return "\n".join([words, *run_tables.caveats(runs)])


def compared(runs: Sequence[RunRow], validation_dir: str | None, device: str) -> SideBySide | None:
    """The best encoders of these runs on the same pairs; says why where that is not possible."""
    try:
        return compare_encoders([find_best_model(run.path) for run in runs], validation_dir, device)
    except UserError as error:
        print(f"Nothing is compared: {error}")
        return None


def _can_be_compared(run: RunRow) -> bool:
    return run.best is not None and run.state != BROKEN


def _note(run: RunRow) -> tuple[str | None, str]:
    """The whole note, None if it cannot be edited, and why."""
    try:
        return read_note(run.path), ""
    except NoteRefused as error:
        return None, str(error)


def _row(run: RunRow, position: int, cells: list[list[Any]]) -> dict[str, Any]:
    """A row as picker.js gets it."""
    note, said = _note(run)
    output_dir = f"# Parameters of this run\noutput_dir = {as_setting(run.path)!r}\n"
    return {
        "path": key_of(run.name),
        "name": shown(run.name),
        "cells": cells,
        "position": position,
        "usable": _can_be_compared(run),
        "damaged": run.state in (BROKEN, FAILED),
        "status": shown(run.says),
        "settings": f"{shown(run.says)}. {settings_in_words(run.settings)}",
        "copies": [
            ["go on with this one: copy the parameters for 03_resume", f'{output_dir}resume = "auto"'],
            ["evaluate: copy the parameters for 04_evaluate", f'{output_dir}checkpoint = "best"'],
        ],
        "note": note,
        "said": said,
    }


def _sorted_by(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if math.isfinite(value) else None
    return None if value is None else shown(value)
