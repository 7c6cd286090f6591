"""A catalogue of planted faults: each is found at the right level, by file and line if it has one."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from runs import copy

from treelstm import Config, checkpoint, load_corpus, preflight, train
from treelstm.__main__ import main
from treelstm.report import ERROR, GROUPS, NOTE, OK, WARNING, PreflightRefused, as_html, as_text

checks = sys.modules["treelstm.preflight"]  # the package exports its function by the same name

Plant = Callable[[Path, Config, pytest.MonkeyPatch], Config | None]
Fault = namedtuple("Fault", "plant group level found")
FAULTS: dict[str, Fault] = {}


def fault(group: str, level: str, found: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        FAULTS[plant.__name__] = Fault(plant, group, level, found)
        return plant

    return register


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with nothing to object to, and a run of 2 epochs on it."""
    from treelstm import write_sample

    base = tmp_path_factory.mktemp("healthy")
    write_sample(base / "training", positives=40, negatives=60)
    write_sample(base / "validation", positives=40, negatives=60, seed=1, unlike=base / "training")
    train(healthy_config(base, base / "run", epochs=2))
    return base


def healthy_config(base: Path, run: Path, **settings: Any) -> Config:
    threads = min(2, os.cpu_count() or 1)
    return tiny_config(base, run, **({"num_threads": threads} | settings))


@pytest.fixture
def base(healthy: Path, tmp_path: Path) -> Path:
    return copy(healthy, tmp_path / "base")


def change_record(path: Path, line: int, change: Callable[[Any], Any]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[line - 1])
    change(record)
    lines[line - 1] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def change_line(path: Path, line: int, change: Callable[[bytes], bytes]) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"\n".join(lines))


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


# --- 1 dependencies ----------------------------------------------------------------------------


