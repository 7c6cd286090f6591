from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import tiny_config
from runs import OnStep, StopAfter, assert_same_run, copy, files

from treelstm import Config, Listener, train
from treelstm.files import WriteFailed
from treelstm.run.lock import LockLost, RunInUse, WeakDisk, holder, only_writer

HOLD = """
import sys, time
from pathlib import Path
from treelstm.run.lock import only_writer
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
    assert holder(tmp_path / "run") is None
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


def test_a_directory_removed_while_training_is_a_clear_error(tiny, tmp_path):
    class Removes(Listener):
        def on_step(self, run):
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(
        WriteFailed, match=r"No such file or directory: .*checkpoint_epoch_1\.pt needs [\d,]+ bytes"
    ):
        train(tiny_config(tiny, tmp_path / "run"), listeners=[Removes()])


def test_only_this_packages_leftovers_in_this_directory_are_cleared(tiny, tmp_path):
    run = tmp_path / "run"
    (run / "tensorboard").mkdir(parents=True)
    (run / "another_run").mkdir()
    ours = [
        ".checkpoint_epoch_1_step_3.pt.tmp",
        ".best_model.pt.0123456789abcdef.tmp",
        "..holder.json.tmp",
        "tensorboard/.events.out.tfevents.treelstm.tmp",
    ]
    others = [".notes.tmp", "notes.tmp", "another_run/.checkpoint_epoch_1.pt.tmp", ".my.checkpoint.tmp"]
    for name in (*ours, *others):
        (run / name).write_bytes(b"half")
    train(tiny_config(tiny, run, epochs=1))
    assert [name for name in ours if (run / name).exists()] == []
    assert [name for name in others if not (run / name).exists()] == []


def linked(run: Path, snapshot: Path) -> Path:
    """What `cp -al` makes: a copy of directories, hard links to files."""
    return Path(shutil.copytree(run, snapshot, copy_function=os.link))


def test_a_hard_linked_snapshot_can_be_trained_beside_its_run(tiny, tmp_path, other_process):
    held = tmp_path / "run"
    assert holder(held).pid == other_process.pid
    snapshot = linked(held, tmp_path / "snapshot")
    assert holder(snapshot) is None and holder(held).pid == other_process.pid
    assert train(tiny_config(tiny, snapshot, epochs=4)).finished
    with pytest.raises(RunInUse, match=str(other_process.pid)):
        train(tiny_config(tiny, held, epochs=4))


def test_a_run_leaves_its_hard_linked_snapshot_as_it_is(tiny, run, tmp_path):
    snapshot = linked(run, tmp_path / "snapshot")
    before = {path: path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    assert train(tiny_config(tiny, run, epochs=4)).resumed_at == (3, 0)
    assert {path: path.read_bytes() for path in snapshot.rglob("*") if path.is_file()} == before
    with only_writer(run):
        assert holder(run) and not holder(snapshot)


def whole_tree(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


TRAIN = """
import json, sys
from treelstm import Config, train
for line in sys.stdin:
    train(Config.from_parameters(json.loads(line)))
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def train_elsewhere() -> Iterator[Callable[[Config], None]]:
    """Trains in another process, the same for all tests."""
    words = [sys.executable, "-c", TRAIN]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def train_there(config: Config) -> None:
            assert process.stdin is not None and process.stdout is not None
            print(json.dumps(config.to_dict()), file=process.stdin, flush=True)
            assert "done\n" in iter(process.stdout.readline, "")

        yield train_there


@pytest.mark.parametrize("how", ["unlinked", "replaced", "renamed and made anew"])
def test_a_run_whose_directory_another_took_over_stops_and_writes_nothing_there(
    tiny, tmp_path, train_elsewhere, how
):
    run, moved, others = tmp_path / "run", tmp_path / "moved", {}
    config = tiny_config(tiny, run, checkpoint_every_seconds=0, num_threads=1)

    def take_over(state) -> None:
        if state.steps_done != 7:
            return
        if how == "renamed and made anew":
            run.rename(moved)
        elif how == "unlinked":
            (run / ".lock").unlink()
        else:
            (run / ".lock").rename(run / "old lock")
            (run / ".lock").touch()
        train_elsewhere(tiny_config(tiny, run, epochs=2))
        others.update(whole_tree(run))

    with pytest.raises(LockLost, match=r"run was moved, made anew, or its \.lock removed"):
        train(config, listeners=[OnStep(take_over)])
    assert whole_tree(run) == others
    if how == "renamed and made anew":
        assert "LockLost" in (moved / "training.log").read_text()
        assert train(tiny_config(tiny, moved, num_threads=1)).resumed_at == (1, 1)


