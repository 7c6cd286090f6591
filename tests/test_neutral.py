"""What a user set in torch neither changes a run nor is changed by one."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_config
from runs import StopAfter
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from treelstm import Listener, load_encoder, load_pairs, preflight, train
from treelstm.neutral import TorchChanged

ASTS = [{"vorto": "a", "kernel": {"vorto": "b"}}, {"vorto": "b"}]


class Doubled(TorchFunctionMode):
    """Doubles what torch.addmm, index_select and rand return."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        named = getattr(function, "__name__", "") in ("addmm", "index_select", "rand", "linear")
        return result * 2 if named else result


class DoubledBelow(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        return result * 2 if "addmm" in str(function) else result


def attribute(holder: Any, name: str, value: Any) -> Callable[[], Any]:
    return lambda: setattr(holder, name, value)


# How a user sets it: a function, or a block around the call.
SET = {
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "bfloat16": lambda: torch.set_default_dtype(torch.bfloat16),
    "tensor type": lambda: torch.set_default_tensor_type(torch.DoubleTensor),
    "default device": lambda: torch.set_default_device("meta"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "fp32_precision": attribute(torch.backends, "fp32_precision", "tf32"),
    "mkldnn bf16": attribute(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "mkldnn all": attribute(torch.backends.mkldnn, "fp32_precision", "bf16"),
    "allow_tf32": attribute(torch.backends.cuda.matmul, "allow_tf32", True),
    "cudnn": attribute(torch.backends.cudnn, "benchmark", True),
    "mkldnn off": attribute(torch.backends.mkldnn, "enabled", False),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "warn only": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "denormals": lambda: torch.set_flush_denormal(True),
    "no gradients": lambda: torch.set_grad_enabled(False),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "seed": lambda: torch.manual_seed(7),
    "numpy seed": lambda: np.random.seed(7),
    "numpy errors": lambda: np.seterr(all="raise"),
}
AROUND = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "function mode": Doubled,
    "dispatch mode": DoubledBelow,
    "device block": lambda: torch.device("meta"),
}
FLAGS: list[Callable[[], Any]] = [
    torch.get_default_dtype,
    torch.get_default_device,
    torch.get_num_threads,
    torch.is_grad_enabled,
    torch.is_inference_mode_enabled,
    torch.is_anomaly_enabled,
    torch.are_deterministic_algorithms_enabled,
    torch.is_deterministic_algorithms_warn_only_enabled,
    lambda: torch.is_autocast_enabled("cpu"),
    lambda: torch.backends.mkldnn.enabled,
    lambda: torch.backends.cudnn.benchmark,
    lambda: torch.backends.fp32_precision,
    lambda: torch.backends.mkldnn.fp32_precision,
    lambda: torch.backends.mkldnn.matmul.fp32_precision,
    lambda: torch.backends.cuda.matmul.fp32_precision,
    torch.get_float32_matmul_precision,
    lambda: bool((torch.full((1,), 1e-40, dtype=torch.float32, device="cpu") * 0.5 == 0).all()),
    np.geterr,
    lambda: hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
    lambda: hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest(),  # type: ignore[index]
]


def flags() -> list[Any]:
    """The user's state, as far as torch answers: it refuses where old and new flags are mixed."""
    found = []
    with torch._C.DisableTorchFunction():  # the blocks around would change the answers
        for flag in FLAGS:
            try:
                found.append(flag())
            except (RuntimeError, NotImplementedError, TypeError) as error:
                found.append(type(error))
    return found


def in_a_fork(work: Callable[[], None]) -> None:
    """Runs `work` in a child, because it leaves torch's state changed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def bits(run: Any) -> tuple[Any, ...]:
    """The weights, the history and the encodings of a run."""
    encoder = load_encoder(run / "final_model.pt")
    vectors = encoder.encode(ASTS)
    with torch._C.DisableTorchFunction(), torch.inference_mode(False):
        weights = [value.detach().clone().numpy().tobytes() for value in encoder.state_dict().values()]
        return weights, vectors.numpy().tobytes(), (run / "training_history.json").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(tiny_config(tiny, run, num_threads=1))
    return bits(run)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*SET, *AROUND])
def test_no_state_of_the_user_changes_a_run_or_an_encoding_and_all_is_put_back(
    name, tiny, tmp_path, undisturbed
):
    config = tiny_config(tiny, tmp_path / "run", num_threads=1)

    def work() -> None:
        SET.get(name, lambda: None)()
        with AROUND.get(name, nullcontext)():
            before = flags()
            train(config, listeners=[StopAfter(7)])  # stopped
            assert flags() == before
            train(config)  # resumed and finished
            assert flags() == before
            with pytest.raises(ValueError, match="hidden_dim"):
                train(tiny_config(tiny, tmp_path / "run", hidden_dim=9))  # refused
            assert flags() == before
            if name in ("float64", "default device", "inference_mode", "dispatch mode"):
                assert preflight(tiny_config(tiny, tmp_path / "new", num_threads=1)).verdict == "go"
                assert flags() == before
            assert bits(tmp_path / "run") == undisturbed
            assert flags() == before

    in_a_fork(work)


@contextmanager
def rounded():
    def down(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.bfloat16()

    with torch.autograd.graph.saved_tensors_hooks(down, lambda tensor: tensor.float()):
        yield


def test_hooks_on_saved_tensors_are_refused_by_name(config):
    with rounded(), pytest.raises(TorchChanged, match=r"saved_tensors_hooks is active.* outside"):
        train(config)
    assert not config.output_path.exists()


def test_flushed_denormals_that_have_reached_torchs_threads_are_refused_by_name(tiny, tmp_path):
    def work() -> None:
        torch.set_num_threads(2)
        torch.set_flush_denormal(True)
        torch.zeros(1 << 20).add_(1)  # starts the threads, which inherit it
        with pytest.raises(TorchChanged, match=r"set_flush_denormal.* has reached torch's threads"):
            train(tiny_config(tiny, tmp_path / "run", num_threads=2))

    in_a_fork(work)


def test_a_flag_that_is_set_while_a_run_goes_on_ends_it_before_anything_is_committed(tiny, tmp_path):
    class Meddler(Listener):
        def on_step(self, run: Any) -> None:
            if run.steps_done == 6:
                torch.set_default_dtype(torch.float64)

    config = tiny_config(tiny, tmp_path / "run")
    with pytest.raises(TorchChanged, match=r"set_default_dtype was set to torch\.float64 while"):
        train(config, listeners=[Meddler()])
    assert torch.get_default_dtype() == torch.float32
    assert train(config).finished


def test_an_encoding_in_another_thread_leaves_a_run_its_flags(tiny, tmp_path, undisturbed):
    """The encoding begins before the run and ends in it, and would put the user's flags back."""
    torch.set_default_dtype(torch.float64)
    try:
        train(tiny_config(tiny, tmp_path / "other", epochs=1))
        encoder = load_encoder(tmp_path / "other" / "final_model.pt")
        pairs = load_pairs(tiny / "training", encoder.settings.ignored_keys)
        ended = threading.Event()

        def encode() -> None:
            while not ended.is_set():
                encoder.encode_trees(pairs.forest, pairs.first)

        thread = threading.Thread(target=encode)
        thread.start()
        train(tiny_config(tiny, tmp_path / "run", num_threads=1))
        ended.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
        assert bits(tmp_path / "run") == undisturbed
    finally:
        torch.set_default_dtype(torch.float32)
