"""Watching a run: below its training cell, or from its files."""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import ipywidgets
from IPython.display import HTML, DisplayHandle, display
from matplotlib.ticker import MaxNLocator

from treelstm import themes
from treelstm.figures import history_figure, lines_of
from treelstm.history import IN_HISTORY, EpochRecord, best, summary, value_of
from treelstm.plain import AS_WRITTEN, in_html
from treelstm.progress import duration, is_interactive
from treelstm.run.directory import FINAL, list_checkpoints
from treelstm.run.lock import holder
from treelstm.run.status import RunStatus, run_status
from treelstm.sealed import CheckpointError
from treelstm.tables import html_table
from treelstm.widgets.base import NightForm

_SECONDS_BETWEEN_LOOKS = 2.0
_SHARE_OF_DRAWING = 0.01  # of the training time, at most
_ROWS, _POINTS = 200, 300  # of a table of epochs; of a line, at most
_WIDTH, _HEIGHT, _LEFT, _TOP, _FOOT = 430, 230, 46, 24, 36  # of a panel and its margins
_DASHES = {"--": "6 3", ":": "1.5 3", "-.": "7 3 1.5 3"}
_STYLE = f"""<style>{themes.CSS}
.treelstm-live[hidden] {{ display: flex; flex-wrap: wrap; gap: 8px 24px; }}
.treelstm-live svg {{ fill: currentColor; font: 11px 'DejaVu Sans', Verdana, sans-serif; }}
.treelstm-live path {{ fill: none; stroke-width: 1.6; }}
.treelstm-epochs {{ max-height: 260px; overflow: auto; width: fit-content; }}</style>"""


def curve_html(history: Sequence[EpochRecord]) -> str:
    """Loss and quality by epoch, as in `history_figure`, drawn a hundred times as fast."""
    panels = [_panel(name, history) for name in ("loss", "quality") if history]
    return f"{_STYLE}<div hidden='hidden' class='treelstm-live mathjax_ignore'>{''.join(panels)}</div>"