def pretend_version(patch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    real = metadata.version

    def pretended(asked: str) -> str:
        if asked != name:
            return real(asked)
        if version is None:
            raise metadata.PackageNotFoundError(asked)
        return version

    patch.setattr(metadata, "version", pretended)


@fault("Dependencies", ERROR, r"papermill is missing \(asked for: >=")
def package_missing(base, config, patch):
    pretend_version(patch, "papermill", None)


@fault("Dependencies", ERROR, r"torch is 1\.9\.0, asked for: >=")
def package_too_old(base, config, patch):
    pretend_version(patch, "torch", "1.9.0")


@fault("Dependencies", ERROR, "the package treelstm is not installed")
def package_itself_missing(base, config, patch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    patch.setattr(metadata, "requires", missing)


@fault("Dependencies", ERROR, r"Python 3\.8\.1 \(asked for: >=3\.11\)")
def python_too_old(base, config, patch):
    patch.setattr("platform.python_version", lambda: "3.8.1")


@fault("Dependencies", ERROR, r'device is "cuda", but torch \(built for .*\) sees no GPU')
def gpu_asked_for_and_absent(base, config, patch):
    patch.setattr(torch.cuda, "is_available", lambda: False)
    return dataclasses.replace(config, device="cuda")


@fault("Dependencies", ERROR, "Pretended GPU is seen, but fails: no kernel image")
def gpu_seen_and_broken(base, config, patch):
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no kernel image")

    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "get_device_name", lambda: "Pretended GPU")
    patch.setattr(torch, "ones", broken)


@fault("Dependencies", WARNING, r"999 threads on \d+ cores slow each other down")
def too_many_threads(base, config, patch):
    shutil.rmtree(base / "run")
    patch.setattr(checks, "threads", lambda count: __import__("contextlib").nullcontext())
    return dataclasses.replace(config, num_threads=999)


@fault("Dependencies", ERROR, 'names the kernel "python3", which does not exist')
def kernel_missing(base, config, patch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def missing(self: Any, name: str) -> None:
        raise NoSuchKernel(name)

    patch.setattr(KernelSpecManager, "get_kernel_spec", missing)


@fault("Dependencies", WARNING, 'the kernel "python3" runs /elsewhere/python, not this Python')
def kernel_of_another_environment(base, config, patch):
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    spec = KernelSpec(argv=["/elsewhere/python", "-m", "ipykernel_launcher"])
    patch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: spec)


# --- 2 data files ------------------------------------------------------------------------------


@fault("Data files", ERROR, r"training: no such directory")
def directory_missing(base, config, patch):
    shutil.rmtree(base / "training")


@fault("Data files", ERROR, r"validation: is a file, expected a directory")
def directory_is_a_file(base, config, patch):
    shutil.rmtree(base / "validation")
    (base / "validation").touch()


@fault("Data files", ERROR, r"training/positive_pairs\.jsonl: no such file, nor \.jsonl\.gz")
def file_missing(base, config, patch):
    positive(base).unlink()


@fault("Data files", ERROR, r"training/negative_pairs\.jsonl is empty")
def file_empty(base, config, patch):
    negative(base).write_bytes(b"")


@fault("Data files", ERROR, r"positive_pairs\.jsonl\.gz is there too")
def plain_and_gzipped(base, config, patch):
    (base / "training" / "positive_pairs.jsonl.gz").write_bytes(gzip.compress(b"{}"))


@fault("Data content", ERROR, r"positive_pairs\.jsonl\.gz:\d+: cannot be read after line")
def gzip_truncated(base, config, patch):
    packed = gzip.compress(positive(base).read_bytes())
    positive(base).unlink()
    (base / "training" / "positive_pairs.jsonl.gz").write_bytes(packed[:-40])


@fault("Data content", ERROR, r"positive_pairs\.jsonl\.gz:\d+: (cannot be read|not JSON|not UTF-8)")
def gzip_flipped(base, config, patch):
    packed = bytearray(gzip.compress(positive(base).read_bytes()))
    packed[len(packed) // 2] ^= 255
    positive(base).unlink()
    (base / "training" / "positive_pairs.jsonl.gz").write_bytes(packed)


@fault("Data content", WARNING, r"training/metadata\.json says num_positive_pairs 41, found 40")
def metadata_disagrees(base, config, patch):
    (base / "training" / "metadata.json").write_text('{"num_positive_pairs": 41}')


@fault("Data content", WARNING, r"validation/metadata\.json cannot be read")
def metadata_broken(base, config, patch):
    (base / "validation" / "metadata.json").write_text("{")


# --- 3 data content ----------------------------------------------------------------------------


@fault("Data content", ERROR, r"training/positive_pairs\.jsonl:39: not JSON")
def json_broken_far_below_line_5(base, config, patch):
    change_line(positive(base), 39, lambda raw: raw[:-5])


@fault("Data content", ERROR, r"validation/negative_pairs\.jsonl:2: not JSON")
def json_broken_in_validation(base, config, patch):
    change_line(base / "validation" / "negative_pairs.jsonl", 2, lambda raw: b"{'single': 1}")


@fault("Data content", ERROR, r"negative_pairs\.jsonl:7: not UTF-8 \(byte 3 of the line is 0xe9\)")
def not_utf8(base, config, patch):
    change_line(negative(base), 7, lambda raw: raw[:2] + b"\xe9" + raw[2:])


@fault("Data content", ERROR, r"negative_pairs\.jsonl:60: not a JSON object")
def line_is_a_list(base, config, patch):
    change_line(negative(base), 60, lambda raw: b"[]")


@fault("Data content", ERROR, r"positive_pairs\.jsonl:4: ast2 is missing")
def side_missing(base, config, patch):
    change_record(positive(base), 4, lambda record: record.pop("ast2"))


@fault("Data content", ERROR, r"positive_pairs\.jsonl:4: ast1\.ast is missing")
def ast_missing(base, config, patch):
    change_record(positive(base), 4, lambda record: record["ast1"].pop("ast"))


@fault("Data content", ERROR, r"positive_pairs\.jsonl:9: label is 0, but the file's name says 1")
def label_against_file(base, config, patch):
    change_record(positive(base), 9, lambda record: record.update(label=0))


@fault("Data content", ERROR, r"positive_pairs\.jsonl:1: ast1\.ast is null")
def tree_null(base, config, patch):
    change_record(positive(base), 1, lambda record: record["ast1"].update(ast=None))


@fault("Data content", ERROR, r"positive_pairs\.jsonl:1: ast1\.ast is an empty tree")
def tree_empty(base, config, patch):
    change_record(positive(base), 1, lambda record: record["ast1"].update(ast={"plena_vorto": "x"}))


@fault(
    "Data content", ERROR, r"negative_pairs\.jsonl:3: nested deeper than Python's JSON parser can read"
)
def tree_too_deep(base, config, patch):
    deep = b'{"label": 0, "ast1": {"ast": ' + b'{"a": ' * 9000 + b"1" + b"}" * 9000 + b"}}"
    change_line(negative(base), 3, lambda raw: deep)


@fault("Data content", ERROR, r"\.\.\. and 20 more")
def forty_faults_are_counted(base, config, patch):
    for line in range(1, 41):
        change_record(positive(base), line, lambda record: record.pop("label"))


@fault("Data content", WARNING, r"training: 62 pairs, 2 similar; .* right in 96\.8%")
def classes_over_20_to_1(base, config, patch):
    lines = positive(base).read_bytes().splitlines(True)
    positive(base).write_bytes(b"".join(lines[:2]))


@fault(
    "Data content", WARNING, r"training: 1 pair\(s\) stand under both labels: .*positive_pairs\.jsonl:6"
)
def same_pair_under_both_labels(base, config, patch):
    record = json.loads(positive(base).read_text(encoding="utf-8").splitlines()[5])
    other = {"ast1": record["ast2"], "ast2": record["ast1"], "label": 0}
    with negative(base).open("a", encoding="utf-8") as file:
        file.write(json.dumps(other) + "\n")


@fault(
    "Data content", WARNING, r"training: \d+ pair\(s\) repeat an earlier one \(\d+\.\d%\), as .*jsonl:41"
)
def repeated_pairs(base, config, patch):
    text = positive(base).read_bytes()
    positive(base).write_bytes(text + text)


@fault(
    "Data content", NOTE, r"training: 1 pair\(s\) repeat an earlier one .* as .*positive_pairs\.jsonl:41"
)
def one_repeated_pair(base, config, patch):
    text = positive(base).read_bytes()
    positive(base).write_bytes(text + text.splitlines(True)[3])


@fault("Data content", WARNING, r"100\.0% of the validation trees occur in training")
def validation_seen_in_training(base, config, patch):
    shutil.rmtree(base / "validation")
    shutil.copytree(base / "training", base / "validation")


@fault("Data content", WARNING, r"\d\d\.\d% of the symbols in validation trees are unknown to training")
def validation_of_another_parser(base, config, patch):
    for path in (base / "validation").glob("*_pairs.jsonl"):
        text = path.read_text(encoding="utf-8")
        path.write_text(
            re.sub(r'"(tipo|vortspeco|nombro|kazo)": "', r'"\1": "x', text), encoding="utf-8"
        )


@fault(
    "Data content", WARNING, r'the key "token_id" has \d+ values on \d+ distinct subtrees: bookkeeping\?'
)
def bookkeeping_key(base, config, patch):
    def number(record: Any, k: int) -> None:
        record["ast1"]["ast"]["verbo"]["token_id"] = 2 * k
        record["ast2"]["ast"]["verbo"]["token_id"] = 2 * k + 1

    every_record(base, number)


@fault("Data content", NOTE, r"keys with one value only: .*versio")
def constant_key(base, config, patch):
    def constant(record: Any, k: int) -> None:
        record["ast1"]["ast"]["versio"] = record["ast2"]["ast"]["versio"] = 3

    every_record(base, constant)


@fault("Data content", WARNING, "No tree has a child: is the AST nested under ignored keys")
def trees_without_children(base, config, patch):
    keys = ("subjekto", "objekto", "verbo", "aliaj")

    def flat(record: Any, k: int) -> None:
        for side in ("ast1", "ast2"):
            record[side]["ast"]["root"] = record[side]["ast"]["verbo"]["radiko"]

    every_record(base, flat)
    return dataclasses.replace(config, ignored_keys=(*config.ignored_keys, *keys))


# --- 4 batches, 5 model ------------------------------------------------------------------------


@fault("Batches", WARNING, r"batch_size=500, but there are 100 training pairs: one step an epoch")
def batch_larger_than_corpus(base, config, patch):
    shutil.rmtree(base / "run")
    return dataclasses.replace(config, batch_size=500)


@fault("Model", ERROR, r"the first step gives a loss of inf")
def loss_not_finite(base, config, patch):
    shutil.rmtree(base / "run")
    return dataclasses.replace(config, margin=1e30)


@fault("Model", WARNING, "no gradient reaches .*forget_weight")
def no_gradient_without_children(base, config, patch):
    trees_without_children(base, config, patch)
    shutil.rmtree(base / "run")
    return trees_without_children(base, config, patch)


@fault("Model", ERROR, r"weights\.pt: no such file")
def start_from_missing(base, config, patch):
    shutil.rmtree(base / "run")
    return dataclasses.replace(config, start_from=str(base / "weights.pt"))


@fault("Model", ERROR, r"= \(8, 12, 6\), this run asks for \(8, 13, 6\)")
def start_from_another_size(base, config, patch):
    source = (base / "run" / "final_model.pt").rename(base / "weights.pt")
    shutil.rmtree(base / "run")
    return dataclasses.replace(config, hidden_dim=13, start_from=str(source))


# --- 6 resources -------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


@fault("Resources", ERROR, r"MB for \d+ checkpoints of .* MB; 0\.0 GB are free in")
def disk_too_small(base, config, patch):
    patch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**6, 10**6))
    return dataclasses.replace(config, epochs=500)


