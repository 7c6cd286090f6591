"""Sends notifications of how a run ended, through apprise, to the addresses in TREELSTM_NOTIFY_URLS.

    echo "a test" | python -m treelstm.notify

The addresses contain secrets. They are kept in the environment only and read in a separate process,
whose output only this module sees. So no notebook, log, history, checkpoint or traceback shows them,
and a service that hangs is cut off without harm to the run.
"""

import logging
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from treelstm.plain import shown

log = logging.getLogger("treelstm")

ADDRESSES = "TREELSTM_NOTIFY_URLS"
TIMEOUT_SECONDS = 20.0  # for the answers of all addresses together


def is_configured() -> bool:
    """Whether the environment has addresses to send to."""
    return bool(os.environ.get(ADDRESSES, "").strip())


def notify(event: str, where: object, text: str) -> bool:
    """Sends one message to all addresses; returns whether all accepted it. Raises nothing.

    The first line names `event` ("finished", "failed", ...) and `where` (the run's directory).
    """
    if not is_configured():
        return True
    message = shown(f"treelstm: {event}: {where}\n{text}\n\n{where} on {socket.gethostname()}")
    command = [sys.executable, "-m", "treelstm.notify"]
    try:
        done = subprocess.run(
            command, input=message.encode(), capture_output=True, timeout=TIMEOUT_SECONDS
        )
        problem = (
            done.stdout.decode(errors="replace").strip()
            or f"the sending process ended with status {done.returncode}"
        )
    except subprocess.TimeoutExpired:
        problem = f"no answer within {TIMEOUT_SECONDS:.0f} s"
    except OSError as error:
        problem = f"the sending process cannot be started: {error.strerror}"
    else:
        if done.returncode == 0:
            return True
    log.warning('the notification "%s" was not sent to all (%s); the run is unharmed', event, problem)
    return False


def send(message: str) -> list[str]:
    """Sends to each address separately; returns a line for each failure: its number and service."""
    import apprise
    from apprise.utils.parse import parse_urls

    logging.disable(logging.CRITICAL)  # libraries would log the addresses
    title, _, body = message.partition("\n")
    addresses = parse_urls(os.environ[ADDRESSES])

    def send_to(number: int, address: str) -> str | None:
        sender = apprise.Apprise()
        if not sender.add([address]):
            return f"address {number} is not valid"
        # Without a format, a mail would show the body as HTML.
        if sender.notify(title=title, body=body or title, body_format=apprise.NotifyFormat.TEXT):
            return None
        return f"address {number} ({address.partition('://')[0]}) failed"

    if not addresses:
        return ["no address is valid"]
    with ThreadPoolExecutor(len(addresses)) as pool:
        return [*filter(None, pool.map(send_to, range(1, len(addresses) + 1), addresses))]


if __name__ == "__main__":
    if not is_configured():
        sys.exit(f"{ADDRESSES} is not set. Set it to apprise addresses, separated by spaces.")
    problems = send(sys.stdin.buffer.read().decode(errors="replace").rstrip())
    print(", ".join(problems))
    sys.exit(bool(problems))
