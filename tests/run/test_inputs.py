"""What a step takes from the corpus: made one step ahead, in order, the same as in its place.

That the loop does so for a GPU, and ends the thread, is seen in test_accelerator.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_config
from kinds import KINDS, settings_of
from runs import identical
from vectors import some_vectors

from treelstm import load_checkpoint, load_corpus, train
from treelstm.randomness import epoch_order
from treelstm.run.inputs import ahead, inputs_of, side_thread
from treelstm.run.state import new_run
from treelstm.run.step import finish_epoch, train_step

CPU = torch.device("cpu")


def test_the_next_one_is_made_while_one_is_used_and_never_more():
    made: list[int] = []
    begun = [threading.Event() for _ in range(6)]

    def make(number: int) -> int:
        made.append(number)
        begun[number].set()
        return 10 * number

    with side_thread(CPU) as side:
        results = ahead(side, make, range(5))
        for number in range(5):
            assert next(results) == 10 * number
            if number < 4:
                assert begun[number + 1].wait(10), "nobody has begun the next one"
            assert made == [*range(min(number + 2, 5))]
        assert next(results, None) is None


def test_an_error_is_raised_where_its_result_would_have_been():
    def make(number: int) -> int:
        return 1 // (2 - number)

    with side_thread(CPU) as side:
        results = ahead(side, make, range(4))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_the_side_thread_takes_the_gpu_and_the_stream_of_the_thread_that_trains(monkeypatch):
    taken: list[tuple[str, str]] = []

    def take(stream: str) -> None:
        taken.append((stream, threading.current_thread().name))

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"that of {device}")
    monkeypatch.setattr(torch.cuda, "set_stream", take)
    with side_thread(torch.device("cuda:1")) as side:
        assert side.submit(int).result() == 0
    assert taken == [("that of cuda:1", "treelstm-ahead_0")]


@pytest.fixture(scope="module")
def vectors(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_vectors(tiny, tmp_path_factory.mktemp("vectors") / "vectors.txt")


def flat(value: Any) -> Iterator[Any]:
    """All that inputs hold, in order."""
    if isinstance(value, dict):
        for key in value:
            yield key
            yield from flat(value[key])
    elif hasattr(value, "__dataclass_fields__"):
        for field in fields(value):
            yield field.name
            yield from flat(getattr(value, field.name))
    else:
        yield torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("kind", KINDS)
def test_made_ahead_and_used_by_the_loop_they_are_what_they_are_in_their_place(
    tiny, vectors, tmp_path, kind
):
    settings = settings_of(kind, vectors)
    config = tiny_config(tiny, tmp_path / "run", epochs=2, num_threads=1, **settings)
    train(config)
    run = new_run(config, load_corpus(config))
    ids = run.corpus.vocabulary.ids(run.corpus.training.forest.symbols)
    for epoch in (1, 2):
        order = epoch_order(config.seed, epoch, len(run.corpus.training))
        steps = range(run.steps_per_epoch)
        with side_thread(CPU) as side:
            made = [*ahead(side, lambda step, order=order: inputs_of(run, order, ids, step), steps)]
        for step, inputs in zip(steps, made, strict=True):
            assert identical([*flat(inputs)], [*flat(inputs_of(run, order, ids, step))])
            train_step(run, order, ids)  # its own are made here, now
        finish_epoch(run)
    committed = load_checkpoint(tmp_path / "run" / "checkpoint_epoch_2.pt")
    assert identical(dict(run.encoder.state_dict()), dict(committed["model_state_dict"]))
    assert run.history == committed["history"]
