"""What a person picks a checkpoint with and watches a run with.

Nothing here gates: a widget shows its default, and where nobody looks on it is plain HTML.
"""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import traitlets
from IPython.display import HTML, DisplayHandle, Image, display
from matplotlib.figure import Figure

from treelstm.config import Config, Settings, project_root
from treelstm.data import Pairs
from treelstm.evaluation import Retrieval, distinct_trees
from treelstm.figures import history_figure
from treelstm.history import EpochRecord, best
from treelstm.progress import is_interactive
from treelstm.run.directory import BEST, FINAL, list_checkpoints, newest_usable
from treelstm.run.lock import holder
from treelstm.run.status import CheckpointRow, RunStatus, run_status, unread_row, verified_row
from treelstm.sealed import CheckpointError

_SECONDS_TO_WAIT = 2.0  # for the files to be verified, where the table cannot be updated later
_SECONDS_TO_FIRST_NEWS = 0.3
_SECONDS_BETWEEN_LOOKS = 2.0
_SHARE_OF_DRAWING = 0.02  # of a training's time, at most


class _ByNight:
    """Mixed into a widget: a page that nobody looks on gets plain HTML, which stays in its file."""

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if is_interactive():
            return super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        return {"text/html": self._html(), "text/plain": type(self).__name__}

    def _html(self) -> str:
        raise NotImplementedError


# --- tables ------------------------------------------------------------------------------------


