"""How long a person waits in a real browser: each page to its last figure (the first page compiles the
corpus, the others read its cache), the picker with 1,000 checkpoints, and an evaluation without a page.

python benchmarks/pages.py
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import treelstm
from corpus import directories, workplace
from treelstm import evaluation, rivals
from treelstm.sealed import sealed

CHECKPOINTS = 1000


def main() -> None:
    import lab
    from children import end_with_this_process

    end_with_this_process()
    if reason := lab.missing():
        sys.exit(f"no browser: {reason}")
    with workplace() as name:
        root = Path(name)
        training, validation = directories(root)
        run = {"output_dir": str(root / "run")}
        fresh = run | {"data_dir": str(training), "validation_dir": str(validation), "epochs": 2}
        pages: dict[str, dict[str, Any]] = {
            "01_preflight": fresh,
            "02_train": fresh,
            "03_resume": run | {"epochs": 2},
            "04_evaluate": run,
        }
        with lab.jupyterlab(root) as address, lab.chromium() as browser:
            for page, parameters in pages.items():
                open_and_run(lab, browser, address, root, page, parameters)
            pick_among_many(lab, browser, address, root)
        evaluate(root / "run" / "best_model.pt", treelstm.Config.from_parameters(fresh))


def open_and_run(
    lab: Any, browser: Any, address: str, root: Path, name: str, parameters: dict[str, Any]
) -> None:
    """From opening the notebook to its last figure, then the size of the file with its outputs."""
    path = lab.place(name, root, parameters)
    began = time.perf_counter()
    page = lab.Page(browser, address, name)
    opened = time.perf_counter()
    page.run_all()
    page.finished(600)
    done = time.perf_counter()
    page.tab.keyboard.press("Control+s")
    lab.until(lambda: b"treelstm-figure" in path.read_bytes(), 60, "the page to be saved")
    print(
        f"{name}: open {opened - began:.1f} s, run {done - opened:.1f} s, {page.pictures()} figures, "
        f"{path.stat().st_size / 1e6:.2f} MB with outputs"
    )
    page.screenshot(f"bench-{name}")
    page.close()


def pick_among_many(lab: Any, browser: Any, address: str, root: Path) -> None:
    """From asking for the picker to a click on its last row being shown as the choice."""
    data = {"data_dir": str(root / "training"), "validation_dir": str(root / "validation")}
    sizes = {"embedding_dim": 4, "hidden_dim": 4, "output_dim": 4}  # small files
    small = treelstm.Config.from_parameters(data | sizes | {"output_dir": str(root / "small")})
    treelstm.train(dataclasses.replace(small, epochs=1))
    content = treelstm.load_checkpoint(root / "small" / "checkpoint_epoch_1.pt")
    many = root / "many"
    many.mkdir()
    epochs = range(1, CHECKPOINTS + 1)
    of_all = {k: [{**content[k][0], "epoch": epoch} for epoch in epochs] for k in ("history", "timings")}
    for epoch in epochs:
        adam = content["optimizer_state_dict"]
        steps = {k: {**v, "step": v["step"] * epoch} for k, v in adam["state"].items()}
        state = {**adam, "state": steps}
        part = {**content, "epoch": epoch, "optimizer_state_dict": state}
        part |= {name: records[:epoch] for name, records in of_all.items()}
        (many / f"checkpoint_epoch_{epoch}.pt").write_bytes(b"".join(sealed(part)))
    lab.place("03_resume", root, {"output_dir": str(many), "epochs": CHECKPOINTS})
    page = lab.Page(browser, address, "03_resume")
    page.run_cells(3)  # parameters, status, the run so far
    lab.until(lambda: page.prompts()[2] == "[3]:", 60, "how the run stands")
    began = time.perf_counter()
    page.run_cells(1)
    page.tab.locator(".treelstm-picker tbody tr").nth(CHECKPOINTS - 1).wait_for(state="attached")
    shown = time.perf_counter()
    page.tab.locator('tr[data-path$="checkpoint_epoch_1.pt"]').click()
    page.tab.locator('tr[data-path$="checkpoint_epoch_1.pt"][aria-selected="true"]').wait_for()
    picked = time.perf_counter()
    page.tab.get_by_role("button", name="epoch", exact=True).click()
    page.tab.locator('[aria-sort="ascending"]').wait_for()
    print(
        f"picker with {CHECKPOINTS:,} checkpoints: shown {shown - began:.2f} s after its cell was run, "
        f"a click {picked - shown:.2f} s, a sort {time.perf_counter() - picked:.2f} s"
    )
    page.close()


def evaluate(path: Path, config: treelstm.Config) -> None:
    encoder = treelstm.load_encoder(path)
    pairs = treelstm.load_corpus(config).validation
    began = time.perf_counter()
    scorers = rivals.with_rivals(encoder, pairs, config)
    evaluation.compared(scorers, pairs)
    for each in scorers.values():
        evaluation.retrieval(each, pairs)
    print(
        f"evaluation of {len(pairs):,} pairs, intervals, retrieval and all rivals: "
        f"{time.perf_counter() - began:.1f} s"
    )


if __name__ == "__main__":
    main()
