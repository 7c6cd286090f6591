"""Sealed files whose content no run can have written: refused by name, before anything is used."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from runs import copy, identical, rewrite

from treelstm import (
    Listener,
    export_encoder,
    find_latest_checkpoint,
    import_encoder,
    load_checkpoint,
    load_encoder,
    train,
)
from treelstm.run.directory import list_checkpoints
from treelstm.sealed import DamagedCheckpoint, read_sealed, write_sealed

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cosine and warm-up": {"lr_schedule": "cosine", "warmup_steps": 7},
    "plateau and warm-up": {"lr_schedule": "plateau", "warmup_steps": 40, "learning_rate": 0.05},
    "bfloat16 and patience": {"precision": "bfloat16", "patience": 1},
}


@pytest.fixture(scope="module")
def scheduled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with every part that one can have."""
    run = tmp_path_factory.mktemp("scheduled") / "run"
    train(tiny_config(tiny, run, epochs=2, lr_schedule="plateau", warmup_steps=30, num_threads=1))
    return run / "checkpoint_epoch_2.pt"


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_commit_of_every_kind_of_run_is_accepted(tiny, tmp_path, kind):
    often = SETTINGS[kind] | {"checkpoint_every_seconds": 0, "epochs": 4, "num_threads": 1}
    positions: list[tuple[int, int]] = []

    class Loads(Listener):
        def on_commit(self, commit):
            newest = list_checkpoints(tmp_path / "run")[-1]
            assert identical(load_checkpoint(newest.path)["history"], commit["history"])
            assert load_encoder(newest.path).threshold == commit["threshold"]
            positions.append(newest.position)

    train(tiny_config(tiny, tmp_path / "run", **often), listeners=[Loads()])
    assert len(positions) >= 12 and positions[0] == (0, 1)
    source = tmp_path / "run" / "best_model.pt"
    config = tiny_config(tiny, tmp_path / "next", **often, start_from=str(source))
    train(config)
    assert load_checkpoint(find_latest_checkpoint(tmp_path / "next"))["epoch"] >= 2


def moment(name: str, value: Any, number: int = 1) -> Callable[[Any], None]:
    return lambda c: c["optimizer_state_dict"]["state"][number].__setitem__(name, value)


def group(name: str, value: Any) -> Callable[[Any], None]:
    return lambda c: c["optimizer_state_dict"]["param_groups"][0].__setitem__(name, value)


def inside(*keys: Any, to: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], None]:
    def applied(content: Any) -> None:
        content["model_state_dict"]["sum_weight"] = change(content["model_state_dict"]["sum_weight"])

    return applied


def itself() -> list[Any]:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    return cyclic


