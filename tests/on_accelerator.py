"""What tests/test_accelerator.py looks at, done on a pretended accelerator in a process of its own.

python tests/on_accelerator.py DATA WORK VECTORS prints what it found as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerator import NAME, OnDevice, waits

import treelstm.process

treelstm.process.chosen_device = lambda name: torch.device(NAME if name != "cpu" else "cpu")

from conftest import tiny_config  # noqa: E402
from kinds import KINDS, settings_of  # noqa: E402
from runs import StopAfter  # noqa: E402

import treelstm  # noqa: E402
from treelstm.checks import environment  # noqa: E402
from treelstm.collection import Collection  # noqa: E402
from treelstm.evaluation import metrics_of  # noqa: E402
from treelstm.explanation import explain  # noqa: E402
from treelstm.rivals import with_rivals  # noqa: E402
from treelstm.run import inputs  # noqa: E402
from treelstm.run.state import new_run  # noqa: E402
from treelstm.run.step import finish_epoch, train_step  # noqa: E402
from treelstm.run.training import train_heard_by  # noqa: E402

DATA, WORK, VECTORS = map(Path, sys.argv[1:4])


def config(name: str, device: str = "cuda", **settings: Any) -> treelstm.Config:
    return tiny_config(DATA, WORK / name, device=device, **settings)


def steps() -> dict[str, Any]:
    """Of each kind of settings: the waits of an epoch's steps, its losses here and on the CPU."""
    found = {}
    for name in KINDS:
        found[name], settings = {}, settings_of(name, VECTORS)
        for device in ("cpu", "cuda"):
            own = config("steps", device, **settings)
            run = new_run(own, treelstm.load_corpus(own))
            assert isinstance(run.encoder.embedding, OnDevice) == (device == "cuda")
            ids = run.corpus.vocabulary.ids(run.corpus.training.forest.symbols)
            waits.clear()
            for _ in range(run.steps_per_epoch):
                train_step(run, np.arange(len(run.corpus.training)), ids)
            found[name]["waits"] = dict(waits)
            record = finish_epoch(run)
            found[name][device] = [record["train_loss"], record["validation_loss"]]
    return found


class BetweenSteps(treelstm.Listener):
    """Counts the waits from one step to the next, where neither a commit nor a validation lies."""

    def __init__(self) -> None:
        self.waits, self.steps, self.undisturbed = 0, 0, False
        self.threads = set[int]()

    def on_step(self, run: Any) -> None:
        self.threads.add(len(side_threads()))
        if self.undisturbed:
            self.waits += sum(waits.values())
            self.steps += 1
        self.undisturbed = True
        waits.clear()

    def on_commit(self, content: Any) -> None:
        self.undisturbed = False


def side_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if "treelstm-ahead" in each.name]


def loop() -> dict[str, Any]:
    listener = BetweenSteps()
    train_heard_by([listener], config("loop", batch_size=4))
    left, made = len(side_threads()), inputs.dropout_mask

    def fail(seed: int, step: int, *others: Any) -> torch.Tensor:
        if step == 7:
            raise MemoryError
        return made(seed, step, *others)

    inputs.dropout_mask = fail
    try:
        treelstm.train(config("failed", checkpoint_every_seconds=0))
    except MemoryError as error:
        said = str(error)
    inputs.dropout_mask = made
    left += len(side_threads())
    resumed_at = treelstm.train(config("failed")).resumed_at
    numbers = {"waits": listener.waits, "steps": listener.steps, "threads": [*listener.threads]}
    return {**numbers, "left": left, "said": said, "resumed_at": resumed_at}


def resumed() -> dict[str, Any]:
    """Runs that stop after 7 steps, and go on on the same device or on the other."""
    found = {}
    for first, second in product(("cuda", "cpu"), repeat=2):
        name = f"{first}-{second}"
        treelstm.train(config(name, first), listeners=[StopAfter(7)])
        history = treelstm.train(config(name, second))
        epochs = [[each["train_loss"], each["validation_loss"]] for each in history.epochs]
        found[name] = {"at": history.resumed_at, "epochs": epochs}
    treelstm.train(config("cuda"))
    return found


def used() -> dict[str, Any]:
    """What is done with a trained encoder, here and on the CPU."""
    trained = config("used", "cpu", **settings_of("vectors", VECTORS))
    treelstm.train(trained)
    asts = [{"tipo": "frazo", "verbo": {"radiko": word}} for word in ("arb", "dom", "neniam")]
    found: dict[str, Any] = {}
    for device in ("cpu", "cuda"):
        encoder = treelstm.load_encoder(WORK / "used" / "final_model.pt", device=device)
        assert isinstance(encoder.embedding, OnDevice) == (device == "cuda")
        pairs = treelstm.load_pairs(DATA / "validation", encoder.settings.ignored_keys)
        treelstm.export_encoder(encoder, WORK / f"exported-{device}")
        again = treelstm.import_encoder(WORK / f"exported-{device}", device=device)
        explained = explain(encoder, pairs.forest, [0, 1])
        rivals = with_rivals(encoder, pairs, trained)
        nearest = Collection.of_pairs(pairs, encoder).nearest(asts[0])
        found[device] = {
            "encode": encoder.encode(asts).cpu().flatten().tolist(),
            "import": again.encode(asts).cpu().flatten().tolist(),
            "evaluate": treelstm.evaluate(encoder, pairs).average_precision,
            "rivals": [metrics_of(scorer, pairs)["average_precision"] for scorer in rivals.values()],
            "explain": [part for _, _, part in explained.strongest()],
            "nearest": [each.distance for each in nearest],
        }
    return found


def preflight() -> dict[str, Any]:
    environment.chosen_device = lambda name: torch.device("cpu")  # that check knows GPUs only
    report = treelstm.preflight(config("preflight", "auto"))
    return {"verdict": report.verdict, "text": str(report)}


if __name__ == "__main__":
    logging.getLogger("treelstm").propagate = False
    print("\n" + json.dumps({each.__name__: each() for each in (steps, loop, resumed, used, preflight)}))
