from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from jupyter_client.manager import start_new_kernel

from treelstm.progress import Progress, duration
from treelstm.run.training import train_heard_by

LOOK = "from treelstm.progress import is_interactive; print(is_interactive())"


@pytest.mark.filterwarnings("default")
def test_a_notebook_in_jupyterlab_is_watched_and_one_under_papermill_is_not():
    manager, client = start_new_kernel()
    try:
        for somebody_could_type in (True, False):  # JupyterLab says yes, papermill and nbconvert say no
            said: list[str] = []
            client.execute_interactive(
                LOOK,
                allow_stdin=somebody_could_type,
                timeout=120,
                output_hook=lambda message, said=said: said.append(message["content"].get("text", "")),
            )
            assert "".join(said).strip() == str(somebody_could_type)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (25_500, "7 h 05 min")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_a_headless_run_writes_plain_lines_with_an_eta_and_no_bar(config, capsys):
    train_heard_by([Progress(seconds_between_lines=0.0)], config)
    out, err = capsys.readouterr()
    assert "\r" not in out + err
    assert "epoch 2/3  train 0." in out
    assert re.search(r"epoch 3/3  train 0\.\d{4} \| [\d,]+ pairs/s, 0 s left, \d\.\d\d GB", out)
    log = (config.output_path / "training.log").read_text()
    assert all(line[:4].isdigit() for line in log.splitlines())
    assert out.splitlines() == [line.split("  ", 1)[1] for line in log.splitlines()]


def test_a_watched_run_leaves_its_lines_in_the_log_and_not_beside_the_bar(config, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train_heard_by([Progress(seconds_between_lines=0.0)], config)
    line = re.compile(r"epoch 2/3  train 0\.\d{4} \| .* left, .* GB")
    assert line.search((config.output_path / "training.log").read_text())
    out, err = capsys.readouterr()
    assert not line.search(out) and "epoch 2/3" in err and "\r" in err


def test_a_kernel_of_a_server_is_watched_and_one_of_a_papermill_below_a_notebook_is_not():
    look = "from treelstm.progress import _of_server; print(_of_server(), flush=True)"
    below = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {look!r}], check=True)"
    named = os.environ | {"JPY_SESSION_NAME": "page.ipynb"}
    plain = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
    for code, environment, answers in (
        (look, plain, ["False"]),
        (f"{look}; {below}", named, ["True", "False"]),
    ):
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == answers
