"""Several processes train one run and give the bits of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_config
from runs import StopAfter, assert_same_run, rewrite

from treelstm import Config, list_checkpoints, load_checkpoint, load_corpus, train
from treelstm.config import ConfigError
from treelstm.model.encoder import distances
from treelstm.neutral import neutral_torch
from treelstm.night import LAUNCH_DIR
from treelstm.randomness import dropout_mask, epoch_order
from treelstm.run.distributed import ALONE, Group, require_startable
from treelstm.run.state import Run, SettingsChanged, new_run
from treelstm.run.step import train_step

KINDS: dict[str, dict[str, Any]] = {
    "contrastive": {"dropout": 0.3},
    "graded": {"objective": "graded", "lr_schedule": "plateau", "warmup_steps": 4},
    "ranking": {"objective": "ranking", "dropout": 0.3, "lr_schedule": "cosine"},
    "order of children": {"child_order": True},
    "bag alone": {"hidden_dim": 0, "dropout": 0.0},
    "tree alone": {"bag_of_symbols": False, "precision": "bfloat16"},
    "vectors": {"vectors_keys": "radiko"},
    "frozen vectors": {"vectors_keys": "radiko", "vectors_frozen": True},
}


@pytest.fixture(scope="module")
def words(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of every other word of the sample corpus, of 4 numbers each."""
    path = tmp_path_factory.mktemp("vectors") / "words.txt"
    symbols = load_corpus(tiny_config(tiny, path)).training.forest.symbols
    found = [symbol.partition("=")[2] for symbol in symbols if symbol.startswith("radiko=")][::2]
    path.write_text("".join(f"{word} {k % 3} 1 -{k % 7} 0.5\n" for k, word in enumerate(found)))
    return path


def sharded(tiny: Path, output_dir: Path, words: Path, name: str, **settings: Any) -> Config:
    """2 epochs of 4 or 2 steps; the last one, of 12 pairs, leaves some of its 8 shards with one pair. Of
    "empty shards", it has 2 pairs.
    """
    own = KINDS.get(name, {"batch_size": 10}) | {"shards": 8, "num_threads": 1, "epochs": 2}
    own |= {"vectors": str(words)} if "vectors_keys" in own else {}
    return tiny_config(tiny, output_dir, **({"batch_size": 20} | own | settings))


