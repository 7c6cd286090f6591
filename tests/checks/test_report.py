from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys

import pytest
from faults import healthy_config

from treelstm import preflight
from treelstm.checks.report import PreflightRefused, as_html, as_text
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