NAN, BIG = math.nan, 10**18
SENSELESS: dict[str, Callable[[Any], None]] = {
    "epoch: a text": inside("epoch", to="2"),
    "epoch: true": inside("epoch", to=True),
    "epoch: 10^18": inside("epoch", to=BIG),
    "epoch: negative": inside("epoch", to=-2),
    "step: negative": inside("step", to=-1),
    "step: a fraction": inside("step", to=1.5),
    "epoch: not as many as the history": inside("epoch", to=3),
    "history: a dict": inside("history", to={}),
    "history: too short": lambda c: c["history"].pop(),
    "history: another order": lambda c: c["history"].reverse(),
    "history: a record that is a number": inside("history", 0, to=3),
    "history: no validation loss": lambda c: c["history"][0].pop("validation_loss"),
    "history: NaN": inside("history", 1, "train_loss", to=NAN),
    "history: a tensor": inside("history", 1, "train_loss", to=torch.zeros(())),
    "history: a list for a number": inside("history", 1, "validation_acc", to=[1]),
    "history: a huge number": inside("history", 1, "validation_acc", to=10**400),
    "timings: none": inside("timings", to=None),
    "timings: of another epoch": inside("timings", 1, "epoch", to=9),
    "timings: without pace": lambda c: c["timings"][0].pop("pairs_per_second"),
    "best: none": inside("best", to=None),
    "best: of an epoch to come": inside("best", "epoch", to=7),
    "best: infinite": inside("best", "validation_loss", to=math.inf),
    "train_loss: a text": inside("train_loss", to="low"),
    "first_loss: a list": inside("first_loss", to=[1.0]),
    "epoch_sums: three": inside("epoch_sums", to=[1.0, 2.0, 3.0]),
    "epoch_sums: NaN": inside("epoch_sums", to=[NAN, 2.0]),
    "seconds: negative": inside("seconds", to=-1.0),
    "threshold: a text": inside("threshold", to="0.5"),
    "num_threads: 0": inside("num_threads", to=0),
    "num_threads: 10^18": inside("num_threads", to=BIG),
    "device: a number": inside("device", to=3),
    "versions: a list": inside("versions", to=[]),
    "fingerprint: numbers": inside("fingerprint", to={"training": 3}),
    "vocabulary: a text": inside("vocabulary", to="words"),
    "vocabulary: nothing": inside("vocabulary", to=[]),
    "vocabulary: numbers": lambda c: c["vocabulary"].__setitem__(0, 3),
    "vocabulary: twice the same": lambda c: c["vocabulary"].__setitem__(0, c["vocabulary"][1]),
    "config: a list": inside("config", to=[]),
    "config: a number as a name": inside("config", 3, to=3),
    "config: a path that is a number": inside("config", "data_dir", to=3),
    "config: hidden_dim 60,000": inside("config", "hidden_dim", to=60_000),
    "config: hidden_dim 10^30": inside("config", "hidden_dim", to=10**30),
    "config: an unknown schedule": inside("config", "lr_schedule", to="sometimes"),
    "config: no hidden_dim": lambda c: c["config"].pop("hidden_dim"),
    "weights: a list": inside("model_state_dict", to=[]),
    "weights: one too few": lambda c: c["model_state_dict"].pop("sum_weight"),
    "weights: one too many": inside("model_state_dict", "more", to=torch.zeros(1)),
    "weights: a text": weights(lambda w: "heavy"),  # type: ignore[arg-type, return-value]
    "weights: another shape": weights(lambda w: w[1:].clone()),
    "weights: float64": weights(lambda w: w.double()),
    "weights: complex": weights(lambda w: w.to(torch.complex64)),
    "weights: NaN": weights(lambda w: w * NAN),
    "weights: infinite": weights(lambda w: w / 0),
    "weights: sparse": weights(lambda w: w.to_sparse()),
    "weights: one number, expanded": weights(lambda w: torch.zeros(1, 1).expand(w.shape)),
    "weights: transposed": weights(lambda w: w.t().contiguous().t()),
    "weights: without numbers": weights(lambda w: w.to("meta")),
    "optimizer: none": inside("optimizer_state_dict", to=None),
    "optimizer: no groups": inside("optimizer_state_dict", "param_groups", to=[]),
    "optimizer: two groups": lambda c: c["optimizer_state_dict"]["param_groups"].append({}),
    "optimizer: other parameters": group("params", [0, 1, 2]),
    "optimizer: parameters that are tensors": group("params", [torch.zeros(2)] * 6),
    "optimizer: a rate that is a text": group("lr", "high"),
    "optimizer: an infinite rate": group("lr", math.inf),
    "optimizer: betas of 1": group("betas", (1.0, 1.0)),
    "optimizer: amsgrad": group("amsgrad", True),
    "optimizer: no state": inside("optimizer_state_dict", "state", to={}),
    "optimizer: a state that is a list": inside("optimizer_state_dict", "state", 0, to=[]),
    "optimizer: moments of another shape": moment("exp_avg", torch.zeros(2)),
    "optimizer: squares of another shape": moment("exp_avg_sq", torch.zeros(2, 2)),
    "optimizer: moments of another type": moment("exp_avg", torch.zeros(48, 8, dtype=torch.int64)),
    "optimizer: moments that are NaN": moment("exp_avg", torch.full((48, 8), NAN)),
    "optimizer: negative squares": moment("exp_avg_sq", torch.full((48, 8), -1.0)),
    "optimizer: steps that differ": moment("step", torch.tensor(3.0)),
    "optimizer: half a step": moment("step", torch.tensor(0.5)),
    "optimizer: a step for each number": moment("step", torch.ones(48, 8)),
    "scheduler: a list": inside("scheduler_state_dict", to=[]),
    "scheduler: a method replaced": inside("scheduler_state_dict", "step", to=3),
    "scheduler: an epoch that is a text": inside("scheduler_state_dict", "last_epoch", to="2"),
    "scheduler: no rate": lambda c: c["scheduler_state_dict"].pop("_last_lr"),
    "scheduler: two rates": inside("scheduler_state_dict", "_last_lr", to=[0.1, 0.2]),
    "scheduler: another factor": inside("scheduler_state_dict", "factor", to=-3.0),
    "scheduler: a best that is NaN": inside("scheduler_state_dict", "best", to=NAN),
    "warm-up: no steps": inside("warmup_state_dict", "total_iters", to=0),
    "warm-up: begins with 0": inside("warmup_state_dict", "start_factor", to=0.0),
    "threshold: 10^400": inside("threshold", to=10**400),
    "config: a rate of 10^400": inside("config", "learning_rate", to=10**400),
    "optimizer: betas that are tensors": group("betas", (torch.ones(2), torch.ones(2))),
    "scheduler: least rates that are tensors": inside(
        "scheduler_state_dict", "min_lrs", to=[torch.ones(2)]
    ),
    "epoch_sums: a set": inside("epoch_sums", to={1.0, 2.0}),
    "history: a tuple": lambda c: c.__setitem__("history", (*c["history"],)),
    "scheduler: a rate in a tuple": inside("scheduler_state_dict", "_last_lr", to=(0.1,)),
    "vocabulary: a set": lambda c: c.__setitem__("vocabulary", {*c["vocabulary"]}),
    "optimizer: betas that are a set": group("betas", {0.9, 0.999}),
    "fingerprint: half of a character": inside("fingerprint", "\ud800", to=3),
    "history: a number of 5,000 digits": inside("history", 1, "validation_acc", to=10**5000),
    "config: a number of 5,000 digits": inside("config", "seed", to=10**5000),
    "optimizer: a tensor": inside("optimizer_state_dict", to=torch.zeros(2)),
    "itself": inside("history", to=itself()),
}


