"""On a GPU, where there is one: `make gpu` runs these tests, and those of models and runs, on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from asts import chain, encoder_for, star
from conftest import REPOSITORY, tiny_config
from kinds import KINDS, settings_of
from runs import StopAfter, assert_same_run, through_kills
from vectors import some_vectors

from treelstm import evaluate, load_corpus, load_encoder, load_pairs, preflight, train
from treelstm.evaluation import pair_distances
from treelstm.run.state import Run, new_run
from treelstm.run.step import train_step
from treelstm.trees.builder import compile_forest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.fixture(scope="module")
def vectors(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_vectors(tiny, tmp_path_factory.mktemp("vectors") / "vectors.txt")


def an_epoch(run: Run) -> Run:
    ids = run.corpus.vocabulary.ids(run.corpus.training.forest.symbols)
    for _ in range(run.steps_per_epoch):
        train_step(run, np.arange(len(run.corpus.training)), ids)
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_a_gpu_does_not_wait_for_it(tiny, vectors, tmp_path, kind):
    config = tiny_config(tiny, tmp_path / "run", device="cuda", **settings_of(kind, vectors))
    run = new_run(config, load_corpus(config))
    ids = run.corpus.vocabulary.ids(run.corpus.training.forest.symbols)
    order = np.arange(len(run.corpus.training))
    train_step(run, order, ids)  # the first one sets up libraries and memory
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(run, order, ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.step == 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bfloat16"])
def test_a_gpu_computes_what_the_cpu_computes(tiny, vectors, tmp_path, kind):
    runs = []
    for device in ("cpu", "cuda"):
        settings = settings_of(kind, vectors) | {"device": device}
        config = tiny_config(tiny, tmp_path / device, **settings)
        runs.append(an_epoch(new_run(config, load_corpus(config))))
    cpu, gpu = (pair_distances(run.encoder, run.corpus.validation) for run in runs)
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3, atol=1e-4)
    theirs = dict(runs[1].encoder.named_parameters())
    for name, parameter in runs[0].encoder.named_parameters():
        torch.testing.assert_close(theirs[name].grad.cpu(), parameter.grad, rtol=1e-3, atol=1e-4)


def test_the_model_is_the_recursive_reference_and_its_gradient_passes_gradcheck():
    asts = [star(4), chain(3), {"kind": "n", "l": star(2), "r": [chain(2), chain(2)]}]
    encoder = encoder_for(asts)
    expected = torch.stack([reference.encode(encoder, ast) for ast in asts])
    encoder.cuda()
    torch.testing.assert_close(encoder.encode(asts).cpu(), expected, rtol=1e-9, atol=1e-12)
    forest = compile_forest(asts)
    ids = encoder.vocabulary.ids(forest.symbols)
    batch = encoder.batch(forest, np.arange(3), ids).to("cuda")
    weights = dict(encoder.named_parameters())

    def encoded(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(encoder, dict(zip(weights, values, strict=True)), (batch,))

    inputs = [weight.detach().requires_grad_() for weight in weights.values()]
    assert torch.autograd.gradcheck(encoded, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_and_resumed_on_a_gpu_is_bit_identical(tiny, vectors, tmp_path, kind):
    settings = {"device": "cuda", **settings_of(kind, vectors)}
    train(tiny_config(tiny, tmp_path / "whole", **settings))
    train(tiny_config(tiny, tmp_path / "parts", **settings), listeners=[StopAfter(7)])
    train(tiny_config(tiny, tmp_path / "parts", **settings))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_in_a_stream_of_the_users_the_bits_are_the_same(tiny, tmp_path):
    """What the side thread copies must be there before the step reads it."""
    train(tiny_config(tiny, tmp_path / "whole", device="cuda"))
    with torch.cuda.stream(torch.cuda.Stream()):
        train(tiny_config(tiny, tmp_path / "streamed", device="cuda"))
    assert_same_run(tmp_path / "whole", tmp_path / "streamed")


def test_kills_on_a_gpu_end_bit_identical(tiny, tmp_path):
    often = {"device": "cuda", "checkpoint_every_seconds": 0.02, "epochs": 4}
    train(tiny_config(tiny, tmp_path / "undisturbed", **often))
    config = tiny_config(tiny, tmp_path / "killed", **often)
    report = through_kills(config, tmp_path, random={"kills": 8, "seed": 1})
    assert not report["failures"] and sum(report["kills"].values()) == 8
    for each in report["runs"]:
        assert_same_run(tmp_path / "undisturbed", Path(each["directory"]))


def test_two_runs_are_bit_identical_with_deterministic_algorithms_demanded(tiny, tmp_path):
    """In a process of its own: torch then refuses every operation that is not deterministic. Training
    itself sets the flag back, so it is set for the steps alone.
    """
    config = tiny_config(tiny, tmp_path / "run", device="cuda")
    code = (
        "import sys, numpy as np, torch, treelstm\n"
        "from treelstm.run.state import new_run\n"
        "from treelstm.run.step import train_step\n"
        f"config = treelstm.Config.from_parameters({config.to_dict()})\n"
        "corpus, weights = treelstm.load_corpus(config), []\n"
        "for _ in range(2):\n"
        "    run = new_run(config, corpus)\n"
        "    ids = run.corpus.vocabulary.ids(corpus.training.forest.symbols)\n"
        "    torch.use_deterministic_algorithms(True)\n"
        "    for _ in range(5): train_step(run, np.arange(72), ids)\n"
        "    torch.use_deterministic_algorithms(False)\n"
        "    weights.append([weight.detach().cpu() for weight in run.encoder.parameters()])\n"
        "assert all(torch.equal(*both) for both in zip(*weights, strict=True))\n"
    )
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_preflight_evaluation_and_encoding_work_on_a_gpu(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", device="cuda")
    report = preflight(config)
    assert report.verdict == "go", str(report)
    said = {finding.code: finding.found for finding in report.all}
    assert torch.cuda.get_device_name() in said["environment.device"]
    assert "free on cuda:0" in said["resources.memory"]
    assert "identical bits on cuda:0" in said["determinism.steps"]
    train(config)
    pairs = load_pairs(tiny / "validation")
    found = [
        evaluate(load_encoder(tmp_path / "run/final_model.pt", device=device), pairs)
        for device in ("cpu", "cuda")
    ]
    assert found[1].average_precision == pytest.approx(found[0].average_precision, abs=1e-3)


def test_memory_that_runs_out_on_a_gpu_is_said_and_given_back(tiny, tmp_path):
    config = tiny_config(tiny, tmp_path / "run", device="cuda", epochs=1)
    train(config)
    before = torch.cuda.memory_allocated()
    limit = (before + (64 << 20)) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit)
    try:
        with pytest.raises(MemoryError, match=r"CUDA out of memory.*Set a smaller"):
            train(tiny_config(tiny, tmp_path / "large", device="cuda", hidden_dim=4096))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_allocated() <= before + (1 << 20)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch does not see two GPUs")
def test_two_processes_on_two_gpus_give_the_bits_of_one(tiny, tmp_path):
    for processes in (1, 2):
        run = tmp_path / str(processes)
        train(tiny_config(tiny, run, device="cuda", shards=2, processes=processes))
    assert_same_run(tmp_path / "1", tmp_path / "2")
