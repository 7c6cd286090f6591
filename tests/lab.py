"""A real JupyterLab on loopback and a real Chromium in front of it, as a person would sit there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SCREENSHOTS = REPOSITORY / ".screenshots"  # kept to be looked at, never committed

_SETTINGS = {
    # All cells in the page's text, and a kernel from the start.
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosaveInterval": 5},
}
_CHROMIUM = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def missing() -> str | None:
    """Why no browser can be driven here, or None."""
    if shutil.which("chromium") is None:
        return "chromium is not installed (Debian: apt-get install chromium)"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed (it is among the dev dependencies)"
    return None


@contextmanager
def jupyterlab(root: Path) -> Iterator[str]:
    """A server whose files are in `root`; gives its address. Its kernels end with it."""
    settings = root / ".settings"
    for name, values in _SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
    ]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}"]
    command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(settings)}
    environment |= {
        "JUPYTER_CONFIG_DIR": str(settings),
        "JUPYTER_RUNTIME_DIR": str(settings / "runtime"),
    }
    with (root / ".server.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=root, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _get(f"{address}/api/status") is not None, 60, "the server's first answer")
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Waits for `true()`, and returns what it gave."""
    end = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)
    return value


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_CHROMIUM)
        try:
            yield browser
        finally:
            browser.close()


def place(name: str, root: Path, parameters: dict[str, Any]) -> Path:
    """A copy of a notebook in `root` with these parameters typed into its first code cell."""
    notebook = json.loads((REPOSITORY / "notebooks" / f"{name}.ipynb").read_text())
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", ()))
    lines = "".join(cell["source"]).splitlines()
    for key, value in parameters.items():
        line = f"{key} = {value!r}  # typed in"
        at = next((i for i, old in enumerate(lines) if old.startswith(f"{key} = ")), None)
        if at is None:
            lines.append(line)
        else:
            lines[at] = line
    cell["source"] = "\n".join(lines)
    path = root / f"{name}.ipynb"
    path.write_text(json.dumps(notebook))
    return path


class Page:
    """One notebook open in the browser."""

    def __init__(self, browser: Any, address: str, name: str) -> None:
        self.name, self.address = name, address
        self.tab = browser.new_page(viewport={"width": 1500, "height": 1100})
        self.tab.set_default_timeout(60_000)
        self.open()

    def open(self, reset: bool = True) -> None:
        """Opens the page and waits until its kernel is attached: only then does idle mean idle."""
        self.tab.goto(f"{self.address}/lab/tree/{self.name}.ipynb" + ("?reset" if reset else ""))
        self.tab.wait_for_selector(".jp-Notebook .jp-CodeCell")
        until(self.kernel, 60, f"a kernel for {self.name}")

    def kernel(self) -> dict[str, Any] | None:
        """The page's kernel once the browser is connected to it."""
        for session in _get(f"{self.address}/api/sessions") or ():
            kernel = session["kernel"]
            if self.name in session["path"] and kernel["connections"]:
                return dict(kernel)
        return None

    def run_all(self) -> None:
        self.tab.get_by_role("menuitem", name="Run", exact=True).click()
        self.tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def run_cells(self, count: int) -> None:
        """Runs the next `count` code cells from where the page stands, as Shift+Enter does."""
        for _ in range(count):
            while "jp-MarkdownCell" in str(self._active().get_attribute("class")):
                self.tab.keyboard.press("Shift+Enter")
            self.tab.keyboard.press("Shift+Enter")

    def _active(self) -> Any:
        return self.tab.locator(".jp-Cell.jp-mod-active")

    def run_from(self, text: str) -> None:
        """Runs the cell that holds `text` and all below."""
        self.cell(text).locator(".jp-InputArea-editor").click()
        self.tab.get_by_role("menuitem", name="Run", exact=True).click()
        self.tab.get_by_role("menuitem", name=re.compile("Run Selected Cell and All Below")).click()

    def stop(self) -> None:
        """The toolbar's stop button."""
        self.tab.locator('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]').click()

    def cell(self, text: str) -> Any:
        """The code cell whose source holds `text`."""
        source = self.tab.locator(".jp-InputArea-editor", has_text=text)
        return self.tab.locator(".jp-CodeCell").filter(has=source).first

    def prompts(self) -> list[str]:
        return [
            each.strip() for each in self.tab.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
        ]

    def finished(self, seconds: float = 120) -> None:
        """Waits until the last cell has run and nothing is running; fails at once on an error."""

        def done() -> bool:
            if wrong := self.errors():
                raise AssertionError(wrong)
            prompts = self.prompts()
            return "[*]:" not in prompts and bool(re.fullmatch(r"\[\d+\]:", prompts[-1]))

        until(done, seconds, f"the last cell of {self.name}")

    def errors(self) -> str:
        found = self.tab.locator('.jp-OutputArea-output [data-mime-type*="error"], .jp-RenderedText pre')
        texts = [text for text in found.all_inner_texts() if "Traceback (most recent call last)" in text]
        return "\n".join(texts)

    def outputs(self) -> str:
        """All text that the page shows as output, sources left out."""
        return "\n".join(self.tab.locator(".jp-OutputArea-output").all_inner_texts())

    def pictures(self) -> int:
        """Figures that the browser has really drawn."""
        return int(
            self.tab.evaluate(
                "[...document.querySelectorAll('.jp-OutputArea-output img')]"
                ".filter(i => i.complete && i.naturalWidth > 100).length"
            )
        )

    def screenshot(self, label: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.tab.screenshot(path=SCREENSHOTS / f"{label}.png")

    def close(self) -> None:
        """Closes the page and ends its kernel."""
        kernel = self.kernel()
        self.tab.close()
        if kernel:
            request = urllib.request.Request(
                f"{self.address}/api/kernels/{kernel['id']}", method="DELETE"
            )
            urllib.request.urlopen(request, timeout=20).close()
