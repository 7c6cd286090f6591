"""What is tried before the night: proposals where something can be learned, and nothing left behind."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_config

from treelstm import try_batch_sizes, try_learning_rates, write_sample
from treelstm.widgets.tries import Tries


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that a hundred steps of it can show something."""
    base = tmp_path_factory.mktemp("tuning")
    write_sample(base / "training", positives=150, negatives=250)
    write_sample(base / "validation", positives=10, negatives=10, seed=1)
    return base


def random_states() -> list[str]:
    return [str(random.getstate()), str(np.random.get_state()), str(torch.get_rng_state().tolist())]


@pytest.mark.parametrize(
    "objective", ["contrastive", "ranking", pytest.param("graded", marks=pytest.mark.long)]
)
def test_a_rate_is_proposed_the_same_each_time_and_nothing_is_left_behind(corpus, tmp_path, objective):
    config = tiny_config(corpus, tmp_path / "run", objective=objective, lr_schedule="cosine")
    before, settings = random_states(), torch.get_num_threads()
    found = try_learning_rates(config)
    again = try_learning_rates(config) if objective == "contrastive" else found
    assert random_states() == before and torch.get_num_threads() == settings
    assert not (tmp_path / "run").exists()
    assert found.losses.tolist() == again.losses.tolist() and found.proposal == again.proposal
    assert found.proposal is not None and 1e-4 < found.proposal < 0.3, found.why
    assert f"Try learning_rate={found.proposal:.1g}" in found._repr_html_()
    assert found.proposal < found.rates[int(np.argmin(found.losses))]


def test_there_is_no_proposal_where_nothing_can_be_learned(tmp_path):
    """All trees are equal, so all distances are 0 at any rate."""
    (tmp_path / "training").mkdir()
    pairs = [
        {f"ast{k}": {"ast": {"verbo": "vid"}} for k in (1, 2)} | {"label": n % 2} for n in range(40)
    ]
    for name in ("training", "validation"):
        (tmp_path / name).mkdir(exist_ok=True)
        lines = (json.dumps(pair) + "\n" for pair in pairs)
        (tmp_path / name / "pairs.jsonl").write_text("".join(lines))
    found = try_learning_rates(tiny_config(tmp_path, tmp_path / "run"))
    assert found.proposal is None and "nearly the same" in found.why and len(found.rates) == 100
    assert "No proposal" in found._repr_html_()


def test_there_is_no_proposal_where_the_loss_is_no_number_from_the_start(corpus, tmp_path):
    found = try_learning_rates(tiny_config(corpus, tmp_path / "run", margin=1e30))
    assert found.proposal is None and "it rises from the start" in found.why
    assert not math.isfinite(found.losses[-1]) and "<svg" in found._repr_html_()


def test_batch_sizes_are_timed_as_far_as_pairs_and_shards_allow(corpus, tmp_path):
    before = random_states()
    found = try_batch_sizes(tiny_config(corpus, tmp_path / "run", shards=64, batch_size=64))
    assert [*found.pace] == [128, 256] and found.why == "There are 400 pairs for training."
    assert all(pace > 0 for pace in found.pace.values()) and found._repr_html_().count("<tr>") == 3
    assert random_states() == before and not (tmp_path / "run").exists()


def test_what_cannot_be_tried_is_said_beside_the_button(tmp_path):
    tries = Tries(tiny_config(tmp_path, tmp_path / "run"))
    assert "nobody asked" in tries.night_form()
    tries.children[0].click()
    assert "training: no such directory" in tries.night_form() and not tries.value
