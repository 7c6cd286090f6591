"""The whole of preflight: on healthy runs, in its quick form, and on files with random damage."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import random
import re
import shutil
import time
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import tiny_config
from faults import healthy_config, negative, positive
from runs import StopAfter

from treelstm import Config, load_corpus, preflight, train, write_sample
from treelstm.checks import environment
from treelstm.checks.report import CHECK_FAILED, ERROR, GROUPS, WARNING, as_html, as_text
from treelstm.config import ConfigError


def test_a_healthy_corpus_and_run_give_nothing_above_a_note(base):
    report = preflight(healthy_config(base, base / "run", epochs=4))
    assert report.verdict == "go" and report.count(WARNING) == report.count(ERROR) == 0, str(report)
    assert list(report.findings) == [group for group in GROUPS if group != "Processes"]
    assert "resumes from checkpoint_epoch_2.pt (epoch 2); epochs 3 to 4 will run" in str(report)


def test_the_real_corpus_gives_nothing_above_a_note(real, tmp_path):
    config = Config(
        data_dir=str(real / "training"),
        validation_dir=str(real / "validation"),
        output_dir=str(tmp_path / "run"),
        num_threads=min(2, os.cpu_count() or 1),
    )
    report = preflight(config)
    assert report.verdict == "go", str(report)


def test_a_start_from_that_is_gone_is_no_matter_on_resume(base):
    config = healthy_config(base, base / "run", epochs=4, start_from=str(base / "gone.pt"))
    assert preflight(config).verdict == "go"


def test_preflight_writes_nothing_that_stays(base, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (base / "run").iterdir()}
    preflight(healthy_config(base, base / "run", epochs=4))
    after = {path: path.stat().st_mtime_ns for path in (base / "run").iterdir()}
    assert {p.name for p in after} == {p.name for p in before}
    assert all(after[p] == before[p] for p in before if p.suffix == ".pt")
    preflight(healthy_config(base, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_the_quick_form_takes_under_a_second_and_reads_no_data(base):
    for path in (positive(base), negative(base)):
        path.write_text("not a pair\n")
    seconds = []
    for _ in range(3):  # other processes may be busy
        began = time.monotonic()
        report = preflight(healthy_config(base, base / "run", epochs=4), quick=True)
        seconds.append(time.monotonic() - began)
    assert report.verdict == "go" and min(seconds) < 1.0
    assert list(report.findings) == ["Dependencies", "Data files", "Output directory"]


# --- extreme settings --------------------------------------------------------------------------

LARGE = 10**18
EXTREMES = {
    "int": (-1, 0, LARGE, LARGE + 1, 2**63, 10**30, 10**400),
    "float": (-1.0, 0.0, 1e-320, 1 - 1e-16, 1e308, math.inf, -math.inf, math.nan, 10**400),
    "str": ("", " ", "x" * 5000, "a\0b", "\udc80", "/dev/null", "~nobody-of-this-name/x"),
}
SETTINGS = [
    (setting.name, value)
    for setting in dataclasses.fields(Config)
    for kind, values in EXTREMES.items()
    if kind in str(setting.type).replace("tuple[str, ...]", "")
    for value in values
]


@pytest.mark.filterwarnings("ignore")
def test_whatever_the_settings_preflight_reports_or_the_setting_is_refused(tmp_path):
    """Also that the process survives: no allocation, thread or date is beyond what it can have."""
    write_sample(tmp_path / "training", positives=4, negatives=6)
    write_sample(tmp_path / "validation", positives=4, negatives=6, seed=1)
    small = {"embedding_dim": 4, "hidden_dim": 4, "output_dim": 4, "epochs": 2, "num_threads": 1}
    failures = []
    for name, value in SETTINGS:
        try:
            config = tiny_config(tmp_path, tmp_path / "new", **small)
            report = preflight(dataclasses.replace(config, **{name: value}))
            assert as_text(report) and as_html(report)
            failed = [f.found for f in report.all if f.code == CHECK_FAILED]
            if any("failed with OSError" not in found for found in failed):
                failures.append(f"{name}={value!s:.50}: {report}")
        except ConfigError:
            pass
        except Exception as error:
            failures.append(f"{name}={value!s:.50}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)


def test_a_model_that_needs_more_memory_than_there_is_is_refused_before_it_is_tried(base, tmp_path):
    began = time.monotonic()
    report = preflight(healthy_config(base, tmp_path / "new", hidden_dim=10**6))
    (error,) = [f for f in report.findings["Model"] if f.level == ERROR]
    assert re.search(r"at least [\d,.]+ GB for weights, .* GB are free", error.found)
    assert error.remedy == "Set smaller sizes of the model or a smaller batch_size"
    assert report.verdict == "no-go" and time.monotonic() - began < 60


def test_a_run_of_more_epochs_than_can_ever_be_prints_sane_numbers(base, tmp_path, capsys):
    config = healthy_config(base, tmp_path / "new", epochs=LARGE, keep=1)
    assert "over 100 years" in str(preflight(config))
    assert not train(config, listeners=[StopAfter(9)]).finished
    assert re.search(
        r"epoch +1/1000000000000000000  train .* over 100 years left", capsys.readouterr().out
    )


# --- checks that fail themselves -----------------------------------------------------------------


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise ZeroDivisionError("broken on purpose")


@pytest.mark.parametrize(
    ("of", "function", "check", "group", "still"),
    [
        (torch.cuda, "is_available", "device", "Dependencies", "environment.kernel"),
        (importlib.metadata, "requires", "packages", "Dependencies", "environment.device"),
        (np, "percentile", "sizes", "Data content", "data.metadata"),
        (np, "sort", "repetitions", "Data content", "keys.ignored"),
        (torch.optim.Adam, "step", "model", "Model", "model.parameters"),
        (psutil, "virtual_memory", "model", "Model", "determinism.steps"),
        (shutil, "disk_usage", "disk", "Resources", "resources.memory"),
    ],
)
def test_a_check_that_fails_is_a_finding_and_ends_no_other(
    base, monkeypatch, of, function, check, group, still
):
    monkeypatch.setattr(of, function, refuse)
    report = preflight(healthy_config(base, base / "run", epochs=4))
    failed = [f for f in report.findings[group] if f.code == CHECK_FAILED]
    assert failed and all(f.level == ERROR and "ignore_preflight=True" in f.remedy for f in failed)
    words = f'the check "{check}" failed with ZeroDivisionError: broken on purpose '
    assert re.fullmatch(rf"{words}\(treelstm/\S+, line \d+\)", failed[0].found)
    assert [*report.findings] == [each for each in GROUPS if each != "Processes"]
    assert still in {f.code for f in report.all}
    assert report.verdict == "no-go" and as_html(report) and report.to_dict()["verdict"] == "no-go"


def test_a_torch_that_cannot_be_made_neutral_is_one_finding_among_all_others(base):
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        report = preflight(healthy_config(base, base / "run", epochs=4))
    (error,) = [f for f in report.all if f.level == ERROR]
    assert error.code == "environment.torch-changed" and "hooks is active" in error.found
    assert "data.tree-sizes" not in {
        f.code for f in report.all
    }  # an error of its own: nothing is trained
    assert "environment.kernel" in {f.code for f in report.all}


@pytest.mark.parametrize("content", [b"{", b'{"metadata": {}}'])
def test_an_odd_file_among_the_notebooks_ends_no_other_check(base, monkeypatch, tmp_path, content):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "odd.ipynb").write_bytes(content)
    monkeypatch.setattr(environment, "project_root", lambda: tmp_path)
    report = preflight(healthy_config(base, base / "run", epochs=4), quick=True)
    (failed,) = [f for f in report.all if f.level == ERROR]
    assert failed.code == CHECK_FAILED and 'the check "kernel" failed' in failed.found
    assert [*report.findings] == ["Dependencies", "Data files", "Output directory"]


# --- fuzz --------------------------------------------------------------------------------------

FUZZ = int(os.environ.get("TREELSTM_FUZZ", "100"))  # `make fuzz` sets 2000


def mutated(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, kind = draw.randrange(len(changed)), draw.randrange(5)
        if kind == 0:
            changed[at] = draw.randrange(256)
        elif kind == 1:
            del changed[at : at + draw.choice((1, 1, 5, 200))]
        elif kind == 2:
            changed[at:at] = bytes([draw.randrange(256)])
        elif kind == 3:
            changed[at : at + 1] = draw.choice(
                (b'"', b"{", b"}", b"[", b"]", b",", b"\n", b"0", b"null")
            )
        else:
            other = draw.randrange(len(changed))
            changed[at:at] = changed[other : other + draw.choice((3, 30, 300))]
        if not changed:
            changed += b"\n"
    return bytes(changed)


def test_preflight_never_crashes_and_what_it_passes_can_be_trained_on(tmp_path):
    write_sample(tmp_path / "training", positives=4, negatives=6)
    write_sample(tmp_path / "validation", positives=4, negatives=6, seed=1)
    files = sorted(tmp_path.glob("*/*_pairs.jsonl"))
    healthy = {path: path.read_bytes() for path in files}
    draw, passed = random.Random(0), 0
    sizes = {"embedding_dim": 4, "hidden_dim": 4, "output_dim": 4, "epochs": 1, "num_threads": 1}
    config = tiny_config(tmp_path, tmp_path / "run", **sizes)
    for _ in range(FUZZ):
        path = draw.choice(files)
        path.write_bytes(mutated(healthy[path], draw))
        report = preflight(config)
        if report.verdict != "no-go":
            passed += 1
            assert train(config).finished
            shutil.rmtree(tmp_path / "run")
        path.write_bytes(healthy[path])
    assert 0.02 * FUZZ < passed < 0.9 * FUZZ
    assert len(load_corpus(config).training) == 10