def _panel(name: str, history: Sequence[EpochRecord]) -> str:
    """Lines, ticks and a legend of one panel of `history_figure`, as SVG."""
    title = {"loss": "loss", "quality": "unseen pairs"}[name]
    lines, marked = lines_of(name, history[-1]), best(history)
    first, last = history[0]["epoch"], history[-1]["epoch"]
    drawn = history[:: -(1 + len(history) // _POINTS)][::-1]  # to the last
    values = [value_of(each, metric.key) for metric, _ in lines for each in drawn]
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = (0.0, max(known)) if name == "loss" else (min(known), 1.0)
    high = high if high > low else low + 1

    def x(epoch: float) -> float:
        return _LEFT + (epoch - first + 0.5) / (last - first + 1) * (_WIDTH - _LEFT - 8)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _FOOT)

    ink, foot = "stroke='currentColor' stroke-width='.8'", y(low)
    parts = [f"<text x='{_LEFT}' y='14' font-size='12'>{title}</text>"]
    parts.append(f"<path {ink} d='M{_LEFT} {_TOP}V{foot}H{_WIDTH - 8}'/>")
    for tick in MaxNLocator(4).tick_values(low, high):
        if low <= tick <= high:
            parts.append(f"<path {ink} d='M{_LEFT} {y(tick):.1f}h-4'/>")
            parts.append(
                f"<text x='{_LEFT - 6}' y='{y(tick) + 4:.1f}' text-anchor='end'>{tick:.4g}</text>"
            )
    for tick in MaxNLocator(6, integer=True, min_n_ticks=1).tick_values(first, last):
        if first <= tick <= last and tick == int(tick):
            parts.append(f"<path {ink} d='M{x(tick):.1f} {foot}v4'/>")
            parts.append(
                f"<text x='{x(tick):.1f}' y='{foot + 17}' text-anchor='middle'>{tick:.0f}</text>"
            )
    parts.append(f"<text x='{_WIDTH - 8}' y='{_HEIGHT - 2}' text-anchor='end'>epoch</text>")
    if marked:
        at = x(marked["epoch"])
        parts.append(f"<path {ink} stroke-dasharray='1.5 3' d='M{at:.1f} {_TOP}V{foot}'/>")
        parts.append(f"<text x='{at:.1f}' y='{_TOP - 1}' text-anchor='middle'>★</text>")
    for number, (metric, looks) in enumerate(lines):
        of = [(each["epoch"], value_of(each, metric.key)) for each in drawn]
        points = [f"{x(epoch):.1f} {y(value):.1f}" for epoch, value in of if math.isfinite(value)]
        dash = _DASHES.get(looks.get("linestyle", "-"), "none")
        style = f"style='stroke:{themes.variable(looks['color'])};stroke-dasharray:{dash}'"
        line = f"M{'L'.join(points)}" if points else ""
        dot = f"<path {style[:-1]};stroke-width:5;stroke-linecap:round' d='M{points[-1]}h0'/>"
        parts.append(f"<path {style} d='{line}'/>{dot if points else ''}")
        left, top = _LEFT + 190 * (number % 2), _HEIGHT + 14 + 16 * (number // 2)
        parts.append(f"<path {style} d='M{left} {top - 4}h24'/>")
        parts.append(f"<text x='{left + 30}' y='{top}'>{metric.label}</text>")
    height = _HEIGHT + 22 + 16 * ((len(lines) - 1) // 2)
    about = f"role='img' aria-label='{title} by epoch: {in_html(summary(history))}'"
    return f"<svg {about} width='{_WIDTH}' height='{height}'>{''.join(parts)}</svg>"


def epoch_table(history: Sequence[EpochRecord], seconds: Mapping[int, float]) -> str:
    """A line for each epoch, the newest first, its time if known, and a mark at the best."""
    if not history:
        return ""
    metrics = [each for each in IN_HISTORY if each.column and each.key in history[-1]]
    marked, listed = best(history), [*history[-_ROWS:]]
    at = marked["epoch"] if marked else 0
    if marked and at < listed[0]["epoch"]:
        listed.insert(0, marked)
    rows = [
        [
            f"{each['epoch']}",
            *(metric.text(each) for metric in metrics),
            duration(seconds[each["epoch"]]) if each["epoch"] in seconds else "",
            "★ best" if each["epoch"] == at else "",
        ]
        for each in reversed(listed)
    ]
    table = html_table(["epoch", *(metric.column for metric in metrics), "time", ""], rows)
    left = f"The newest {_ROWS} of {len(history):,} epochs and the best one."
    return f"<div class='treelstm-epochs'>{table}</div>{left if len(history) > _ROWS else ''}"


class TrainingMonitor:
    """Below a training cell: a headline, the curve, a line for each epoch, redrawn in place; the
    notebook's file keeps only the last.
    """

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None
        self._next = 0.0  # time of the next drawing, at the earliest

    def may_draw(self) -> bool:
        """Whether drawing has not taken its share of the time yet."""
        return time.monotonic() >= self._next

    def show(self, history: Sequence[EpochRecord], seconds: Mapping[int, float], said: str = "") -> None:
        """Draws the run so far, below a headline if something is said of it."""
        began = time.monotonic()
        head = f"<p {AS_WRITTEN}><b>{in_html(said)}</b></p>" if said else ""
        html = HTML(f"{head}{curve_html(history)}{epoch_table(history, seconds)}")
        if self._handle is None:
            self._handle = display(html, display_id=True)
        else:
            self._handle.update(html)
        now = time.monotonic()
        self._next = now + (now - began) / _SHARE_OF_DRAWING


class RunMonitor(NightForm, ipywidgets.HTML):
    """How a run stands, from its files; with its curve while another process trains it.

    Reads them again every two seconds and changes nothing. Raises as `run_status`.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self._output_dir = Path(output_dir)
        super().__init__(self._form(run_status(self._output_dir)))
        if is_interactive():
            threading.Thread(target=self._refresh, daemon=True).start()

    def _form(self, status: RunStatus) -> str:
        self._status, self._words = status, f"<pre {AS_WRITTEN}>{in_html(status)}</pre>"
        return self._words + (curve_html(status.history) if status.held_by else "")

    def _refresh(self) -> None:
        seen: tuple[object, ...] = ()
        while self.comm is not None:  # until the widget is closed
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            try:
                by = holder(self._output_dir)
                if by and by.is_this_process:
                    continue  # the training cell shows it, and this would slow it down
                if seen != (now := (by, *self._state())):
                    self.value, seen = self._form(run_status(self._output_dir)), now
                    if not by:
                        self.keep()
            except FileNotFoundError:
                continue  # the run has just removed a checkpoint
            except (CheckpointError, OSError) as error:
                self.value = f"<pre {AS_WRITTEN}>{in_html(error)}</pre>"

    def _state(self) -> tuple[object, ...]:
        """Differs from its last value whenever there is something new to show."""
        paths = [each.path for each in list_checkpoints(self._output_dir)[-1:]]
        paths += [self._output_dir / name for name in ("training.log", FINAL)]
        stats = [path.stat() for path in paths if path.is_file()]
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)

    def night_form(self) -> str:
        figure = history_figure(self._status.history).to_html() if self._status.held_by else ""
        return self._words + figure
