"""Before the night: preflight of the data and the largest trial, and what all trials need together."""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
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


def check_night(plan: Plan, directory: Path, to_do: Sequence[Config], new: int) -> None:
    """Checks what `to_do` and so many trials that a search will propose need; logs what it finds.

    Raises:
        PreflightRefused: a trial would fail, or the disk is too small for all of them, and
            `ignore_preflight` is not set.
    """
    seconds, size, peak = 0.0, 0.0, 0.0
    if plan.base.validation_dir is None and len({config.seed for config in to_do}) > 1:
        log.info("note: without validation_dir, each seed holds out other pairs")
    for largest in plan.largest:
        # In a directory that is not there: each trial checks its own when it starts.
        report = preflight(replace(largest, output_dir=str(directory / "none"), resume="auto"))
        for finding in report.all:
            if finding.level != OK:
                log.info("%s: %s. %s", finding.level, finding.found, finding.remedy)
        log.info("preflight of the largest trial on %s: %s", largest.data_dir, summary(report))
        report.require_go()
        where = largest.data_dir, largest.validation_dir
        its = [each for each in to_do if (each.data_dir, each.validation_dir) == where] + [largest] * new
        symbols = len(report.pairs.forest.symbols) if report.pairs else 1
        of_largest = _numbers_kept(largest, symbols)
        seconds += sum(report.seconds_per_epoch * each.epochs for each in its)
        size += sum(report.disk_bytes * _numbers_kept(each, symbols) / of_largest for each in its)
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


def _numbers_kept(config: Config, symbols: int) -> int:
    """Weights in all checkpoints of a trial that are kept."""
    weights = sum(map(math.prod, parameter_shapes(config, symbols).values()))
    kept = config.epochs if config.keep == "all" else min(config.epochs, 2 * int(config.keep))
    return weights * kept
