"""Widgets of the notebooks: choosing a checkpoint or tree, watching a run.

None waits for input: each has a default, and in a page executed unattended it is plain HTML.
"""

import base64
import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets
from IPython.display import DisplayHandle, Image, display
from matplotlib.figure import Figure

from treelstm.config import Config, Settings, from_root
from treelstm.data.pairs import Pairs
from treelstm.evaluation import distinct_trees
from treelstm.figures import history_figure
from treelstm.files import is_there
from treelstm.history import IN_HISTORY, EpochRecord, best, marked
from treelstm.plain import AS_WRITTEN, in_html, shown
from treelstm.progress import is_interactive
from treelstm.run.directory import (
    BEST,
    FINAL,
    find_best_model,
    list_checkpoints,
    looks_again,
    names_in,
    newest_usable,
)
from treelstm.run.lock import holder
from treelstm.run.status import CheckpointRow, RunStatus, run_status, unread_row, verified_row
from treelstm.sealed import CheckpointError
from treelstm.tables import html_table

_SECONDS_TO_WAIT = 2.0  # for the files to be verified, where the table cannot be updated later
_SECONDS_TO_FIRST_UPDATE = 0.3
_SECONDS_BETWEEN_LOOKS = 2.0
_SHARE_OF_DRAWING = 0.02  # of the training time, at most
_ROWS, _ROWS_IN_FILE = 1_000, 100  # of a picker, at most: in a browser, in an executed page
_TREES = 2_000  # of a choice, at most
_DEFAULTS = Config().to_dict()


class _PlainIfUnattended:
    """Mixed into a widget: an unattended page gets plain HTML, which stays in the notebook's file."""

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if is_interactive():
            return super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        return {"text/html": self._html(), "text/plain": type(self).__name__}

    def _html(self) -> str:
        raise NotImplementedError


class TablePicker(_PlainIfUnattended, anywidget.AnyWidget):
    """A table that sorts, searches and filters; mouse or keys choose rows.

    Of each row, picker.js needs `path` (which names it), `name`, `cells` (by column: the text, and the
    number or text that it is sorted by, or None), `position` (sorts equal cells), `usable` (False: it
    cannot be chosen), `damaged`, `settings` (words about it), `status` (words about an unusable one).
    """

    _esm = Path(__file__).with_name("picker.js")
    _css = Path(__file__).with_name("picker.css")
    label = traitlets.Unicode().tag(sync=True)
    columns: traitlets.List[str] = traitlets.List().tag(sync=True)  # headings
    rows: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    order: traitlets.List[Any] = traitlets.List([0, True]).tag(sync=True)  # the column; descending?
    most = traitlets.Int(1).tag(sync=True)  # rows that can be chosen
    curve = traitlets.Dict().tag(sync=True)
    left_out = traitlets.Unicode().tag(sync=True)  # says that there are more
    resuming = traitlets.Bool().tag(sync=True)  # shows what resuming sets aside

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """With plain HTML also where a person watches, for exports; JupyterLab shows the widget."""
        bundle = super()._repr_mimebundle_(**kwargs)
        if is_interactive():
            bundle[0]["text/html"] = self._html()
        return bundle


def mark(chosen: bool) -> str:
    """What plain HTML says of a row. A person may choose another one later."""
    return ("chosen at first" if is_interactive() else "chosen") if chosen else ""


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
    ) -> None:
        """`chosen` is one of the paths; `history` is that of the first path's run;
        `default` is the parameter `resume`, if any.
        """
        self._history, self._best, self._count = history, best(history), len(paths)
        self._directory, key = Path(paths[0]).parent, key_of(chosen)
        self._default, self._paths, rows = (default, key), {}, []
        known = history[-1] if history else {metric.key for metric in _COLUMNS}
        self._columns = [metric for metric in _COLUMNS if metric.key in known]
        for number, path in enumerate(map(Path, paths)):
            if number >= len(paths) - _ROWS or key_of(path) == key:
                rows.append(self._row(unread_row(path)))
                self._paths[key_of(path)] = path
        curve, left_out = _curve(history), _left_out(_ROWS, len(paths))
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
        cells: list[list[Any]] = [[f"{row.epoch or ''}{' ★' if best else ''}", row.epoch]]
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
            # Sleep as long as the read took, so that the kernel stays responsive.
            time.sleep(time.monotonic() - reading)

    def _html(self) -> str:
        if not is_interactive():
            self._verifying.join(_SECONDS_TO_WAIT)
        lines = []
        for number, row in enumerate(reversed(self.rows)):
            if number < _ROWS_IN_FILE or row["path"] == self.chosen:
                chosen = mark(row["path"] == self.chosen)
                texts = [text for text, _ in row["cells"][:-1]]
                lines.append([row["name"], *texts, row["status"] or "not verified yet", chosen])
        words = _left_out(_ROWS_IN_FILE, self._count)
        return html_table(["checkpoint", *self.columns, ""], lines) + words + _img(self.curve["png"])


def _left_out(listed: int, count: int) -> str:
    words = f"The newest {listed:,} of {count:,} are listed. Any other can be a parameter of the page."
    return words if count > listed else ""


