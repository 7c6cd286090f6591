"""The table of 05_compare.ipynb: runs to compare, to write a note on, to go on with."""

from collections.abc import Sequence
from typing import Any

import traitlets

from treelstm.config import ConfigError, as_setting, did_you_mean
from treelstm.errors import UserError
from treelstm.plain import AS_WRITTEN, in_html, shown
from treelstm.run.directory import find_best_model
from treelstm.run.summary import FAILED
from treelstm.run_table import groups, main_metric, ranked, shared_metrics, table
from treelstm.runs import BROKEN, NOTES, RunRow, note_of, write_note
from treelstm.side_by_side import MOST, SideBySide, compare_encoders
from treelstm.tables import html_table
from treelstm.widgets.table import TablePicker, key_of, settings_in_words


class RunPicker(TablePicker):
    """All runs, best first; `.value` are those chosen to be compared.

    By default the best runs of two different settings, else the best two.
    """

    chosen: traitlets.List[str] = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, runs: Sequence[RunRow], names: Sequence[str] | None = None) -> None:
        """`names` of the chosen ones.

        Raises:
            ConfigError: there is no run of a name, or none with an encoder.
        """
        metric, runs = main_metric(runs), ranked(runs)
        self._runs = {key_of(run.name): run for run in runs}
        head, lines = table(runs, shared_metrics(runs))
        # beside the name, the number by which they are ranked
        columns = sorted(range(len(head)), key=lambda n: n > 0 and head[n] != (metric and metric.label))
        super().__init__(
            label="runs",
            columns=[head[n] for n in columns],
            rows=[
                _row(run, position, [line[n] for n in columns])
                for position, (run, line) in enumerate(zip(runs, lines, strict=True))
            ],
            order=[1, metric.better == "higher"] if metric else [0, False],
            most=MOST,
            chosen=self._default() if names is None else [self._named(name) for name in names],
        )
        self.on_msg(self._write)

    @property
    def value(self) -> list[RunRow]:
        return [self._runs[key] for key in self.chosen]

    def _default(self) -> list[str]:
        runs = [run for run in self._runs.values() if _has_encoder(run)]
        best = [rows[0] for _, rows in groups(runs)]
        return [*dict.fromkeys(key_of(run.name) for run in best + runs)][:2]

    def _named(self, name: str) -> str:
        if name not in self._runs:
            listed = did_you_mean(name, self._runs) or "The table of runs lists them. "
            raise ConfigError(f"runs names {name!r}: no such run. {listed}Change it.")
        if not _has_encoder(self._runs[name]):
            raise ConfigError(f"runs names {name!r}, which has no encoder to compare. Name another.")
        return name

    def _write(self, _: Any, content: dict[str, str], buffers: Any) -> None:
        """Saves the note that was typed in the browser, and says there what came of it."""
        run, saved, said = self._runs[content["path"]], True, f"Saved in {NOTES}."
        try:
            write_note(run.path, content["note"], content["was"])
        except (UserError, OSError) as error:
            saved, said = False, str(error)
        run.note = note_of(run.path)
        *_, cell = table([run], [])[1][0]
        rows = {row["path"]: row for row in self.rows}
        row = rows[content["path"]]
        new = {"note": run.note, "said": said, "saved": saved, "cells": [*row["cells"][:-1], cell]}
        self.rows = [*(rows | {row["path"]: row | new}).values()]

    def night_form(self) -> str:
        lines, below = list[list[str]](), ""
        for row in self.rows:
            chosen, texts = row["path"] in self.chosen, [text for text, _ in row["cells"][1:]]
            lines.append([row["name"], "chosen" * chosen, *texts])
            if chosen:
                parts = "\n\n".join(f"# {label}\n{text}" for label, text in row["copies"])
                below += f"<pre {AS_WRITTEN}>{in_html(row['name'])}\n\n{in_html(parts)}</pre>"
        return html_table([self.columns[0], "", *self.columns[1:]], lines) + below if lines else ""


def compared(runs: Sequence[RunRow], validation_dir: str | None, device: str) -> SideBySide | None:
    """The best encoders of these runs on the same pairs; says why where that is not possible."""
    try:
        return compare_encoders([find_best_model(run.path) for run in runs], validation_dir, device)
    except UserError as error:
        print(f"Nothing is compared: {error}")
        return None


def _has_encoder(run: RunRow) -> bool:
    return run.best is not None and run.state != BROKEN


def _row(run: RunRow, position: int, cells: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A row as picker.js gets it."""
    output_dir = f"# Parameters of this run\noutput_dir = {as_setting(run.path)!r}\n"
    says = shown(run.says)
    return {
        "path": key_of(run.name),
        "name": shown(run.name),
        "cells": cells,
        "position": position,
        "usable": _has_encoder(run),
        "damaged": run.state in (BROKEN, FAILED),
        "status": says,
        "settings": f"{says}. {settings_in_words(run.settings)}",
        "copies": [
            ["go on with this one: copy the parameters for 03_resume", f'{output_dir}resume = "auto"'],
            ["evaluate: copy the parameters for 04_evaluate", f'{output_dir}checkpoint = "best"'],
        ],
        "note": run.note,
    }
