"""Tells people how a run ended, through apprise, at the addresses in TREELSTM_NOTIFY_URLS.

    echo "a test" | python -m treelstm.notify

The addresses hold secrets: they live in the environment alone, and are read in a process of its own
whose output goes nowhere but here. So nothing of them reaches a notebook, a log, a history, a
checkpoint or a traceback, and a service that hangs is cut off without harm to the run.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

log = logging.getLogger("treelstm")

ADDRESSES = "TREELSTM_NOTIFY_URLS"
_TIMEOUT_SECONDS = 20.0


def is_configured() -> bool:
    return bool(os.environ.get(ADDRESSES, "").strip())


def notify(event: str, where: object, text: str) -> bool:
    """Sends one message to all addresses; whether all of them took it. Raises nothing.

    The first line says `event` ("finished", "failed", ...) and `where` (the run's directory).
    """
    if not is_configured():
        return True
    message = f"treelstm: {event}: {where}\n{text}\n\n{where} on {socket.gethostname()}"
    words = [sys.executable, "-m", "treelstm.notify"]
    try:
        done = subprocess.run(
            words, input=message, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
        )
        problem = done.stdout.strip() or f"the sender ended with status {done.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"no answer within {_TIMEOUT_SECONDS:.0f} s"
    except OSError as error:
        problem = f"the sender cannot be started: {error.strerror}"
    else:
        if done.returncode == 0:
            return True
    log.warning('the notification "%s" was not sent to all (%s); the run is unharmed', event, problem)
    return False


def summary(history: list[dict[str, Any]]) -> str:
    """The best epoch of a history in words."""
    if not history:
        return "No epoch is complete."
    best = min(history, key=lambda record: record["validation_loss"])
    return (
        f"{len(history)} epochs; best: epoch {best['epoch']}, validation loss "
        f"{best['validation_loss']:.4f}, accuracy {best['validation_acc']:.3f}, ROC-AUC "
        f"{best['validation_roc_auc']:.4f}, average precision "
        f"{best['validation_average_precision']:.4f}"
    )


def send(message: str) -> list[str]:
    """Sends to each address by itself; one line for each that failed, by number and kind alone."""
    import apprise
    from apprise.utils.parse import parse_urls

    logging.disable(logging.CRITICAL)  # libraries would name the addresses
    title, _, body = message.partition("\n")
    addresses = parse_urls(os.environ[ADDRESSES])

    def one(number: int, address: str) -> str | None:
        service = apprise.Apprise.instantiate(address, suppress_exceptions=True)
        if service is None:
            return f"address {number} is not understood"
        to_one = apprise.Apprise()
        to_one.add(service)
        if to_one.notify(title=title, body=body or title):
            return None
        return f"address {number} ({address.partition('://')[0]}) failed"

    with ThreadPoolExecutor(len(addresses) or 1) as pool:
        problems = pool.map(one, range(1, len(addresses) + 1), addresses)
        found = [problem for problem in problems if problem]
    return found if addresses else ["no address is understood"]


if __name__ == "__main__":
    if not is_configured():
        sys.exit(f"{ADDRESSES} is not set. Set it to apprise addresses, separated by spaces.")
    problems = send(sys.stdin.read().rstrip())
    print(", ".join(problems))
    sys.exit(bool(problems))
