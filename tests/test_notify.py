from __future__ import annotations

import email
import email.policy
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_config
from services import mailbox, webhook

from treelstm import Listener, train
from treelstm.commands import main
from treelstm.notify import ADDRESSES, notify
from treelstm.run.state import SettingsChanged


def titles(hook) -> list[str]:
    return [message["title"].split(": ")[1] for message in hook.messages]


def test_a_run_notifies_a_webhook_of_its_end_once(tiny, tmp_path, monkeypatch):
    config = tiny_config(tiny, tmp_path / "run", epochs=2)

    class Stop(Listener):
        def on_step(self, run):
            if run.steps_done == 3:
                signal.raise_signal(signal.SIGTERM)

    with webhook() as hook:
        monkeypatch.setenv(ADDRESSES, hook.address)
        train(config, listeners=[Stop()])
        train(config)
        train(config)  # was finished already: sends nothing
        with pytest.raises(SettingsChanged):
            train(tiny_config(tiny, tmp_path / "run", epochs=2, seed=7))
        assert titles(hook) == ["stopped by SIGTERM", "finished", "failed"]
        assert "2 epochs; best: epoch 2, validation loss 0." in hook.messages[1]["message"]
        assert ", accuracy at the threshold 0." in hook.messages[1]["message"]
        assert "seed=42, this run asks for 7" in hook.messages[2]["message"]
        assert str(tmp_path / "run") in hook.messages[1]["title"]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or hook.secret.encode() not in path.read_bytes(), path


def test_a_preflight_that_says_no_go_is_notified(tiny, tmp_path, monkeypatch):
    with webhook() as hook:
        monkeypatch.setenv(ADDRESSES, hook.address)
        assert main(["train", "--data-dir", str(tmp_path / "none"), "--output-dir", str(tmp_path)]) == 3
        assert titles(hook) == ["failed"] and "no such directory" in hook.messages[0]["message"]


def test_mail_arrives_at_a_real_server(tmp_path, monkeypatch):
    with mailbox() as box:
        monkeypatch.setenv(ADDRESSES, box.address)
        assert notify("finished", tmp_path / "run", "3 epochs")
    assert len(box.mails) == 1
    assert f"Subject: treelstm: finished: {tmp_path / 'run'}" in box.mails[0].replace("\n ", " ")


def test_a_message_of_any_characters_arrives_as_text(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with mailbox() as box, webhook() as hook:
        monkeypatch.setenv(ADDRESSES, f"{box.address} {hook.address}")
        assert notify("failed", "run\udcff", "<b>3 &lt; 4</b> $5 \ud83d \u6f22\0")
    assert hook.messages[0]["message"].startswith("<b>3 &lt; 4</b> $5 \ufffd \u6f22\ufffd\n")
    mail = email.message_from_string(box.mails[0], policy=email.policy.default)
    body = mail.get_body(("plain", "html"))
    assert body.get_content_type() == "text/plain" or "&lt;b&gt;3 &amp;lt; 4" in body.get_content()


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("status 500", "address 1 (json) failed"),
        ("slow", "no answer within 2 s"),
        ("no server", "address 1 (json) failed"),
        ("no address", "address 1 is not valid"),
    ],
)
def test_a_failed_notification_is_logged_without_its_address_and_harms_nothing(
    tiny, tmp_path, monkeypatch, fault, problem, caplog
):
    if fault == "slow":
        monkeypatch.setattr("treelstm.notify.TIMEOUT_SECONDS", 2.0)
    config = tiny_config(tiny, tmp_path / "run", epochs=1)
    with webhook() as hook:
        hook.status, hook.delay_seconds = 500, 2.5 if fault == "slow" else 0.0
        address = {
            "no server": "json://127.0.0.1:9/s3cr3t-t0k3n",
            "no address": "s3cr3t-t0k3n",
        }.get(fault, hook.address)
        monkeypatch.setenv(ADDRESSES, address)
        assert train(config).finished
    said = (tmp_path / "run" / "training.log").read_text()
    assert f'the notification "finished" was not sent to all ({problem}); the run is unharmed' in said
    assert hook.secret not in said + caplog.text
    assert (tmp_path / "run" / "final_model.pt").is_file()


def test_of_two_addresses_one_gets_the_message_and_the_broken_one_is_named_by_number(
    tmp_path, monkeypatch, caplog
):
    with webhook() as hook:
        monkeypatch.setenv(ADDRESSES, f"json://127.0.0.1:9/s3cr3t {hook.address}")
        assert not notify("failed", tmp_path, "no data")
        assert titles(hook) == ["failed"]
    assert "address 1 (json) failed" in caplog.text and "s3cr3t" not in caplog.text


def test_the_command_for_a_test_message_exits_with_0_only_if_it_was_sent(tmp_path):
    command = [sys.executable, "-m", "treelstm.notify"]
    with webhook() as hook:
        for address, status in ((hook.address, 0), ("json://127.0.0.1:9/x", 1), ("", 1)):
            environment = os.environ | {ADDRESSES: address}
            done = subprocess.run(command, input=b"a test\n", env=environment, capture_output=True)
            assert done.returncode == status, done
    assert [message["title"] for message in hook.messages] == ["a test"]


def test_without_addresses_nothing_is_started(monkeypatch, tmp_path):
    monkeypatch.delenv(ADDRESSES, raising=False)
    monkeypatch.setattr(subprocess, "run", None)
    assert notify("finished", Path("run"), "")
