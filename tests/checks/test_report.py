from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from typing import Any

import pytest
from conftest import REPOSITORY
from faults import healthy_config
from jupyter_client.manager import start_new_kernel

from treelstm import preflight
from treelstm.checks.report import GROUPS, PreflightRefused, as_html, as_text
from treelstm.commands import main


def test_text_is_aligned_numbered_and_ends_with_the_next_command(base):
    config = healthy_config(base, base / "run", epochs=4, seed=7)
    lines = as_text(preflight(config), "utf-8").splitlines()
    assert lines[0] == "1 Dependencies"
    assert all(
        re.match(r"  [✓·!✗] (ok|note|warning|error) +\S", line)
        for line in lines
        if line.startswith("  ")
    )
    assert re.match(r"no-go: \d+ checks, 1 error", lines[-2])
    assert "--seed 7" in lines[-1] and lines[-1].startswith("next: correct the errors")


def test_text_is_plain_ascii_where_the_terminal_has_no_utf8(base):
    text = as_text(preflight(healthy_config(base, base / "run", epochs=4)), "ascii")
    assert text.isascii() and "  ? ok " in text


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
    assert done.returncode == 3 and b"? error" in done.stdout and done.stdout.isascii()


CODES = """
    batches.negatives batches.one-step batches.size checkpoint.unusable data.bytes data.class-balance
    data.contradicting-pair data.duplicate-pair data.file data.metadata data.misnamed-file data.overlap
    data.similar-pairs data.similarities data.tree-sizes data.unknown-symbols data.unusable
    data.unused-trees determinism.steps environment.device environment.kernel environment.package
    environment.python environment.spinning-threads environment.threads environment.torch-changed
    keys.bookkeeping keys.ignored keys.ignored-content keys.numbers keys.token-list keys.unicode-forms
    memory.used-up model.first-step model.gradients model.memory model.parameters model.vectors
    output.in-use output.weak-disk output.writable preflight.check-failed preflight.refused
    processes.cores processes.cost processes.gpus processes.parts resources.disk
    resources.memory resources.pace resume.changed resume.damaged-checkpoint resume.finished resume.fresh
    resume.position resume.refused
    settings.refused
""".split()


def test_codes_are_those_of_before_and_each_is_documented():
    """A code that vanishes breaks programs that wait for it; a new one is added here and in the docs."""
    documented = re.findall(
        r"^\| `([a-z.-]+)` \|", (REPOSITORY / "docs/preflight.md").read_text(), re.MULTILINE
    )
    areas, used = {code.partition(".")[0] for code in CODES}, set()
    for path in (REPOSITORY / "treelstm" / "checks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Finding", "judged"):
                assert isinstance(node.args[0], ast.Constant | ast.Name), ast.unparse(node)
            text = str(node.value) if isinstance(node, ast.Constant) else ""
            if re.fullmatch(r"[a-z]+\.[a-z-]+", text) and text.partition(".")[0] in areas:
                used.add(text)
    assert sorted(used) == sorted(CODES) == sorted(documented)


def test_json_alone_is_on_stdout_while_a_terminal_sees_what_is_being_checked(base):
    config = healthy_config(base, base / "run", epochs=4, data_dir=str(base / "training"))
    words = [sys.executable, "-m", "treelstm", "preflight", "--json", *config.flags()]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            seen = b""
            with contextlib.suppress(OSError):  # at its end
                while part := terminal.read(4096):
                    seen += part
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    assert process.returncode == 0 and report["verdict"] == "go" and report["seconds_per_epoch"] > 0
    assert {f["code"] for f in report["findings"]} <= set(CODES)
    assert {f["group"] for f in report["findings"]} == set(GROUPS) - {"Processes"}
    for name in (b"Dependencies: device", b"Data content: sizes", b"Determinism"):
        assert name in seen
    assert b"Traceback" not in seen


def test_what_was_not_measured_is_null(base, capsys):
    words = healthy_config(base, base / "run", data_dir=str(base / "nowhere")).flags()
    assert main(["preflight", "--json", *words]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "no-go" and report["disk_bytes"] is report["seconds_per_epoch"] is None
    assert [f["code"] for f in report["findings"] if f["level"] == "error"] == ["data.unusable"]


BY_DAY = """
import treelstm
report = treelstm.preflight(treelstm.Config(**{settings}))
report
"""


def test_by_day_the_groups_appear_one_by_one_and_make_room_for_the_report(base):
    """A kernel that believes in a person; what it sends is what a page shows."""
    config = healthy_config(base, base / "run", epochs=4)
    manager, client = start_new_kernel(cwd=str(REPOSITORY / "notebooks"))
    shown = list[str]()

    def note(message: Any) -> None:
        data = message["content"].get("data", {})
        shown.extend([data["text/html"]] if "text/html" in data else [])

    try:
        code = BY_DAY.replace("{settings}", repr(config.to_dict()))
        reply = client.execute_interactive(code, allow_stdin=True, output_hook=note, timeout=120)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok"
    *working, empty, report = shown
    assert empty == "" and "checking " not in report and "<b>go: " in report
    assert all("checking " in each for each in working)
    done = [each.count("<details") for each in working]
    assert done == sorted(done) and {*done} == {*range(8)}  # the last one is in the report
    assert "<a href='02_train.ipynb'>02_train</a> with the same parameters" in report


def test_a_report_quotes_text_of_any_characters_and_needs_no_standard_output(base, monkeypatch):
    odd = "<img src=x> \udcff \x1b[2J $5 and $6"
    report = preflight(healthy_config(base, base / "run", data_dir=str(base / odd)), quick=True)
    for text in (as_text(report, "utf-8"), as_html(report)):
        text.encode()  # as a notebook is saved
        assert "\x1b" not in text and "\ufffd" in text
    assert "<img" not in as_html(report)
    for stdout in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stdout)
        assert str(report).isascii()
