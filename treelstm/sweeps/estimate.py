"""Before the night: preflight of the data and the largest trial, and what all trials need together."""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import psutil

from treelstm.checks.groups import preflight
from treelstm.checks.report import OK, PreflightRefused, summary
from treelstm.config import Config
from treelstm.files import nearest_existing
from treelstm.model.encoder import parameter_shapes
from treelstm.progress import duration
from treelstm.sweeps.plan import Plan

log = logging.getLogger("treelstm")

_DATA = attrgetter("data_dir", "validation_dir")


def check_night(plan: Plan, directory: Path, to_do: Sequence[Config], new: int) -> None:
    """Checks what `to_do` and so many trials that a search will propose need; logs what it finds.

    Raises:
        PreflightRefused: a trial would fail, or the disk is too small for all of them, and
            `ignore_preflight` is not set.
    """
    seconds, size, peak = 0.0, 0.0, 0.0
    any_of = [*to_do, *(plan.corners if new else ())]
    for where in dict.fromkeys(map(_DATA, any_of)):
        here = (each for each in any_of if _DATA(each) == where)
        largest = max(here, key=lambda each: (_weights(each), each.batch_size))
        # In a directory that is not there: each trial checks its own when it starts.
        report = preflight(replace(largest, output_dir=str(directory / "none")))
        for finding in report.all:
            if finding.level != OK:
                log.info("%s: %s. %s", finding.level, finding.found, finding.remedy)
        log.info("preflight of the largest trial on %s: %s", largest.data_dir, summary(report))
        report.require_go()
        symbols = len(report.pairs.forest.symbols) if report.pairs else 1
        of_one = report.disk_bytes / (_weights(largest, symbols) * _kept(largest))
        for each in [*(each for each in to_do if _DATA(each) == where), *[largest] * new]:
            seconds += report.seconds_per_epoch * each.epochs
            size += of_one * _weights(each, symbols) * _kept(each)
        peak = max(peak, report.peak_memory_bytes)
    together = min(plan.parallel, len(to_do) + new)
    free = shutil.disk_usage(nearest_existing(directory)).free
    memory = psutil.virtual_memory().available
    log.info(
        f"{len(to_do) + new} trials to do: at most {duration(seconds / together)} with {together} at "
        f"once, {size / 1e9:,.2f} GB of disk ({free / 1e9:,.1f} GB are free)"
    )
    problems = []
    if size > free:
        problems.append("The disk is too small for all trials: set keep=3, or make room.")
    if together * peak > memory:
        needed = f"{together} trials at once need {together * peak / 1e9:.1f} GB of memory"
        problems.append(f"{needed}, {memory / 1e9:.1f} GB are free: lower parallel.")
    if problems and not plan.base.ignore_preflight:
        raise PreflightRefused("\n".join(["preflight of the night says no-go:", *problems]))


def _weights(config: Config, symbols: int = 1) -> int:
    return sum(map(math.prod, parameter_shapes(config, symbols).values()))


def _kept(config: Config) -> int:
    """Checkpoints of a trial that stay."""
    return config.epochs if config.keep == "all" else min(config.epochs, 2 * int(config.keep))