def key_of(path: Path | str) -> str:
    """The path as the browser gets it: JSON has no bytes that are not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


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
    return CheckpointPicker(paths, chosen, newest.content["history"], resume or "")


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


def settings_in_words(config: Settings | None) -> str:
    """The settings that differ from the defaults, in words."""
    if not config:
        return ""
    changed = [f"{k}={v!r}" for k, v in config.items() if k not in _DEFAULTS or _DEFAULTS[k] != v]
    return shown(f"Trained with {', '.join(changed) or 'the default settings'}.")


def _curve(history: Sequence[EpochRecord]) -> dict[str, Any]:
    """The curve as a picture, and each panel's place in it (shares of the picture) and first and last
    epoch, so that picker.js can mark the chosen checkpoint.
    """
    figure = history_figure(history, upright=True)
    png = _png(figure)  # drawing decides the places
    axes = []
    for ax in figure.axes if history else []:
        box, (low, high) = ax.get_position(), ax.get_xlim()
        place = {"left": box.x0, "width": box.width, "top": 1 - box.y1, "height": box.height}
        axes.append({**place, "low": low, "high": high})
    return {"png": base64.b64encode(png).decode(), "axes": axes}


def _img(png: str) -> str:
    return f"<img src='data:image/png;base64,{png}'>"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


class TrainingMonitor:
    """The figure below a training cell, redrawn in place; the notebook's file keeps only the last."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None
        self._ended = self._rest = 0.0

    def show(self, history: Sequence[EpochRecord], title: str) -> None:
        """Draws the curve so far, unless drawing has already taken its share of the time."""
        began = time.monotonic()
        if began - self._ended < self._rest:
            return
        image = Image(_png(history_figure(history, title=title)))
        if self._handle is None:
            self._handle = display(image, display_id=True)
        else:
            self._handle.update(image)
        self._ended = time.monotonic()
        self._rest = (self._ended - began) / _SHARE_OF_DRAWING


class RunMonitor(_PlainIfUnattended, ipywidgets.VBox):
    """How a run stands, from its files, also while another process trains it.

    Reads them again every two seconds and changes nothing. Raises as `run_status`.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self._output_dir = Path(output_dir)
        self._words, self._image = ipywidgets.HTML(), ipywidgets.Image(format="png")
        self._shown: list[EpochRecord] | None = None
        self._show(run_status(self._output_dir))
        super().__init__([self._words, self._image])
        if is_interactive():
            threading.Thread(target=self._refresh, daemon=True).start()

    def _show(self, status: RunStatus) -> None:
        self._words.value = f"<pre {AS_WRITTEN}>{in_html(status)}</pre>"
        if self._shown != status.history:
            self._shown = status.history
            self._image.value = _png(history_figure(status.history))

    def _refresh(self) -> None:
        seen: tuple[object, ...] = ()
        while self.comm is not None:  # until the widget is closed
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            try:
                by = holder(self._output_dir)
                if by and by.is_this_process:
                    continue  # the training cell shows it, and this would slow it down
                if seen != (now := (by, *self._state())):
                    self._show(run_status(self._output_dir))
                    seen = now
            except FileNotFoundError:
                continue  # the run has just removed a checkpoint
            except (CheckpointError, OSError) as error:
                self._words.value = f"<pre {AS_WRITTEN}>{in_html(error)}</pre>"

    def _state(self) -> tuple[object, ...]:
        """Differs from its last value whenever there is something new to show."""
        paths = [each.path for each in list_checkpoints(self._output_dir)[-1:]]
        paths += [self._output_dir / name for name in ("training.log", FINAL)]
        stats = [path.stat() for path in paths if path.is_file()]
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _html(self) -> str:
        return str(self._words.value) + _img(base64.b64encode(self._image.value).decode())


class TreeChoice(_PlainIfUnattended, ipywidgets.Dropdown):
    """Chooses one of the distinct trees of some pairs by its sentence, by default the first tree of the
    first similar pair; `.value` is its position among them. Of very many, the first 2,000 are listed.
    """

    def __init__(self, pairs: Pairs) -> None:
        names, chosen = tree_names(pairs), int(distinct_trees(pairs)[1][int(np.argmax(pairs.label))])
        listed = {*range(min(len(names), _TREES)), chosen}
        options = sorted((names[tree], tree) for tree in listed)
        some = f"one of {len(options):,} of {len(names):,} sentences"
        said = "sentence" if len(options) == len(names) else some
        layout, style = {"width": "80ch"}, {"description_width": "initial"}  # as wide as its words
        super().__init__(options=options, value=chosen, description=said, layout=layout, style=style)

    def _html(self) -> str:
        return f"<span {AS_WRITTEN}>chosen: {in_html(self.label)}</span>"


def tree_names(pairs: Pairs) -> list[str]:
    """The sentence of each distinct tree of the pairs, fit to be shown, or its number if it has none."""
    trees = distinct_trees(pairs)[0].tolist()
    return [shown(pairs.sentences[tree] or f"tree {number}") for number, tree in enumerate(trees)]