def in_processes(number: int, work: Path, entries: list[dict[str, Any]], *flags: str) -> list[list[Any]]:
    """What each process found, see tests/ranks.py."""
    spec = work / "spec.json"
    spec.write_text(json.dumps(entries))
    script = Path(__file__).parent.parent / "ranks.py"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", *flags]
    words += [f"--nproc-per-node={number}", str(script), str(spec)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == int("fails" in entries[-1]), done.stdout + done.stderr
    lines = [(work / f"found{rank}.jsonl").read_text().splitlines() for rank in range(number)]
    return [[json.loads(line) for line in each] for each in lines]


def test_any_number_of_processes_ends_bit_identical(tiny, words, tmp_path):
    """All kinds of runs at 2, 3 and 1 processes; one changes the number twice, and one is killed."""
    names = [*KINDS, "empty shards"]

    some = ["contrastive", "ranking", "vectors", "empty shards"]

    def entries(where: str, names: list[str]) -> list[dict[str, Any]]:
        configs = (sharded(tiny, tmp_path / where / name, words, name) for name in names)
        return [{"config": config.to_dict()} for config in configs]

    moved = sharded(tiny, tmp_path / "moved", words, "contrastive", epochs=4)
    killed = sharded(tiny, tmp_path / "killed", words, "ranking", checkpoint_every_seconds=0)
    asked = {"config": moved.to_dict(), "stop_after": 3}
    dies = {"config": killed.to_dict(), "die_after": 3}
    wild = sharded(tiny, tmp_path / "wild", words, "contrastive", learning_rate=1e30)
    last = [{"differ": True, "config": {}}, {"fails": -1, "config": wild.to_dict()}]
    (tmp_path / "two").mkdir()
    plan = [*entries("two", names), dies, asked, *last]
    found = in_processes(2, tmp_path / "two", plan, "--max-restarts=1")
    ends = ["finished"] * len(names) + ["finished", "stopped by SIGTERM"]
    said = "ProcessesDiffer: the 2 processes of this run have other ranks. Nothing more was committed. "
    assert all(each[:-2] == ends and each[-2].startswith(said) for each in found), found
    assert found[0][-1].startswith("TrainingDiverged: the loss is ")
    ended = "GroupLost: another of the run's 2 processes has ended: "
    assert found[1][-1] == ended + found[0][-1]
    assert (tmp_path / "two" / f"mark{len(names)}").exists(), "nothing was killed"
    stopped = list_checkpoints(tmp_path / "moved")[-1].position
    assert train(moved, listeners=[StopAfter(7)]).resumed_at == stopped != (0, 0)
    assert stopped < list_checkpoints(tmp_path / "moved")[-1].position < (4, 0)

    (tmp_path / "three").mkdir()
    last = [{"config": moved.to_dict()}, {"share": 10_000_000, "config": {}}, {"fails": 1, "config": {}}]
    found = in_processes(3, tmp_path / "three", [*entries("three", some), *last])
    assert [each[:-2] for each in found] == [["finished"] * (len(some) + 1)] * 3
    array = ["memmap", "int64", [9_999_999, 9_999_998, 9_999_997], sum(range(10_000_000))]
    assert [each[-2] for each in found] == [array] * 3
    assert found[1][-1] == "UserError: this file is damaged."
    assert [each[-1] for each in found[::2]] == [ended.replace("2", "3") + found[1][-1]] * 2

    for name in names:
        train(sharded(tiny, tmp_path / "one" / name, words, name))
        for where in ("two", "three") if name in some else ("two",):
            assert_same_run(tmp_path / "one" / name, tmp_path / where / name)
    train(sharded(tiny, tmp_path / "whole", words, "contrastive", epochs=4))
    assert_same_run(tmp_path / "whole", tmp_path / "moved")
    assert_same_run(tmp_path / "one" / "ranking", tmp_path / "killed")


@pytest.mark.long
@pytest.mark.parametrize("number", [4, 5, 8])
def test_many_processes_end_bit_identical(tiny, words, tmp_path, number):
    names = [*KINDS, "empty shards"]
    configs = [sharded(tiny, tmp_path / "many" / name, words, name) for name in names]
    (tmp_path / "many").mkdir()
    in_processes(number, tmp_path / "many", [{"config": config.to_dict()} for config in configs])
    for name in names:
        train(sharded(tiny, tmp_path / "one" / name, words, name))
        assert_same_run(tmp_path / "one" / name, tmp_path / "many" / name)


def plain_step(run: Run, order: np.ndarray, ids: np.ndarray) -> None:
    """A step as the formula has it, without parts: forward, mean loss, backward, Adam."""
    config, pairs = run.config, run.corpus.training
    indices = order[run.step * config.batch_size : (run.step + 1) * config.batch_size]
    trees = np.concatenate((pairs.first[indices], pairs.second[indices]))
    mask = None
    if config.dropout:
        shape = (len(trees), config.hidden_dim)
        mask = dropout_mask(config.seed, run.steps_done, shape, config.dropout)
    first, second = run.encoder(run.encoder.batch(pairs.forest, trees, ids), mask).split(len(indices))
    loss = run.objective.loss(first, second, run.objective.target(pairs, indices))
    run.optimizer.zero_grad(set_to_none=True)
    loss.mean().backward()
    run.optimizer.step()
    if run.warmup is not None and run.warmup.last_epoch < config.warmup_steps:
        run.warmup.step()
    label = torch.from_numpy(pairs.label[indices])
    correct = (distances(first, second) < run.threshold) == (label > 0)
    run.epoch_sums += torch.stack((loss.detach().double().sum(), correct.double().sum()))
    run.step += 1


def after(config: Config, steps: int, step: Any = train_step) -> Run:
    corpus = load_corpus(config)
    run = new_run(config, corpus)
    ids = corpus.vocabulary.ids(corpus.training.forest.symbols)
    with neutral_torch():
        for _ in range(steps):
            if run.step == run.steps_per_epoch:
                run.step, run.epochs_done = 0, run.epochs_done + 1
            order = epoch_order(config.seed, run.epochs_done + 1, len(corpus.training))
            step(run, order, ids)
    return run


def weights(run: Run) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in run.encoder.parameters()])


@pytest.mark.parametrize("name", KINDS)
def test_one_shard_is_the_plain_step_bit_for_bit(tiny, words, tmp_path, name):
    config = sharded(tiny, tmp_path, words, name, shards=1)
    ours, plain = after(config, 9), after(config, 9, plain_step)
    assert torch.equal(weights(ours), weights(plain)) and torch.equal(ours.epoch_sums, plain.epoch_sums)


