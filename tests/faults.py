"""Faults planted in a healthy corpus and run, each of which a preflight must find."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_config

from treelstm import Config, preflight
from treelstm.checks.report import ERROR, WARNING, Level, as_text

Plant = Callable[[Path, Config, pytest.MonkeyPatch], Config | None]


def healthy_config(base: Path, run: Path, **settings: Any) -> Config:
    threads = min(2, os.cpu_count() or 1)
    return tiny_config(base, run, **({"num_threads": threads} | settings))


def fault(group: str, level: Level, found: str, quick: bool = False) -> Callable[[Plant], Any]:
    """Turns a function that plants a fault into a test: a preflight finds it, with a remedy."""

    def as_test(plant: Plant) -> Callable[[Path, pytest.MonkeyPatch], None]:
        def test(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
            config = healthy_config(base, base / "run", epochs=4)
            report = preflight(plant(base, config, monkeypatch) or config, quick)
            findings = [
                f for f in report.findings.get(group, []) if re.search(found, f"{f.found}. {f.remedy}")
            ]
            assert findings, as_text(report, "utf-8")
            assert {finding.level for finding in findings} == {level}
            if level in (ERROR, WARNING):
                assert all(f.remedy for f in findings), "says what is wrong, but not what to do"
            assert (report.verdict == "no-go") == bool(report.count(ERROR))

        return test

    return as_test


def positive(base: Path) -> Path:
    return base / "training" / "positive_pairs.jsonl"


def negative(base: Path) -> Path:
    return base / "training" / "negative_pairs.jsonl"


def every_record(base: Path, change: Callable[[Any, int], Any]) -> None:
    number = 0
    for path in sorted(base.glob("*/*_pairs.jsonl")):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for record in records:
            number += 1
            change(record, number)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def remove_children(base: Path, config: Config) -> Config:
    """Settings under which no tree has a child."""
    keys = ("subjekto", "objekto", "verbo", "aliaj")

    def flat(record: Any, k: int) -> None:
        for side in ("ast1", "ast2"):
            record[side]["ast"]["root"] = record[side]["ast"]["verbo"]["radiko"]

    every_record(base, flat)
    return dataclasses.replace(config, ignored_keys=(*config.ignored_keys, *keys))
