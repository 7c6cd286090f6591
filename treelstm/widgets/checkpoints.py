"""Choosing a checkpoint to resume from, or an encoder to look at."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import traitlets

from treelstm.config import Config, Settings, from_root
from treelstm.drawing import PageFigure
from treelstm.figures import history_figure
from treelstm.files import is_there
from treelstm.history import IN_HISTORY, EpochRecord, best, marked
from treelstm.plain import shown
from treelstm.progress import is_interactive
from treelstm.run.directory import (
    BEST,
    FINAL,
    checkpoint_at,
    find_best_model,
    list_checkpoints,
    looks_again,
    names_in,
    newest_usable,
)
from treelstm.run.status import CheckpointRow, unread_row, verified_row
from treelstm.sealed import CheckpointError
from treelstm.tables import html_table
from treelstm.widgets.table import TablePicker, key_of, settings_in_words

_SECONDS_TO_WAIT = 2.0  # for the files to be verified, where the table cannot be updated later
_SECONDS_TO_FIRST_UPDATE = 0.3
_ROWS, _ROWS_IN_FILE = 1_000, 100  # of a picker, at most: in a browser, in an executed page
_COLUMNS = tuple(metric for metric in IN_HISTORY if metric.column)


class CheckpointPicker(TablePicker):
    """A run's checkpoints beside its curve; `.value` is the path of the chosen one.

    The table is shown at once; the files are then read and verified in the background, newest first.
    """

    chosen = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        paths: Sequence[Path | str],
        chosen: Path | str,
        history: Sequence[EpochRecord],
        default: str = "",
        settings: Settings | None = None,
    ) -> None:
        """`chosen` is one of the paths; `history` is that of the first path's run;
        `default` is the parameter `resume`, if any; `settings` are the run's.
        """
        self._settings, self._asked = settings or {}, ""
        self._history, self._best, self._count = history, best(history), len(paths)
        self._directory, key = Path(paths[0]).parent, key_of(chosen)
        self._seen = self._newest_commit() if default else None
        self._default, self._paths, rows = (default, key), {}, []
        known = history[-1] if history else {metric.key for metric in _COLUMNS}
        self._columns = [metric for metric in _COLUMNS if metric.key in known]
        for number, path in enumerate(map(Path, paths)):
            if number >= len(paths) - _ROWS or key_of(path) == key:
                rows.append(self._row(unread_row(path)))
                self._paths[key_of(path)] = path
        self._figure, self._picture = history_figure(history, upright=True), ""
        curve, left_out = _curve(self._figure), _left_out(_ROWS, len(paths))
        columns = ["epoch", "step", *(each.column for each in self._columns), "MB", "written", "status"]
        shown = {"rows": rows, "columns": columns, "curve": curve, "left_out": left_out}
        super().__init__(label="checkpoints", chosen=key, resuming=bool(default), **shown)
        self._verifying = threading.Thread(target=self._verify, daemon=True)
        self._verifying.start()

    @property
    def value(self) -> Path:
        return self._paths.get(self.chosen, Path(self.chosen))

    @property
    def resume(self) -> str:
        """For `Config.resume`: the parameter as given, or the path of another chosen checkpoint."""
        default, chosen = self._default
        return default if default and chosen == self.chosen else str(self.value)

    def start(self, config: Config) -> str | None:
        """Where training starts, for `Config.resume`; None, and says why, if nobody has decided.

        A choice counts once: when the run has gone on, its newest commit does. By day a page that is run
        from top to bottom trains only if a checkpoint is chosen or `epochs` is not the run's.
        """
        asked, self._asked, newest = self._asked, self.chosen, self._newest_commit()
        if self.resume == "auto":
            if asked or not is_interactive() or config.epochs != self._settings["epochs"]:
                return "auto"
            words = f"To go on from {newest[0]} until epoch {config.epochs}, run this cell once more"
            if len(self._history) >= config.epochs:
                words = f"The run has its {config.epochs} epochs: set a larger `epochs` for more"
            print(f"Nothing is trained yet. {words}, or choose a checkpoint above.")
            return None
        if newest == self._seen:
            return self.resume
        if asked != self.chosen:
            print("The run has gone on since the table was made: run its cell again, then choose.")
            return None
        print("The choice has been used. The run goes on from its newest commit.")
        return "auto"

    def _newest_commit(self) -> tuple[str, int]:
        path = list_checkpoints(self._directory)[-1].path
        return path.name, path.stat().st_mtime_ns

    def _is_of_run(self, row: CheckpointRow) -> bool:
        """Whether a file is of this run, as the run is now: by the numbers of the last epoch that it
        completes, whichever is the best; by its place if it has not been read, or completes none.
        """
        if row.record is None:
            return row.path.parent == self._directory and (not row.status or row.step is not None)
        now = self._history[row.record["epoch"] - 1 :][:1]
        return marked([row.record], anew=True) == marked(now, anew=True)

    def _row(self, row: CheckpointRow) -> dict[str, Any]:
        """A row as picker.js gets it.

        Until the file has been read, they are the run's for that epoch.
        """
        own, whole = self._is_of_run(row), row.step is None
        ended = row.epoch if own and whole and row.status in ("", "verified") else None
        unread = not row.status and ended is not None and ended <= len(self._history)
        record = self._history[ended - 1] if unread and ended else row.record if whole else None
        place = row.epoch - 0.5 * (not whole) if own and row.epoch else None  # in epochs
        known: dict[str, Any] = {"train_loss": row.train_loss, **(record or {})}
        metrics = {metric.key: known.get(metric.key) for metric in self._columns}
        best = self._best is not None and ended == self._best["epoch"]
        # sorts rows as the run made them
        position = (row.epoch or 0) * 2**32 + (2**31 if row.step is None else row.step)
        usable = {"": None, "verified": True}.get(row.status, False)  # None: not known yet
        name = shown(row.path.name) if checkpoint_at(row.path) is None else ""
        words = filter(None, (str(row.epoch or ""), "★" if best else "", name))
        cells: list[list[Any]] = [[" ".join(words), row.epoch]]
        numbers = [("{}", row.step), *((each.format, metrics[each.key]) for each in self._columns)]
        cells += [["" if n is None else form.format(n), n] for form, n in numbers]
        cells += [[f"{row.size / 1e6:.1f}", row.size / 1e6], [f"{row.written:%Y-%m-%d %H:%M}"] * 2]
        cells.append(["damaged" if usable is False else row.status or "checking …", row.status])
        return {
            "path": key_of(row.path),
            "name": shown(row.path.name),
            "epoch": row.epoch,
            "metrics": metrics,
            "bytes": row.size,
            "status": row.status,  # "": not read yet; "verified"; or what is wrong
            "usable": usable,
            "damaged": usable is False,
            "position": position,
            "place": place,
            "best": best,
            "settings": settings_in_words(row.config),
            "cells": cells,
        }

    def _verify(self) -> None:
        """Reads every file, newest first; updates the table soon, then at doubling intervals."""
        rows, began, pause = list(self.rows), time.monotonic(), _SECONDS_TO_FIRST_UPDATE
        for number in reversed(range(len(rows))):
            reading = time.monotonic()
            if self.comm is None:  # the widget has been closed
                return
            try:
                rows[number] = self._row(verified_row(self._paths[rows[number]["path"]]))
            except FileNotFoundError:
                gone = [*rows[number]["cells"][:-1], ["replaced"] * 2]
                rows[number] = rows[number] | {"usable": False, "status": "replaced", "cells": gone}
            if number == 0 or time.monotonic() - began > pause:
                self.rows = list(rows)
                began, pause = time.monotonic(), 2 * pause
            if number == 0:
                self.keep()
            # Sleep as long as the read took, so that the kernel stays responsive.
            time.sleep(time.monotonic() - reading)

    def night_form(self) -> str:
        if not is_interactive():
            self._verifying.join(_SECONDS_TO_WAIT)
        lines = []
        for number, row in enumerate(reversed(self.rows)):
            if number < _ROWS_IN_FILE or row["path"] == self.chosen:
                chosen = "chosen" * (row["path"] == self.chosen)
                texts = [text for text, _ in row["cells"][:-1]]
                lines.append([row["name"], *texts, row["status"] or "not verified yet", chosen])
        words = _left_out(_ROWS_IN_FILE, self._count)
        table = html_table(["checkpoint", *self.columns, ""], lines)
        self._picture = self._picture or self._figure.to_html()
        return table + words + self._picture


def _left_out(listed: int, count: int) -> str:
    words = f"The newest {listed:,} of {count:,} are listed. Any other can be a parameter of the page."
    return words if count > listed else ""


@looks_again
def resume_picker(output_dir: Path | str, resume: Path | str | None) -> CheckpointPicker:
    """Chooses the checkpoint to resume from, by default the one that `resume` means as a setting.

    Raises:
        CheckpointError: no checkpoint verifies, or `resume` does not name one of them.
    """
    resume = None if resume is None else str(resume)
    newest, paths = newest_usable(output_dir), [each.path for each in list_checkpoints(output_dir)]
    chosen = newest.checkpoint.path if newest and resume == "auto" else _among(paths, resume or "")
    whole = chosen and (resume == "auto" or verified_row(chosen).status == "verified")
    if newest is None or chosen is None or not whole:
        raise CheckpointError(
            f"resume={resume!r} names no whole checkpoint of {output_dir}. Name one of its "
            'checkpoint_epoch_N.pt, or say "auto"; for a fresh start use 02_train.ipynb.'
        )
    content = newest.content
    return CheckpointPicker(paths, chosen, content["history"], resume or "", content["config"])


@looks_again
def model_picker(output_dir: Path | str, checkpoint: Path | str) -> CheckpointPicker:
    """Chooses an encoder to look at, by default `checkpoint`: "best" or a path, also of another run.

    Raises:
        CheckpointError: there is no such file.
    """
    output_dir = Path(output_dir)
    newest, there = newest_usable(output_dir), names_in(output_dir)
    paths = [each.path for each in list_checkpoints(output_dir)]
    paths += [output_dir / name for name in (FINAL, BEST) if name in there]
    chosen = find_best_model(output_dir) if checkpoint == "best" else from_root(checkpoint)
    if not is_there(chosen):
        raise CheckpointError(
            f'checkpoint="{checkpoint}": there is no file {chosen}. Train with '
            "notebooks/02_train.ipynb, or name an existing checkpoint."
        )
    if (listed := _among(paths, chosen)) is None:
        paths.append(chosen)
    history = newest.content["history"] if newest else []
    return CheckpointPicker(paths, listed or chosen, history)


def _among(paths: Sequence[Path], name: Path | str) -> Path | None:
    """The one of `paths` that leads to the same file."""
    wanted = from_root(name).resolve()
    return next((path for path in paths if path.resolve() == wanted), None)


def _curve(figure: PageFigure) -> dict[str, Any]:
    """The curve as SVG, and each panel's place in it (shares of the picture) and first and last epoch,
    so that picker.js can mark the chosen checkpoint.
    """
    svg, axes = figure.to_svg(), []  # drawing decides the places
    for ax in figure.axes if figure.axes[0].lines else []:
        box, (low, high) = ax.get_position(), ax.get_xlim()
        place = {"left": box.x0, "width": box.width, "top": 1 - box.y1, "height": box.height}
        axes.append({**place, "low": low, "high": high})
    return {"svg": svg, "axes": axes}
