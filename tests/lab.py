"""A real JupyterLab server on loopback, used through a real Chromium, as a person would use it."""

from __future__ import annotations

import importlib.util
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
SCREENSHOTS = REPOSITORY / ".screenshots"  # to be looked at; not committed

_SETTINGS = {
    # Render all cells, not only the visible ones, and start a kernel when a notebook is opened.
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosaveInterval": 5},
}
# Then no browser is connected to a kernel.
SERVER_CONNECTS = importlib.util.find_spec("jupyter_server_documents") is not None

_CHROMIUM = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

# Error outputs in the model of the notebook `path`; the server exposes the application for this.
_ERRORS = """path => [...jupyterapp.shell.widgets('main')]
    .filter(widget => widget.context?.path === path)
    .flatMap(widget => [...widget.content.model.cells])
    .flatMap(cell => cell.outputs?.toJSON() ?? [])
    .filter(output => output.output_type === 'error')
    .map(output => `${output.ename}: ${output.evalue}`)"""


def missing() -> str | None:
    """Why the browser tests cannot run here, or None if they can."""
    if shutil.which("chromium") is None:
        return "chromium is not installed (Debian: apt-get install chromium)"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed (it is among the dev dependencies)"
    return None


@contextmanager
def jupyterlab(root: Path) -> Iterator[str]:
    """Runs a server on the files in `root`, yields its address, and stops it and its kernels."""
    settings = root / ".settings"
    for name, values in _SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"""-m jupyterlab --no-browser --allow-root --ServerApp.ip=127.0.0.1
        --ServerApp.port={port} --ServerApp.port_retries=0 --ServerApp.disable_check_xsrf=True
        --IdentityProvider.token= --LabApp.expose_app_in_browser=True""".split()
    command = [sys.executable, *options, f"--ServerApp.root_dir={root}"]
    directories = {"JUPYTERLAB_SETTINGS_DIR": settings, "JUPYTER_CONFIG_DIR": settings}
    directories["JUPYTER_RUNTIME_DIR"] = settings / "runtime"
    environment = os.environ | {name: str(path) for name, path in directories.items()}
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
    """Waits until `true()` returns something true, and returns that."""
    end = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)
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
    """Copies a notebook to `root` and writes these parameters into its parameters cell."""
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
        """Opens the page and waits until it is connected to its kernel."""
        # A workspace of its own, so that a reload does not open what other pages have open.
        path = f"lab/workspaces/{self.name}/tree/{self.name}.ipynb"
        self.tab.goto(f"{self.address}/{path}" + ("?reset" if reset else ""))
        self.tab.wait_for_selector(".jp-Notebook .jp-CodeCell")
        until(self.kernel, 60, f"a kernel for {self.name}")

    def kernel(self) -> dict[str, Any] | None:
        """The server's record of this page's kernel, or None until the browser is connected to it."""
        for session in _get(f"{self.address}/api/sessions") or ():
            kernel = session["kernel"]
            if self.name in session["path"] and (kernel["connections"] or SERVER_CONNECTS):
                return dict(kernel)
        return None

    def run_all(self) -> None:
        self.tab.get_by_role("menuitem", name="Run", exact=True).click()
        self.tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def run_cells(self, count: int) -> None:
        """Runs the next `count` code cells, from the selected cell on, with Shift+Enter."""
        for _ in range(count):
            while "jp-MarkdownCell" in str(self._active().get_attribute("class")):
                self.tab.keyboard.press("Shift+Enter")
            self.tab.keyboard.press("Shift+Enter")

    def _active(self) -> Any:
        return self.tab.locator(".jp-Cell.jp-mod-active")

    def run_from(self, text: str) -> None:
        """Runs the cell whose source contains `text` and all cells below it."""
        self.cell(text).locator(".jp-InputArea-editor").click()
        self.tab.get_by_role("menuitem", name="Run", exact=True).click()
        self.tab.get_by_role("menuitem", name=re.compile("Run Selected Cell and All Below")).click()

    def stop(self) -> None:
        """Clicks the toolbar's stop button."""
        self.tab.locator('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]').click()

    def cell(self, text: str) -> Any:
        """The first code cell whose source contains `text`."""
        source = self.tab.locator(".jp-InputArea-editor", has_text=text)
        return self.tab.locator(".jp-CodeCell").filter(has=source).first

    def prompts(self) -> list[str]:
        return [
            each.strip() for each in self.tab.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
        ]

    def finished(self, seconds: float = 120) -> None:
        """Waits until the last cell has run and nothing is running; fails at once if a cell fails."""

        def done() -> bool:
            if wrong := self.errors():
                raise AssertionError(wrong)
            prompts = self.prompts()
            return "[*]:" not in prompts and bool(re.fullmatch(r"\[\d+\]:", prompts[-1]))

        until(done, seconds, f"the last cell of {self.name}")

    def errors(self) -> str:
        """Name and message of every error output, taken from JupyterLab's model of the notebook.

        In the page's HTML an error with a one-line traceback looks like text printed to stderr.
        """
        return "\n".join(self.tab.evaluate(_ERRORS, f"{self.name}.ipynb"))

    def outputs(self) -> str:
        """The text of all outputs."""
        return "\n".join(self.tab.locator(".jp-OutputArea-output").all_inner_texts())

    def pictures(self) -> int:
        """The number of figures that the browser has drawn."""
        return int(
            self.tab.evaluate(
                "[...document.querySelectorAll('.jp-OutputArea-output svg[role=img]')]"
                ".filter(each => each.getBoundingClientRect().width > 100).length"
            )
        )

    def theme(self, name: str) -> None:
        """Changes to the theme "Light" or "Dark"."""
        theme = f"JupyterLab {name}"
        change = "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})"
        self.tab.evaluate(change, theme)
        self.tab.locator(f"[data-jp-theme-name='{theme}']").wait_for(state="attached")
        time.sleep(1)  # the time that a theme's colours take

    def screenshot(self, label: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.tab.screenshot(path=SCREENSHOTS / f"{label}.png")

    def close(self) -> None:
        """Closes the page and shuts its kernel down."""
        kernel = self.kernel()
        self.tab.close()
        if kernel:
            request = urllib.request.Request(
                f"{self.address}/api/kernels/{kernel['id']}", method="DELETE"
            )
            urllib.request.urlopen(request, timeout=20).close()
