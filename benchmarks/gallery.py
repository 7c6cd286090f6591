"""Every page as a person sees it: on the sample and the real corpus, in light and dark, 1400 and 1000
pixels wide, from top to bottom, and as HTML that nbconvert makes of it. The pictures, in .screenshots/,
are to be looked at.

python benchmarks/gallery.py [sample|real] [01 02 ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import treelstm
from corpus import REAL, directories, workplace

THEMES = ("light", "dark")
WIDTHS = (1400, 1000)
PAGES = sorted(path.stem for path in (Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

# Goes to the page's top; its height, and how many pixels of an output lie beyond its right edge.
_EXTENT = """() => {
    const notebook = document.querySelector('.jp-WindowedPanel-outer');
    notebook.scrollTop = 0;
    const outputs = [...document.querySelectorAll('.jp-OutputArea-output')];
    const beyond = outputs.map(each => each.scrollWidth - each.clientWidth);
    return [notebook.scrollHeight, Math.max(0, ...beyond)];
}"""


def main() -> None:
    import lab
    from children import end_with_this_process

    end_with_this_process()
    if reason := lab.missing():
        sys.exit(f"no browser: {reason}")
    corpora = [name for name in ("sample", "real") if name in sys.argv[1:]] or ["sample", "real"]
    pages = [page for page in PAGES if page[:2] in sys.argv[1:]] or PAGES
    for corpus in corpora:
        if corpus == "real" and not REAL.is_dir():
            print("no real corpus beside this clone: its pictures are left out")
            continue
        with workplace() as name, lab.chromium() as browser:
            root = Path(name)
            if corpus == "real":
                training, validation = directories(root)
            else:
                training, validation = root / "training", root / "validation"
                treelstm.write_sample(training)
                treelstm.write_sample(validation, seed=1, unlike=training)
            run = {"output_dir": str(root / "runs" / "run")}
            data = {"data_dir": str(training), "validation_dir": str(validation), "epochs": 3}
            if pages[0] > "02":
                train(data | run)
            with lab.jupyterlab(root) as address:
                for page in pages:
                    parameters = run | (data if page[:2] in ("01", "02") else {})
                    if page[:2] == "05":
                        train(data | {"output_dir": str(root / "runs" / "bag"), "hidden_dim": 0})
                        parameters = {"directory": str(root / "runs")}
                    look(lab.Page, lab.place(page, root, parameters), browser, address, corpus)


def train(settings: dict[str, Any]) -> None:
    flags = treelstm.Config.from_parameters(settings).flags()
    subprocess.run([sys.executable, "-m", "treelstm", "train", *flags], check=True, capture_output=True)


def look(kind: Any, path: Path, browser: Any, address: str, corpus: str) -> None:
    """Runs a page, photographs it in each theme and width, saves it, and photographs it as HTML."""
    from lab import SCREENSHOTS

    page = kind(browser, address, path.stem)
    page.run_all()
    page.finished(900)
    page.tab.keyboard.press("Control+s")
    for theme in THEMES:
        page.theme(theme.title())
        for width in WIDTHS:
            page.tab.set_viewport_size({"width": width, "height": 1000})
            page.tab.wait_for_timeout(1500)
            height, beyond = page.tab.evaluate(_EXTENT)
            page.tab.set_viewport_size({"width": width, "height": int(min(height + 150, 16_000))})
            page.tab.wait_for_timeout(1500)
            page.screenshot(f"{corpus}-{path.stem}-{theme}-{width}")
            print(
                f"{corpus} {path.stem} {theme} {width}: {height} pixels high, {beyond} beyond the edge"
            )
    page.theme("Light")
    page.tab.wait_for_timeout(6_000)  # the page saves itself
    page.close()
    words = [sys.executable, "-m", "nbconvert", "--to", "html", str(path)]
    for theme in THEMES:
        subprocess.run([*words, "--theme", theme], check=True, capture_output=True)
        tab = browser.new_page(viewport={"width": 1200, "height": 1000})
        tab.goto(path.with_suffix(".html").as_uri())
        tab.wait_for_timeout(1500)
        tab.screenshot(path=SCREENSHOTS / f"{corpus}-{path.stem}-html-{theme}.png", full_page=True)
        tab.close()


if __name__ == "__main__":
    main()
