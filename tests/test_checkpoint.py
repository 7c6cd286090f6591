from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import tiny_config
from runs import identical

from treelstm import checkpoint as store
from treelstm import find_latest_checkpoint, list_checkpoints, load_checkpoint, load_encoder, train
from treelstm.checkpoint import CheckpointError, DamagedCheckpoint, NoUsableCheckpoint, RunInUse
from treelstm.files import WriteFailed


@pytest.fixture(scope="session")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 2 epochs; read only."""
    output_dir = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_config(tiny, output_dir, epochs=2))
    return output_dir


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A checkpoint of our own to damage."""
    target = tmp_path / "checkpoint_epoch_2.pt"
    target.write_bytes((whole / target.name).read_bytes())
    return target


def test_checkpoints_are_listed_by_position_not_by_name_or_time(tmp_path):
    names = [
        "checkpoint_epoch_2.pt",
        "checkpoint_epoch_10.pt",
        "checkpoint_epoch_3_step_2.pt",
        "checkpoint_epoch_3_step_10.pt",
        "checkpoint_epoch_1_step_7.pt",
        "checkpoint_epoch_3.pt",
    ]
    strangers = ["checkpoint_epoch_0.pt", "checkpoint_epoch_4.pt.bak", "my_checkpoint_epoch_5.pt"]
    for name in (*names, *strangers, "checkpoint_epoch_x.pt"):
        (tmp_path / name).touch()
    assert [c.path.name for c in list_checkpoints(tmp_path)] == [
        "checkpoint_epoch_1_step_7.pt",
        "checkpoint_epoch_2.pt",
        "checkpoint_epoch_3_step_2.pt",
        "checkpoint_epoch_3_step_10.pt",
        "checkpoint_epoch_3.pt",
        "checkpoint_epoch_10.pt",
    ]


def test_no_checkpoint_at_all_is_none(tmp_path):
    assert find_latest_checkpoint(tmp_path) is None
    assert find_latest_checkpoint(tmp_path / "nowhere") is None


def test_the_latest_is_the_newest_that_verifies(whole, tmp_path):
    for name in ("checkpoint_epoch_1.pt", "checkpoint_epoch_2.pt"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    newest = tmp_path / "checkpoint_epoch_2.pt"
    assert find_latest_checkpoint(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:1000])
    assert find_latest_checkpoint(tmp_path) == tmp_path / "checkpoint_epoch_1.pt"
    (tmp_path / "checkpoint_epoch_1.pt").write_bytes(b"")
    with pytest.raises(NoUsableCheckpoint, match=r"2 checkpoint\(s\), none of them whole"):
        find_latest_checkpoint(tmp_path)


def test_plain_torch_reads_a_checkpoint_as_well(path):
    assert identical(torch.load(path, weights_only=True), load_checkpoint(path))
    assert zipfile.ZipFile(path).testzip() is None