def score_table(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> HTML:
    """Rows of metrics with their 95% intervals, as `evaluation.scores` gives them."""
    names = {
        "roc_auc": "ROC-AUC",
        "average_precision": "average precision",
        "f1": "F1 at the threshold",
        "accuracy": "accuracy at the threshold",
    }
    cell = "{:.3f} [{:.3f}, {:.3f}]".format
    rows = [[who, *(cell(*row[name]) for name in names)] for who, row in scores.items()]
    return HTML(html_table(["", *names.values()], rows))


def retrieval_table(found: Mapping[str, Retrieval]) -> HTML:
    """Precision at k and mean reciprocal rank, between chance and what is possible."""
    any_ = next(iter(found.values()))
    head = ["", *(f"precision at {k}" for k in any_.precision), "mean reciprocal rank"]
    rows: list[list[object]] = [
        [who, *(f"{p:.3f}" for p in each.precision.values()), f"{each.mean_reciprocal_rank:.3f}"]
        for who, each in found.items()
    ]
    rows.append(["a random order", *[f"{any_.chance:.4f}"] * len(any_.precision), ""])
    rows.append(["a perfect order", *(f"{p:.3f}" for p in any_.possible.values()), "1.000"])
    words = f"{any_.queries:,} trees with similar partners, each looked for among {any_.candidates:,}."
    return HTML(f"{words}{html_table(head, rows)}")


def graded_table(found: Mapping[str, Mapping[str, float] | None]) -> HTML:
    """Correlations of distance with graded similarity; says so where the pairs give none."""
    rows = [
        [who, f"{each['spearman']:.3f}", f"{each['pearson']:.3f}"] for who, each in found.items() if each
    ]
    if not rows:
        return HTML("These pairs give no graded similarity.")
    return HTML(html_table(["", "Spearman", "Pearson"], rows))


def html_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Words to the left, numbers to the right."""
    numeric = [str(value)[:1].isdigit() or str(value)[:1] == "-" for value in rows[0]]

    def line(tag: str, cells: Sequence[object]) -> str:
        sides = ("right" if right else "left" for right in numeric)
        return "".join(
            f"<{tag} style='text-align:{side}'>{escape(str(cell))}</{tag}>"
            for cell, side in zip(cells, sides, strict=True)
        )

    lines = [line("th", head), *(line("td", row) for row in rows)]
    return "<table>" + "".join(f"<tr>{each}</tr>" for each in lines) + "</table>"


# --- picking a checkpoint ----------------------------------------------------------------------


class CheckpointPicker(_ByNight, anywidget.AnyWidget):
    """A run's checkpoints beside its curve; `.value` is the path of the chosen one.

    A click on a column sorts; mouse or arrow keys choose. The table is there at once: the files are
    read and verified in the background, newest first.
    """

    _esm = Path(__file__).with_name("picker.js")
    _css = Path(__file__).with_name("picker.css")
    rows: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    chosen = traitlets.Unicode().tag(sync=True)
    curve = traitlets.Dict().tag(sync=True)
    resuming = traitlets.Bool().tag(sync=True)  # shows what going on from the chosen one sets aside

    def __init__(
        self,
        paths: Sequence[Path],
        chosen: Path,
        history: Sequence[EpochRecord],
        default: str | None = None,
    ) -> None:
        self._paths, self._closed = paths, threading.Event()
        self._history = history
        self._default = (default, str(chosen))
        rows = [self._row(unread_row(path)) for path in paths]
        super().__init__(
            rows=rows, chosen=str(chosen), curve=_curve(history), resuming=default is not None
        )
        self._verifying = threading.Thread(target=self._verify, daemon=True)
        self._verifying.start()

    @property
    def value(self) -> Path:
        return Path(self.chosen)

    @property
    def resume(self) -> str:
        """What `train` takes: the parameter as it was until somebody chooses another checkpoint."""
        default, chosen = self._default
        return default if default and chosen == self.chosen else self.chosen

    def close(self) -> None:
        self._closed.set()
        super().close()

    def _row(self, row: CheckpointRow) -> dict[str, Any]:
        """A row as JSON, its numbers from the run's history where the file has not been read."""
        ended = row.epoch if row.step is None and row.status in ("", "verified") else None
        record = row.record
        if record is None and ended is not None and ended <= len(self._history):
            record = self._history[ended - 1]
        train_loss = record["train_loss"] if row.train_loss is None and record else row.train_loss
        top = best(self._history)
        return {
            "path": str(row.path),
            "name": row.path.name,
            "epoch": row.epoch,
            "step": row.step,
            "position": (row.epoch or 0) * 2**32 + (2**31 if row.step is None else row.step),
            "place": None if row.epoch is None else row.epoch - 0.5 * (row.step is not None),
            "train_loss": train_loss,
            "validation_loss": record["validation_loss"] if record else None,
            "average_precision": record["validation_average_precision"] if record else None,
            "bytes": row.size,
            "written": row.written.isoformat(timespec="seconds"),
            "best": top is not None and ended == top["epoch"],
            "usable": {"": None, "verified": True}.get(row.status, False),
            "status": row.status,
            "settings": _settings(row.config),
        }

    def _verify(self) -> None:
        """Reads every file, newest first, and tells the page: soon, then ever more seldom."""
        rows, began, pause = list(self.rows), time.monotonic(), _SECONDS_TO_FIRST_NEWS
        for number in reversed(range(len(rows))):
            reading = time.monotonic()
            if self._closed.is_set():
                return
            try:
                rows[number] = self._row(verified_row(self._paths[number]))
            except FileNotFoundError:
                rows[number] = {**rows[number], "usable": False, "status": "removed meanwhile"}
            if number == 0 or time.monotonic() - began > pause:
                self.rows = list(rows)
                began, pause = time.monotonic(), 2 * pause
            # As long a rest: whatever else the kernel does comes first.
            self._closed.wait(time.monotonic() - reading)

    def _html(self) -> str:
        self._verifying.join(_SECONDS_TO_WAIT)
        head = ["checkpoint", "epoch", "train loss", "validation loss", "average precision", "MB"]
        lines = []
        for row in reversed(self.rows):
            numbers = (row[name] for name in ("train_loss", "validation_loss", "average_precision"))
            mark = " ★" if row["best"] else ""
            line = [row["name"], f"{row['epoch']}{mark}"]
            line += ["" if number is None else f"{number:.4f}" for number in numbers]
            line += [f"{row['bytes'] / 1e6:.1f}", row["written"].replace("T", " ")[:19]]
            line.append(row["status"] or "not verified yet")
            lines.append([*line, "chosen" if row["path"] == self.chosen else ""])
        return html_table([*head, "written", "status", ""], lines) + _img(self.curve["png"])


def resume_picker(output_dir: Path, resume: str | None) -> CheckpointPicker:
    """Picks the commit that a run goes on from, by default what `resume` means; give `train` the
    picker's `.resume`.

    Raises:
        CheckpointError: there is no whole checkpoint, `resume` names none, or asks for a fresh start.
    """
    newest = newest_usable(output_dir)
    checkpoints = list_checkpoints(output_dir)
    paths = [checkpoint.path for checkpoint in checkpoints]
    named = _among(paths, resume)
    if named is not None and verified_row(named).status != "verified":
        named = None
    wanted = newest.checkpoint.path if newest and resume == "auto" else named
    if newest is None or wanted is None:
        raise CheckpointError(
            f"resume={resume!r} names no whole checkpoint of {output_dir}. Name one of its "
            'checkpoint_epoch_N.pt, or say "auto"; for a fresh start use 02_train.ipynb.'
        )
    return CheckpointPicker(paths, wanted, newest.content["history"], resume)


def model_picker(output_dir: Path, checkpoint: str) -> CheckpointPicker:
    """Picks an encoder to look at: `checkpoint` is "best" or a path, which may be of another run.

    Raises:
        CheckpointError: no such file.
    """
    newest = newest_usable(output_dir)
    paths = [each.path for each in list_checkpoints(output_dir)]
    paths += [path for name in (FINAL, BEST) if (path := output_dir / name).is_file()]
    wanted = output_dir / BEST if checkpoint == "best" else project_root() / checkpoint
    if not wanted.is_file():
        raise CheckpointError(
            f'checkpoint="{checkpoint}": {wanted} is no file. Train with notebooks/02_train.ipynb, or '
            "name a checkpoint that is there."
        )
    if _among(paths, str(wanted)) is None:
        paths.append(wanted)
    history = newest.content["history"] if newest else []
    return CheckpointPicker(paths, _among(paths, str(wanted)) or wanted, history)


def _among(paths: Sequence[Path], name: str | None) -> Path | None:
    wanted = None if name is None else (project_root() / name).resolve()
    return next((path for path in paths if path.resolve() == wanted), None)


def _settings(config: Settings | None) -> str:
    """What differs from the defaults."""
    if not config:
        return ""
    defaults = Config().to_dict()
    changed = [f"{k}={v!r}" for k, v in config.items() if k not in defaults or defaults[k] != v]
    return "Trained with " + (", ".join(changed) if changed else "the default settings") + "."


def _curve(history: Sequence[EpochRecord]) -> dict[str, Any]:
    """The curve as a picture, and where in it each axes lies (shares of the picture, epochs)."""
    figure = history_figure(history, upright=True)
    png = _png(figure)
    places = []
    for ax in figure.axes if history else []:
        box, (low, high) = ax.get_position(), ax.get_xlim()
        place = {"left": box.x0, "width": box.width, "top": 1 - box.y1, "height": box.height}
        places.append({**place, "low": low, "high": high})
    return {"png": base64.b64encode(png).decode(), "axes": places}


def _img(png: str) -> str:
    return f"<img src='data:image/png;base64,{png}'>"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


# --- watching a run ----------------------------------------------------------------------------


class TrainingMonitor:
    """The training cell's figure, redrawn in place; the notebook file keeps the last one only."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None
        self._ended = self._rest = 0.0

    def show(self, history: Sequence[EpochRecord], words: str) -> None:
        """Draws the curve so far, unless drawing has had its share of the time already."""
        began = time.monotonic()
        if began - self._ended < self._rest:
            return
        image = Image(_png(history_figure(history, title=words)))
        if self._handle is None:
            self._handle = display(image, display_id=True)
        else:
            self._handle.update(image)
        self._ended = time.monotonic()
        self._rest = (self._ended - began) / _SHARE_OF_DRAWING


class RunMonitor(_ByNight, ipywidgets.VBox):
    """How a run stands, from its files: also one that another process is training right now.

    Looks again every two seconds and changes nothing.
    """

    def __init__(self, output_dir: Path) -> None:
        """
        Raises:
            CheckpointError: there is no checkpoint, or none that verifies.
        """
        self._output_dir, self._closed = output_dir, threading.Event()
        self._words, self._image = ipywidgets.HTML(), ipywidgets.Image(format="png")
        self._shown: list[EpochRecord] | None = None
        self._show(run_status(output_dir))
        super().__init__([self._words, self._image])
        if is_interactive():
            threading.Thread(target=self._refresh, daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        super().close()

    def _show(self, status: RunStatus) -> None:
        self._words.value = f"<pre>{escape(str(status))}</pre>"
        if self._shown != status.history:
            self._shown = status.history
            self._image.value = _png(history_figure(status.history))

    def _refresh(self) -> None:
        seen: tuple[object, ...] = ()
        while not self._closed.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                by = holder(self._output_dir)
                if by and by.is_this_process:
                    continue  # the training cell shows it, and should have the time
                if seen != (seen := (by, *self._state())):
                    self._show(run_status(self._output_dir))
            except FileNotFoundError:
                continue  # the run has just removed a checkpoint: look again
            except (CheckpointError, OSError) as error:
                self._words.value = f"<pre>{escape(str(error))}</pre>"

    def _state(self) -> tuple[object, ...]:
        """What changes whenever there is something new to tell."""
        paths = [each.path for each in list_checkpoints(self._output_dir)[-1:]]
        paths += [self._output_dir / name for name in ("training.log", FINAL)]
        stats = [path.stat() for path in paths if path.is_file()]
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _html(self) -> str:
        return str(self._words.value) + _img(base64.b64encode(self._image.value).decode())


# --- choosing a tree ---------------------------------------------------------------------------


class TreeChoice(_ByNight, ipywidgets.Dropdown):
    """A list of the distinct trees of some pairs by their sentences; `.value` is the position among
    them. By default the first tree of the first similar pair.
    """

    def __init__(self, pairs: Pairs) -> None:
        trees, first, _ = distinct_trees(pairs)
        names = tree_names(pairs)
        options = sorted(zip(names, range(len(trees)), strict=True))
        chosen = int(first[int(np.argmax(pairs.label))])
        super().__init__(options=options, value=chosen, description="sentence", layout={"width": "80ch"})

    def _html(self) -> str:
        return f"chosen: {escape(self.label)}"


def tree_names(pairs: Pairs) -> list[str]:
    """What people call each distinct tree of the pairs: its sentence, else a number."""
    trees = distinct_trees(pairs)[0].tolist()
    return [pairs.sentences[tree] or f"tree {number}" for number, tree in enumerate(trees)]