# In a batch of one pair a shard, ranking has no negatives; bfloat16 rounds by more.
@pytest.mark.parametrize(
    "name", [*(k for k in KINDS if k not in ("ranking", "tree alone")), "empty shards"]
)
def test_shards_change_the_last_bits_only(tiny, words, tmp_path, name):
    steps = 100 if name == "contrastive" else 20
    one, eight = (after(sharded(tiny, tmp_path, words, name, shards=n), steps) for n in (1, 8))
    apart = float(torch.linalg.vector_norm(weights(one) - weights(eight)))
    assert 0 < apart < 1e-5, apart
    for first, second in zip(one.encoder.parameters(), eight.encoder.parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None)


def test_parts_are_added_in_one_tree_whatever_their_number():
    def shape(parts: int) -> str:
        """The order of additions, as a text that addition puts together."""

        class Text:
            def __init__(self, text: str) -> None:
                self.text = text

            def add_(self, other: Text) -> Text:
                return Text(f"({self.text}{other.text})")

        (found,) = ALONE.add(parts, lambda part: (Text(str(part)),))
        return found.text

    assert [shape(n) for n in (1, 2, 3, 5)] == ["0", "(01)", "((01)2)", "(((01)2)(34))"]
    assert shape(8) == "(((01)(23))((45)(67)))"
    for size in range(1, 9):
        owners = Group(0, size)._owners(8)
        assert sorted({*owners}) == [*range(size)] and owners == sorted(owners)


# --- what is refused ---------------------------------------------------------------------------


def test_shards_cannot_change_on_resume_and_are_1_where_a_commit_has_none(tiny, run):
    def forget(content: Any) -> None:
        del content["config"]["shards"], content["config"]["processes"]

    for path in run.glob("*.pt"):
        rewrite(path, forget)
    with pytest.raises(SettingsChanged, match="shards=1, this run asks for 2"):
        train(tiny_config(tiny, run, epochs=4, shards=2))
    assert train(tiny_config(tiny, run, epochs=4)).resumed_at == (3, 0)


def test_threads_of_a_new_run_with_shards_do_not_depend_on_the_processes(tiny, tmp_path):
    train(tiny_config(tiny, tmp_path / "run", epochs=1, shards=16, processes=1))
    assert load_checkpoint(tmp_path / "run" / "checkpoint_epoch_1.pt")["num_threads"] == 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shards": 17}, r"batch_size is 16 with shards=17: .* Set batch_size to at least 17"),
        (
            {"shards": 9, "objective": "ranking"},
            "others to compare it with. Set batch_size to at least 18",
        ),
    ],
)
def test_a_shard_without_pairs_is_refused(tiny, tmp_path, settings, text):
    with pytest.raises(ConfigError, match=text):
        tiny_config(tiny, tmp_path, **settings)


WORKER = {
    "RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x",
    "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "3",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "settings", "text"),
    [
        (
            {},
            {"shards": 2},
            r"4 processes for shards=2: .* --nproc-per-node=2.* shards=4 in a new output",
        ),
        (
            {},
            {"shards": 8, "resume": None},
            r'resume is None.* Set resume="auto", or .*--max-restarts=0',
        ),
        ({}, {"shards": 8}, r"Type TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend=c10d"),
        ({"LOCAL_WORLD_SIZE": "4"}, {"shards": 8}, None),
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, {"shards": 8}, None),
        ({"TORCHELASTIC_MAX_RESTARTS": "0"}, {"shards": 8, "resume": None}, None),
        ({LAUNCH_DIR: "/tmp"}, {"shards": 8, "resume": None}, None),
        (None, {"shards": 2, "processes": 3}, "3 processes for shards=2"),
        (None, {"processes": 1}, None),
    ],
)
def test_what_would_hang_or_begin_anew_is_refused_with_the_way_out(
    tiny, tmp_path, monkeypatch, environment, settings, text
):
    for name, value in (WORKER | environment).items() if environment is not None else ():
        monkeypatch.setenv(name, value)
    config = tiny_config(tiny, tmp_path, **settings)
    if text is None:
        require_startable(config)
        return
    with pytest.raises(ConfigError, match=text):
        require_startable(config)


def test_more_processes_than_shards_are_refused_before_anything_is_read(tmp_path):
    nowhere = Config(data_dir=str(tmp_path / "none"), output_dir=str(tmp_path / "run"), processes=2)
    with pytest.raises(ConfigError, match="2 processes for shards=1"):
        train(nowhere)
    assert not os.path.exists(tmp_path / "run")  # noqa: PTH110