def test_every_truncation_is_detected(path):
    data = path.read_bytes()
    for length in [
        *range(0, 200),
        *range(200, len(data) - 200, 997),
        *range(len(data) - 200, len(data)),
    ]:
        path.write_bytes(data[:length])
        with pytest.raises(DamagedCheckpoint, match=r"checkpoint_epoch_2\.pt is damaged"):
            load_checkpoint(path)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A flipped bit, a truncation, a zeroed block or trailing bytes."""
    changed, kind = bytearray(data), draw.randrange(4)
    at = draw.randrange(len(data))
    if kind == 0:
        changed[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        changed[at : at + 512] = bytes(len(changed[at : at + 512]))
    else:
        changed += bytes(draw.randrange(1, 600))
    return bytes(changed)


def test_of_1000_random_damages_none_is_loaded_with_different_content(path):
    data, content = path.read_bytes(), load_checkpoint(path)
    draw = random.Random(0)
    detected = 0
    for _ in range(1000):
        path.write_bytes(damaged(data, draw))
        try:
            assert identical(load_checkpoint(path), content)
        except DamagedCheckpoint:
            detected += 1
    assert detected > 900  # a zeroed block may have been zero before


def test_a_foreign_file_under_a_checkpoints_name_is_named(path):
    torch.save({"model": torch.zeros(3)}, path)
    with pytest.raises(DamagedCheckpoint, match="cut short, or treelstm did not write it"):
        load_checkpoint(path)


class Trap:
    def __reduce__(self):
        return os.system, ("touch sprung",)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    store.write_sealed(path, {"epoch": 2, "trap": Trap()})
    with pytest.raises(DamagedCheckpoint, match=r"torch refuses it \(it asks for posix\.system\)"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DamagedCheckpoint, match="treelstm did not write it"):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_a_model_file_is_no_checkpoint_of_a_run(whole):
    with pytest.raises(DamagedCheckpoint, match=r"final_model\.pt is no checkpoint of a run: it lacks"):
        load_checkpoint(whole / "final_model.pt")


def test_a_checkpoint_under_another_epochs_name_is_refused(path):
    other = path.rename(path.with_name("checkpoint_epoch_7.pt"))
    with pytest.raises(DamagedCheckpoint, match=r"belongs under the name checkpoint_epoch_2\.pt"):
        load_checkpoint(other)


def test_a_checkpoint_from_a_newer_format_says_to_update(path):
    store.write_sealed(path, load_checkpoint(path) | {"format": store.FORMAT + 1})
    with pytest.raises(CheckpointError, match=r"has format 3, .* reads up to 2\. Update treelstm"):
        load_checkpoint(path)


def test_weights_of_another_model_are_a_clear_error(path, tiny):
    content = load_checkpoint(path)
    content["model_state_dict"]["strange.weight"] = torch.zeros(2)
    store.write_sealed(path, content)
    message = r"holds the weights of another model \(Unexpected key.*strange\.weight.*Use the version"
    with pytest.raises(CheckpointError, match=message):
        load_encoder(path)
    with pytest.raises(CheckpointError, match=message):
        train(tiny_config(tiny, path.parent, epochs=3))


def test_an_encoder_is_the_same_from_its_checkpoint_and_from_the_final_model(whole):
    ast = {"tipo": "frazo", "verbo": {"radiko": "vid"}}
    final = load_encoder(whole / "final_model.pt")
    same = load_encoder(whole / "checkpoint_epoch_2.pt")
    assert torch.equal(final.encode([ast]), same.encode([ast]))
    assert final.threshold == same.threshold > 0
    assert (whole / "final_model.pt").stat().st_size < 0.5 * (
        whole / "checkpoint_epoch_2.pt"
    ).stat().st_size


def test_a_missing_encoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"best_model\.pt: no such file"):
        load_encoder(tmp_path / "best_model.pt")


# --- one writer --------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from treelstm.checkpoint import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path: Path):
    """A real process that holds tmp_path/run, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_holds_the_directory(tiny, tmp_path, other_process):
    pattern = rf"run is in use by process {other_process.pid} on \S+ since \d{{4}}-\d\d-\d\dT"
    with pytest.raises(RunInUse, match=pattern):
        train(tiny_config(tiny, tmp_path / "run"))


def test_the_lock_of_a_killed_process_does_not_block(tiny, tmp_path, other_process):
    other_process.kill()
    other_process.wait()
    assert store.holder(tmp_path / "run") is None
    assert train(tiny_config(tiny, tmp_path / "run", epochs=1)).finished


def test_a_leftover_temporary_file_is_cleared_at_the_next_start(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    leftover = tmp_path / "run" / ".checkpoint_epoch_1.pt.tmp"
    leftover.write_bytes(b"half")
    train(tiny_config(tiny, tmp_path / "run", epochs=1))
    assert not leftover.exists()


def test_an_output_directory_that_cannot_be_made_is_a_clear_error(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteFailed, match=r"file/run cannot be written to"):
        train(tiny_config(tiny, tmp_path / "file" / "run"))


def test_a_directory_removed_while_training_is_a_clear_error(tiny, tmp_path, monkeypatch):
    import shutil

    from treelstm import training

    commit = training.commit

    def removed(state):
        shutil.rmtree(tmp_path / "run")
        return commit(state)

    monkeypatch.setattr(training, "commit", removed)
    with pytest.raises(
        WriteFailed, match=r"No such file or directory: .*checkpoint_epoch_1\.pt needs [\d,]+ bytes"
    ):
        train(tiny_config(tiny, tmp_path / "run"))


def test_superseded_names_never_collide(tmp_path):
    for expected in ("a.pt", "a.2.pt", "a.3.pt"):
        (tmp_path / "a.pt").write_text(expected)
        (moved,) = store.set_aside([tmp_path / "a.pt"], store.SUPERSEDED)
        assert moved.name == expected and moved.read_text() == expected


def test_history_in_the_json_file_is_the_commits(whole):
    history = json.loads((whole / "training_history.json").read_text())
    assert history == load_checkpoint(whole / "checkpoint_epoch_2.pt")["history"]