@pytest.mark.parametrize("what", SENSELESS)
def test_a_sealed_file_with_senseless_content_is_refused_by_name(scheduled, tmp_path, what):
    path = tmp_path / scheduled.name
    path.write_bytes(scheduled.read_bytes())
    rewrite(path, SENSELESS[what])
    with pytest.raises(DamagedCheckpoint, match=rf"{path}.* (is|holds|belongs)"):
        load_checkpoint(path)


def test_keys_that_no_version_yet_writes_are_read_past(scheduled, tmp_path):
    path = tmp_path / scheduled.name
    path.write_bytes(scheduled.read_bytes())
    more = {"future": {"x": torch.ones(2)}, 7: 3, "\ud800": ()}
    write_sealed(path, load_checkpoint(path) | more)
    content = load_checkpoint(path)
    assert identical({key: content[key] for key in more}, more)
    content["history"][0]["future"] = 0.5
    content["optimizer_state_dict"]["param_groups"][0]["future"] = [1]
    content["scheduler_state_dict"]["future"] = None
    write_sealed(path, content)
    assert load_checkpoint(path)["history"][0]["future"] == 0.5


def test_auto_passes_over_a_senseless_commit_and_ends_as_if_it_had_never_been(tiny, tmp_path, scheduled):
    run = copy(scheduled.parent, tmp_path / "run")
    rewrite(run / scheduled.name, SENSELESS["optimizer: moments of another shape"])
    settings = {"epochs": 2, "lr_schedule": "plateau", "warmup_steps": 30, "num_threads": 1}
    history = train(tiny_config(tiny, run, **settings))
    assert history.resumed_at == (1, 0) and (run / "damaged" / scheduled.name).is_file()
    again, before = load_checkpoint(run / scheduled.name), load_checkpoint(scheduled)
    assert identical(again["model_state_dict"], before["model_state_dict"])


LOAD = """
import sys, treelstm
from treelstm.sealed import DamagedCheckpoint
treelstm.load_encoder, treelstm.load_checkpoint  # imports torch before memory is limited
for load in (treelstm.load_encoder, treelstm.load_checkpoint):
    try:
        load(sys.argv[1])
    except DamagedCheckpoint as error:
        print(error)
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024, "MB")
"""


def loaded_apart(path: Path) -> list[str]:
    words = [sys.executable, "-c", LOAD, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_small_file_never_takes_much_memory(scheduled, tmp_path):
    path = tmp_path / scheduled.name
    path.write_bytes(scheduled.read_bytes())
    content = read_sealed(path)
    size = 60_000
    content["config"]["hidden_dim"] = size
    big = {"sum_weight": (3 * size, size), "forget_weight": (size, size), "input_bias": (4 * size,)}
    for name, shape in big.items():
        content["model_state_dict"][name] = torch.zeros(1).expand(shape)
    write_sealed(path, content)
    *errors, peak = loaded_apart(path)
    assert len(errors) == 2 and int(peak.split()[0]) < 700
    bomb = tmp_path / "checkpoint_epoch_3.pt"
    content["model_state_dict"] = {"zeros": torch.zeros(150_000_000)}
    write_sealed(path, content)
    with (
        zipfile.ZipFile(path) as whole,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    ):
        for member in whole.infolist():
            packed.writestr(member.filename, whole.read(member))
    bomb.write_bytes(resealed(bomb.read_bytes()))
    *errors, peak = loaded_apart(bomb)
    assert len(errors) == 2 and "larger than the file" in errors[0] and int(peak.split()[0]) < 700


def resealed(data: bytes) -> bytes:
    body = data[:-2] + (80).to_bytes(2, "little")
    return body + b"treelstm sha256 " + hashlib.sha256(body).hexdigest().encode()


EXPORTS: dict[str, Any] = {
    "hidden_dim": 60_000,
    "output_dim": "6",
    "precision": 3,
    "ignored_keys": [3],
    "vocabulary": ["one", "one"],
    "threshold": "low",
}


@pytest.mark.parametrize("key", EXPORTS)
def test_an_export_with_senseless_settings_is_refused_by_name(scheduled, tmp_path, key):
    export_encoder(load_encoder(scheduled), tmp_path)
    path = tmp_path / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: EXPORTS[key]}))
    with pytest.raises(DamagedCheckpoint, match=str(tmp_path)):
        import_encoder(tmp_path)