@fault("Resources", ERROR, r"peak memory \S+ GB of 0\.0 GB free")
def memory_too_small(base, config, patch):
    pretend_memory(patch, 0)


@fault("Resources", WARNING, r"peak memory \S+ GB of \S+ GB free")
def memory_tight(base, config, patch):
    import resource

    pretend_memory(patch, int(1.1 * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def pretend_memory(patch: pytest.MonkeyPatch, available: int) -> None:
    Memory = namedtuple("Memory", "available rss")
    patch.setattr(checks.psutil, "virtual_memory", lambda: Memory(available, 0))

    class Process:
        def memory_info(self) -> Any:
            return Memory(0, 0)

    patch.setattr(checks.psutil, "Process", Process)


# --- 7 output directory ------------------------------------------------------------------------


@fault("Output directory", ERROR, r"file is a file, expected a directory")
def output_below_a_file(base, config, patch):
    (base / "file").touch()
    return dataclasses.replace(config, output_dir=str(base / "file" / "run"))


@fault("Output directory", ERROR, "Read-only file system: ")
def output_read_only(base, config, patch):
    def refuse(*args: Any) -> None:
        raise OSError(30, "Read-only file system: pretended")

    patch.setattr(checks, "write_whole", refuse)


@fault("Output directory", ERROR, "No locks available")
def file_system_without_locks(base, config, patch):
    class NoLock:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise OSError(37, "No locks available")

    patch.setattr(checks.filelock, "FileLock", NoLock)
    patch.setattr(checkpoint, "holder", lambda directory: None)


@fault("Output directory", ERROR, r"run is in use by process \d+ on ")
def output_in_use(base, config, patch):
    patch.setattr(checkpoint, "holder", lambda directory: checkpoint.Holder("here", 7, "now"))


@fault("Output directory", WARNING, r"checkpoint_epoch_2\.pt is damaged")
def newest_checkpoint_damaged(base, config, patch):
    path = base / "run" / "checkpoint_epoch_2.pt"
    path.write_bytes(path.read_bytes()[:-1])


@fault("Output directory", ERROR, r"2 checkpoint\(s\), none of them whole")
def all_checkpoints_damaged(base, config, patch):
    for path in (base / "run").glob("checkpoint_*"):
        path.write_bytes(b"")


@fault("Output directory", ERROR, r"checkpoint_epoch_9\.pt: no such file")
def resume_path_missing(base, config, patch):
    return dataclasses.replace(config, resume=str(base / "run" / "checkpoint_epoch_9.pt"))


@fault("Output directory", ERROR, r"is no checkpoint of ")
def resume_path_of_another_run(base, config, patch):
    copy(base / "run", base / "other")
    return dataclasses.replace(config, resume=str(base / "other" / "checkpoint_epoch_2.pt"))


@fault(
    "Output directory", ERROR, r"checkpoint_epoch_2\.pt was trained with seed=42, this run asks for 7"
)
def seed_changed(base, config, patch):
    return dataclasses.replace(config, seed=7)


@fault("Output directory", ERROR, r"was trained with hidden_dim=12, this run asks for 20")
def size_changed(base, config, patch):
    return dataclasses.replace(config, hidden_dim=20)


@fault("Output directory", ERROR, r"was trained with training/positive_pairs\.jsonl with SHA-256")
def data_changed_since(base, config, patch):
    first, *others = positive(base).read_bytes().splitlines(True)
    positive(base).write_bytes(b"".join([*others, first]))


@fault("Output directory", NOTE, r"checkpoint_epoch_2\.pt has finished: nothing is left to do")
def already_finished(base, config, patch):
    return dataclasses.replace(config, epochs=2)


# --- 8 determinism -----------------------------------------------------------------------------


@fault("Determinism", WARNING, "two steps from the same state differ on cpu")
def steps_that_differ(base, config, patch):
    real, calls = checks.train_step, 0

    def noisy(run: Any, *args: Any) -> None:
        nonlocal calls
        calls += 1
        real(run, *args)
        with torch.no_grad():
            run.encoder.output_weight += 1e-3 * calls

    patch.setattr(checks, "train_step", noisy)


# --- the catalogue is carried out --------------------------------------------------------------


def test_the_catalogue_has_at_least_40_faults_in_every_group():
    assert len(FAULTS) >= 40
    assert {planted.group for planted in FAULTS.values()} == set(GROUPS)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_at_its_level(name, base, monkeypatch):
    planted = FAULTS[name]
    config = healthy_config(base, base / "run", epochs=4)
    config = planted.plant(base, config, monkeypatch) or config
    report = preflight(config)
    findings = [
        f
        for f in report.findings.get(planted.group, [])
        if re.search(planted.found, f"{f.found}. {f.remedy}")
    ]
    assert findings, as_text(report, "utf-8")
    assert {finding.level for finding in findings} == {planted.level}
    if planted.level in (ERROR, WARNING):
        assert all(finding.remedy for finding in findings), "says what is wrong, but not what to do"
    assert (report.verdict == "no-go") == bool(report.count(ERROR))


def test_a_healthy_corpus_and_run_give_nothing_above_a_note(base):
    report = preflight(healthy_config(base, base / "run", epochs=4))
    assert report.verdict == "go" and report.count(WARNING) == report.count(ERROR) == 0, str(report)
    assert list(report.findings) == list(GROUPS)
    assert "resume takes checkpoint_epoch_2.pt (epoch 2) and runs epochs 3 to 4" in str(report)


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


def test_the_quick_form_takes_under_a_second_and_reads_no_data(base, monkeypatch):
    import time

    monkeypatch.setattr(checks, "load_corpus", lambda config: pytest.fail("data was read"))
    began = time.monotonic()
    report = preflight(healthy_config(base, base / "run", epochs=4), quick=True)
    assert time.monotonic() - began < 1.0
    assert list(report.findings) == ["Dependencies", "Data files", "Output directory"]


def test_the_disk_estimate_is_within_5_percent_and_time_within_reason(base, tmp_path):
    config = healthy_config(base, tmp_path / "new", epochs=8)
    report = preflight(config)
    train(config)
    written = sum(path.stat().st_size for path in (tmp_path / "new").glob("*.pt"))
    assert report.disk_bytes == pytest.approx(written, rel=0.05)
    assert 0 < report.seconds_per_epoch < 60 and report.peak_memory_bytes > 1e8


# --- how it reads ------------------------------------------------------------------------------


def test_text_is_aligned_numbered_and_ends_with_the_next_command(base):
    config = healthy_config(base, base / "run", epochs=4, seed=7)
    lines = as_text(preflight(config), "utf-8").splitlines()
    assert lines[0] == "1 Dependencies"
    assert all(
        re.match(r"  [✓·!✗] (ok|note|warning|error) +\S", line)
        for line in lines
        if line.startswith("  ")
    )
    assert re.match(r"no-go: \d+ findings, 1 error", lines[-2])
    assert "--seed 7" in lines[-1] and lines[-1].startswith("next: mend what is marked")


def test_text_is_plain_ascii_where_the_terminal_has_no_utf8(base):
    text = as_text(preflight(healthy_config(base, base / "run", epochs=4)), "ascii")
    assert text.isascii() and "  + ok " in text and "  - note " in text


def test_html_folds_passing_groups_and_opens_the_others(base):
    healthy_html = as_html(preflight(healthy_config(base, base / "run", epochs=4)))
    assert (
        "<br>about " in healthy_html
        and healthy_html.count("<details>") == 8
        and "<details open>" not in healthy_html
    )
    report = preflight(healthy_config(base, base / "run", epochs=4, seed=7))
    assert as_html(report).count("<details open>") == 1
    assert "<script" not in as_html(report)


def test_the_command_says_no_go_with_status_3_and_training_refuses_unless_told_otherwise(base, capsys):
    config = healthy_config(base, base / "run", epochs=3)
    words = config.flags()
    assert main(["preflight", *words]) == 0
    assert "go: " in capsys.readouterr().out
    assert main(["preflight", *words, "--seed", "7"]) == 3
    missing = [word.replace(str(base / "validation"), str(base / "nowhere")) for word in words]
    assert main(["train", *missing]) == 3
    assert "nowhere: no such directory" in capsys.readouterr().err
    assert main(["train", *missing, "--ignore-preflight"]) == 1
    with pytest.raises(PreflightRefused, match="preflight says no-go"):
        preflight(dataclasses.replace(config, data_dir=str(base / "nowhere")), quick=True).require_go()


def test_a_terminal_without_utf8_gets_ascii_from_the_real_command(base):
    words = [sys.executable, "-m", "treelstm", "preflight", "--data-dir", str(base / "nowhere")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, env=environment)
    assert done.returncode == 3 and b"x error" in done.stdout and done.stdout.isascii()


# --- fuzz --------------------------------------------------------------------------------------

FUZZ = int(os.environ.get("TREELSTM_FUZZ", "200"))  # `make fuzz` sets 2000


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
    from treelstm import write_sample

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
            assert train(config, None).finished
            shutil.rmtree(tmp_path / "run")
        path.write_bytes(healthy[path])
    assert 0.02 * FUZZ < passed < 0.9 * FUZZ
    assert len(load_corpus(config).training) == 10


@pytest.mark.parametrize(("slow_at", "level"), [(2, NOTE), (1, OK)])
def test_the_thread_count_that_was_fastest_is_proposed_and_never_taken(
    base, tmp_path, monkeypatch, slow_at, level
):
    step = checks.train_step

    def slower(*args: Any) -> None:
        step(*args)
        time.sleep(0.05 * (torch.get_num_threads() == slow_at))

    monkeypatch.setattr(checks, "train_step", slower)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    before = torch.get_num_threads()
    report = preflight(healthy_config(base, tmp_path / "new", num_threads=2))
    (finding,) = (f for f in report.findings["Resources"] if "pairs/s by threads" in f.found)
    assert re.search(r"1: [\d,]+, 2: [\d,]+; this run takes 2", finding.found)
    assert (finding.level, finding.remedy) == (level, "Set num_threads=1" if level == NOTE else "")
    assert torch.get_num_threads() == before


def test_a_resumed_run_keeps_its_thread_count_so_none_is_proposed(base):
    report = preflight(healthy_config(base, base / "run", epochs=4))
    assert not any("by threads" in finding.found for finding in report.findings["Resources"])