def test_a_lock_that_is_removed_stops_the_run_before_its_next_commit(tiny, tmp_path):
    def remove(state) -> None:
        if state.steps_done == 7:
            (tmp_path / "run" / ".lock").unlink()
            remove.before = files(tmp_path / "run")

    with pytest.raises(LockLost):
        train(tiny_config(tiny, tmp_path / "run"), listeners=[OnStep(remove)])
    assert files(tmp_path / "run") == remove.before
    assert train(tiny_config(tiny, tmp_path / "run")).finished


@pytest.mark.parametrize("source", ["checkpoint_epoch_2.pt", "best_model.pt"])
def test_a_fresh_start_from_its_own_directory_goes_on_after_a_kill_before_the_first_commit(
    tiny, run, tmp_path, capsys, source
):
    undisturbed = copy(run, tmp_path / "undisturbed")
    settings = {"resume": None, "num_threads": 1, "checkpoint_every_seconds": 1e9, "epochs": 2}
    config = tiny_config(tiny, run, **settings, start_from=str(run / source))
    train(tiny_config(tiny, undisturbed, **settings, start_from=str(undisturbed / source)))

    class Killed(Exception):
        pass

    def kill(state) -> None:
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            train(config, listeners=[OnStep(kill)])
    assert not (run / source).exists()
    assert train(config).finished
    assert f"starting from the weights in {run}/superseded/{source}" in capsys.readouterr().out
    assert_same_run(undisturbed, run)


def test_a_slow_disk_takes_a_tenth_of_the_time_and_is_named_once(tiny, tmp_path, monkeypatch, capsys):
    real = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(0.05)
        real(descriptor)

    class Slowly(Listener):
        commits = 0

        def on_step(self, run) -> None:
            time.sleep(0.02)

        def on_commit(self, commit) -> None:
            self.commits += commit["step"] > 0

    monkeypatch.setattr(os, "fsync", slow)
    run = tmp_path / "run"
    settings = {"batch_size": 2, "epochs": 2, "num_threads": 1}
    slowly = Slowly()
    train(tiny_config(tiny, run, **settings, checkpoint_every_seconds=0.05), listeners=[slowly])
    said = capsys.readouterr().out
    assert said.count("Commits take a tenth of the time at most") == 1
    assert slowly.commits <= 4  # of 72 steps, which take about 2 seconds
    monkeypatch.undo()
    every = tiny_config(tiny, tmp_path / "every", epochs=1, checkpoint_every_seconds=0, num_threads=1)
    train(every, listeners=[StopAfter(3)])
    assert (tmp_path / "every" / "checkpoint_epoch_1_step_3.pt").exists()
    assert (tmp_path / "every" / "checkpoint_epoch_1_step_2.pt").exists()


@pytest.fixture(params=["locks", "fsync of directories"])
def weak_disk(request, monkeypatch) -> str:
    """As on Lustre without flock, or as on CIFS; for this process."""
    real = os.fsync

    def no_locks(*args) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    if request.param == "locks":
        monkeypatch.setattr(fcntl, "flock", no_locks)
    else:
        monkeypatch.setattr(os, "fsync", files_only)
    return str(request.param)


def test_a_weak_disk_is_refused_or_accepted_by_a_setting_that_says_what_is_given_up(
    tiny, tmp_path, weak_disk, capsys
):
    with pytest.raises(WeakDisk, match=rf"without {weak_disk} \(.*set accept_weak_disk=True"):
        train(tiny_config(tiny, tmp_path / "run", epochs=1))
    assert not list((tmp_path / "run").glob("*.pt"))
    config = tiny_config(tiny, tmp_path / "run", epochs=1, accept_weak_disk=True)
    holders = []
    assert train(
        config, listeners=[OnStep(lambda run: holders.append(holder(tmp_path / "run")))]
    ).finished
    assert holders[0].is_this_process and holder(tmp_path / "run") is None
    assert f"accept_weak_disk: this disk has no {weak_disk}" in capsys.readouterr().out


def test_a_soft_lock_excludes_a_second_process_and_does_not_outlive_a_kill(tiny, tmp_path, monkeypatch):
    code = (
        "import fcntl, errno, sys, time\n"
        "def refuse(*args): raise OSError(errno.ENOLCK, 'No locks available')\n"
        "fcntl.flock = refuse\n"
    ) + HOLD.replace("Path(sys.argv[1])", "Path(sys.argv[1]), True")
    words = [sys.executable, "-c", code, str(tmp_path / "run")]

    def refuse(*args) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    config = tiny_config(tiny, tmp_path / "run", epochs=1, accept_weak_disk=True)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            with pytest.raises(RunInUse, match=rf"process {process.pid} on .*\.soft_lock, remove that"):
                train(config)
        finally:
            process.kill()
    assert train(config).finished
