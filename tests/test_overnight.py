"""Real papermill and real kernels, killed with real signals. `make soak` does it for an hour."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
import pytest
from conftest import REPOSITORY, tiny_config
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell
from pages import Papermill, gone, parameters, send, write_page
from papermill.exceptions import PapermillExecutionError
from runs import assert_same_run
from services import webhook
from together import nights_at_once

from treelstm import Config, list_checkpoints, load_checkpoint, run_status, train

pytestmark = pytest.mark.filterwarnings("default")  # Jupyter's packages warn

ENGINE = ("--engine", "treelstm")
EPOCHS = 14


def run_config(tiny: Path, run: Path, **settings: Any) -> Config:
    """A run that commits after every step."""
    often = {"epochs": EPOCHS, "checkpoint_every_seconds": 0, "num_threads": 1, "patience": 40}
    return tiny_config(tiny, run, **(often | settings))


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(run_config(tiny, run))
    return run


def execute(page: Path, config: Config, output: Path | None = None, **options: object) -> NotebookNode:
    """Runs the engine in this process."""
    output = output or page.with_suffix(".out.ipynb")
    return papermill.execute_notebook(
        page, output, parameters(config), engine_name="treelstm", progress_bar=False, **options
    )


def text(nb: Any) -> str:
    return "\n".join(
        cell.source + "".join(output.get("text", "") for output in cell.get("outputs", ()))
        for cell in nb.cells
    )


def log(run: Path) -> str:
    return (run / "training.log").read_text()


IN_A_COMMIT = """
import os
fsync, sign = os.fsync, Path({sign!r})
def slow_fsync(descriptor):
    if len(treelstm.list_checkpoints(config.output_path)) >= {checkpoints}:
        sign.touch()
        time.sleep(0.5)
    fsync(descriptor)
os.fsync = slow_fsync
"""


def test_after_signals_and_a_killed_papermill_the_same_command_ends_bit_identical(
    tiny, undisturbed, tmp_path
):
    """SIGTERM; SIGINT twice, during a commit; SIGKILL of papermill; then no signal."""
    run = tmp_path / "run"
    config = run_config(tiny, run)
    page = write_page(tmp_path / "page.ipynb")
    with webhook() as hook:
        secret = {"TREELSTM_NOTIFY_URLS": hook.address}

        first = Papermill(page, config, *ENGINE, **secret)
        first.until_epoch(3)
        send(first.process, signal.SIGTERM)
        assert first.wait(20) == 128 + signal.SIGTERM, first.console.read_text()
        assert first.statuses() == ["completed"] * 5 + ["pending"]
        assert first.notebook().metadata.treelstm.outcome == "stopped by SIGTERM"
        assert "**Stopped by SIGTERM**. Cells after the stop were not executed" in text(first.notebook())
        assert "stopped by SIGTERM: epoch" in log(run)

        sign = tmp_path / "in a commit"
        hooked = write_page(tmp_path / "hooked.ipynb", IN_A_COMMIT.format(sign=str(sign), checkpoints=6))
        second = Papermill(hooked, config, *ENGINE, **secret)
        second.until(sign.exists)
        send(second.process, signal.SIGINT)
        send(second.process, signal.SIGINT)
        assert second.wait(20) == 128 + signal.SIGINT, second.console.read_text()
        assert second.notebook().metadata.treelstm.outcome == "stopped by SIGINT"
        newest = list_checkpoints(run)[-1]
        assert load_checkpoint(newest.path)["step"] == newest.steps_into_next
        assert not list(run.glob(".*.tmp"))

        third = Papermill(page, config, *ENGINE, **secret)
        third.until_epoch(9)
        kernel = third.kernel()
        send(third.process, signal.SIGKILL)
        killed = time.monotonic()
        third.wait()
        while "stopped by" not in log(run).splitlines()[-1]:
            assert time.monotonic() - killed < 1.5, "the kernel did not notice"
            time.sleep(0.02)
        while not gone(kernel):
            assert time.monotonic() - killed < 3, "the kernel did not end"
            time.sleep(0.02)
        assert not (run / "final_model.pt").exists()

        fourth = Papermill(page, config, *ENGINE, **secret)
        assert fourth.wait() == 0, fourth.console.read_text()
        assert fourth.notebook().metadata.treelstm.outcome == "finished"
        assert NotebookNotary().check_signature(fourth.notebook()), "Jupyter would drop its figures"
        assert set(fourth.statuses()) == {"completed"}
        assert_same_run(undisturbed, run)

        events = [message["title"].split(": ")[1] for message in hook.messages]
        assert events == ["stopped by SIGTERM", "stopped by SIGINT", "finished"]
        assert "14 epochs; best: epoch" in hook.messages[-1]["message"]
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or hook.secret.encode() not in path.read_bytes(), path


DIE_TWICE = """
class Die(treelstm.Listener):
    def on_step(self, run):  # before the commit that would follow
        sign = Path({sign!r} + str(run.epochs_done))
        last = run.step == run.steps_per_epoch
        if last and run.epochs_done in (4, 9) and not sign.exists():
            sign.touch()
            os.kill(os.getpid(), signal.SIGKILL if run.epochs_done == 4 else signal.SIGSEGV)
listeners.append(Die())
"""


def test_a_kernel_that_dies_is_started_again_and_goes_on_even_if_the_page_says_resume_none(
    tiny, undisturbed, tmp_path, monkeypatch
):
    config = run_config(tiny, tmp_path / "run", resume=None)
    page = write_page(tmp_path / "page.ipynb", DIE_TWICE.format(sign=str(tmp_path / "died")))
    with webhook() as hook:
        monkeypatch.setenv("TREELSTM_NOTIFY_URLS", hook.address)
        nb = execute(page, config)
        events = [message["title"].split(": ")[1] for message in hook.messages]
    assert_same_run(undisturbed, config.output_path)
    assert nb.metadata.treelstm.outcome == "finished" and len(nb.metadata.treelstm.deaths) == 2
    said = text(nb)
    assert said.count("**The kernel died and was started again.**") == 1
    assert "the kernel was killed by SIGKILL (out of memory?" in said and "SIGSEGV" in said
    assert "resume = None" in said  # the very same cells
    assert "restart 1 of at most 20" in log(config.output_path)
    assert sorted(events) == ["finished", "restarted", "restarted"] and events[-1] == "finished"
    assert not (config.output_path / "superseded").exists()
    lines = log(config.output_path).splitlines()
    again = next(i for i, line in enumerate(lines) if "restart 1 of" in line)
    assert "resuming" in "".join(lines[again : again + 4])


def test_a_page_whose_kernel_always_dies_before_it_commits_is_given_up_after_three(tiny, tmp_path):
    page = write_page(tmp_path / "page.ipynb", "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(PapermillExecutionError, match=r"KernelDied: .*third .* without a new commit"):
        execute(page, run_config(tiny, tmp_path / "run"))
    nb = papermill.iorw.load_notebook_node(str(page.with_suffix(".out.ipynb")))
    assert nb.metadata.treelstm.outcome == "failed" and len(nb.metadata.treelstm.deaths) == 2
    statuses = [cell.metadata.papermill.status for cell in nb.cells if cell.cell_type == "code"]
    assert statuses == ["completed"] * 3 + ["failed"] + ["pending"] * 3


limits_another_process = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="only on Linux can a process limit another one's files"
)
FULL_DISK = """
import resource
for process in {processes}:
    resource.prlimit(process, resource.RLIMIT_FSIZE, (4_000, resource.RLIM_INFINITY))
"""


@limits_another_process
def test_a_page_that_cannot_be_saved_any_more_stays_whole_and_harms_no_run(tiny, undisturbed, tmp_path):
    config = run_config(tiny, tmp_path / "run")
    page = write_page(tmp_path / "page.ipynb", FULL_DISK.format(processes="[os.getppid()]"))
    with webhook() as hook:
        process = Papermill(page, config, *ENGINE, TREELSTM_NOTIFY_URLS=hook.address)
        assert process.wait() == 1
    assert_same_run(undisturbed, config.output_path)
    assert process.statuses()[-1] == "pending"  # the last page that could be written
    said = process.console.read_text()
    assert "Traceback" not in said
    assert "finished: The executed page could not be saved: [Errno 27]" in said
    (message,) = hook.messages
    assert ": finished: " in message["title"]
    assert "The executed page could not be saved: [Errno 27] File too large" in message["message"]

    again = Papermill(write_page(tmp_path / "page.ipynb"), config, *ENGINE)
    assert again.wait() == 0, again.console.read_text()
    assert set(again.statuses()) == {"completed"}


@limits_another_process
def test_a_disk_that_is_full_for_run_and_page_is_notified(tiny, tmp_path):
    config = run_config(tiny, tmp_path / "run")
    full = FULL_DISK.format(processes="[os.getppid(), os.getpid()]")
    page = write_page(tmp_path / "page.ipynb", full)
    with webhook() as hook:
        process = Papermill(page, config, *ENGINE, TREELSTM_NOTIFY_URLS=hook.address)
        assert process.wait() == 1
    assert "Traceback" not in process.console.read_text()
    (message,) = hook.messages
    assert ": failed: " in message["title"]
    assert "WriteFailed: [Errno 27] File too large: " in message["message"]
    assert "Make room or correct the directory, then run the same command" in message["message"]
    process.notebook()  # can be read


def test_if_the_page_can_never_be_saved_nothing_is_started(tiny, tmp_path, monkeypatch):
    page = write_page(tmp_path / "page.ipynb")
    output = page / "in a file" / "page.ipynb"
    with webhook() as hook:
        monkeypatch.setenv("TREELSTM_NOTIFY_URLS", hook.address)
        with pytest.raises(SystemExit, match=r"failed: .* page could not be saved: .*Not a directory"):
            execute(page, run_config(tiny, tmp_path / "run"), output)
    (message,) = hook.messages
    assert "No epoch is complete." in message["message"] and not (tmp_path / "run").exists()


def kernel_that_starts(directory: Path, failures: int) -> None:
    """The kernel "python3" in `directory`, which fails to start that many times."""
    spec, tries = directory / "kernels" / "python3", directory / "tries"
    spec.mkdir(parents=True)
    script = f'echo >> {tries}; [ $(wc -l < {tries}) -gt {failures} ] && exec "$0" "$@"; exit 7'
    words = ["sh", "-c", script, sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": words, "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(about))


def test_a_start_that_fails_is_tried_again(tiny, tmp_path, monkeypatch):
    kernel_that_starts(tmp_path / "jupyter", failures=2)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    nb = execute(write_page(tmp_path / "page.ipynb"), run_config(tiny, tmp_path / "run", epochs=1))
    assert nb.metadata.treelstm.outcome == "finished" and len(nb.metadata.treelstm.deaths) == 2


def test_a_kernel_that_never_starts_says_why(tiny, tmp_path, monkeypatch):
    kernel_that_starts(tmp_path / "jupyter", failures=99)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    with pytest.raises(PapermillExecutionError, match=r"KernelDied: the kernel did not start .*died"):
        execute(write_page(tmp_path / "page.ipynb"), run_config(tiny, tmp_path / "run"))
    assert (tmp_path / "jupyter" / "tries").read_text() == "\n" * 3


def test_a_cause_that_looks_like_markup_is_text_on_the_page(tiny, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    hostile = "/nowhere/<img src=x onerror=alert(1)> $x$ **b**"
    about = {"argv": [hostile], "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(about))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    page = write_page(tmp_path / "page.ipynb")
    with pytest.raises(PapermillExecutionError, match="KernelDied"):
        execute(page, run_config(tiny, tmp_path / "run"))
    nb = nbformat.read(page.with_suffix(".out.ipynb"), as_version=4)
    told = [cell for cell in nb.cells if "treelstm-overnight" in cell.metadata.get("tags", ())]
    lines = [line for cell in told for line in cell.source.splitlines() if hostile in line]
    assert lines and all(line.startswith("    ") for line in lines)  # a block of code in Markdown


def with_parameters(page: Path, source: str, *cells: Any) -> Path:
    """The page with another parameters cell, and cells after it."""
    nb = nbformat.read(page, as_version=4)
    nb.cells[0].source = source
    nb.cells[1:1] = cells
    nbformat.write(nb, page)
    return page


DIE_ONCE = """
class Die(treelstm.Listener):
    def on_epoch(self, record):
        sign = Path({sign!r} + Path(config.output_dir).name)
        if record["epoch"] == 2 and not sign.exists():
            sign.touch()
            os.kill(os.getpid(), signal.SIGKILL)
listeners.append(Die())
"""


def test_parameters_may_be_annotated_and_computed(tiny, undisturbed, tmp_path, monkeypatch):
    """And the engine lists no directory: a listing that fails harms nothing."""
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    lines = ["# Parameters of this run", "import os"]
    config = run_config(tiny, tmp_path / "<b>$run$*")
    for name, value in parameters(config).items():
        lines.append(f"{name}: object = {value!r}")
    lines.append("patience, num_threads = divmod(81, 2)")
    lines.append('output_dir: str = os.path.join(os.environ["SCRATCH"], "<b>$run$*")')
    page = write_page(tmp_path / "page.ipynb", DIE_ONCE.format(sign=str(tmp_path / "died")))
    with_parameters(page, "\n".join(lines))
    scandir = os.scandir

    def failing(path: Any = ".") -> Any:
        if "$run$" in str(path):
            raise OSError(5, "Input/output error", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    output = str(page.with_suffix(".out.ipynb"))
    nb = papermill.execute_notebook(page, output, engine_name="treelstm", progress_bar=False)
    monkeypatch.undo()
    assert len(nb.metadata.treelstm.deaths) == 1
    assert_same_run(undisturbed, config.output_path)


@pytest.mark.long
def test_a_page_with_an_injected_cell_and_no_metadata_that_trains_two_runs(tiny, undisturbed, tmp_path):
    """A kernel dies in each run; neither starts again from scratch, though the page says resume=None."""
    config = run_config(tiny, tmp_path / "second", resume=None)
    page = write_page(tmp_path / "page.ipynb", DIE_ONCE.format(sign=str(tmp_path / "died")))
    source = "\n".join(["# Parameters", *(f"{k} = {v!r}" for k, v in parameters(config).items())])
    injected = new_code_cell(source, metadata={"tags": ["injected-parameters"]})
    with_parameters(page, "# Parameters of this run\nepochs = 50", injected)
    nb = nbformat.read(page, as_version=4)
    training = next(cell for cell in nb.cells if "treelstm.train(" in cell.source)
    first = str(tmp_path / "first")
    training.source = (
        f"for output_dir in ({first!r}, {str(tmp_path / 'second')!r}):\n"
        "    config = treelstm.Config(**config.to_dict() | {'output_dir': output_dir})\n"
        "    history = treelstm.train(config, listeners=listeners)"
    )
    nbformat.write(nb, page)
    done = papermill.execute_notebook(page, None, engine_name="treelstm", progress_bar=False)
    assert len(done.metadata.treelstm.deaths) == 2
    for run in (tmp_path / "first", tmp_path / "second"):
        assert_same_run(undisturbed, run)
        assert not (run / "superseded").exists()


def test_a_kernel_that_dies_before_anything_is_set_aside_starts_again_as_asked(tiny, tmp_path):
    run, sign = tmp_path / "run", tmp_path / "died"
    train(run_config(tiny, run, epochs=2))
    die = f"sign = Path({str(sign)!r})\nif not sign.exists(): sign.touch(); os.kill(os.getpid(), 9)"
    nb = execute(write_page(tmp_path / "page.ipynb", die), run_config(tiny, run, epochs=1, resume=None))
    assert len(nb.metadata.treelstm.deaths) == 1
    assert (run / "superseded" / "checkpoint_epoch_2.pt").exists()
    assert list_checkpoints(run)[-1].position == (1, 0)


DIE_AT_EVERY_COMMIT = """
class Die(treelstm.Listener):
    def on_commit(self, commit):
        os.kill(os.getpid(), signal.SIGKILL)
listeners.append(Die())
"""


def test_restarts_end_at_max_restarts(tiny, tmp_path):
    """Every attempt gets one step further, so only the limit ends them."""
    page = write_page(tmp_path / "page.ipynb", DIE_AT_EVERY_COMMIT)
    with pytest.raises(PapermillExecutionError, match=r"after 1 restarts \(max_restarts\)"):
        execute(page, run_config(tiny, tmp_path / "run", max_restarts=1))
    assert list_checkpoints(tmp_path / "run")[-1].position == (0, 2)
    assert "after 1 restarts (max_restarts): not started again" in log(tmp_path / "run")


def test_a_run_that_diverges_fails_and_is_not_started_again(tiny, tmp_path):
    page = write_page(tmp_path / "page.ipynb")
    with pytest.raises(PapermillExecutionError, match="TrainingDiverged: the loss is"):
        execute(page, run_config(tiny, tmp_path / "run", learning_rate=1e30))
    nb = papermill.iorw.load_notebook_node(str(page.with_suffix(".out.ipynb")))
    assert nb.metadata.treelstm == {"outcome": "failed", "deaths": []}


def test_a_hangup_in_a_cell_before_training_ends_at_once_and_leaves_nothing(tiny, tmp_path):
    sign = tmp_path / "waiting"
    page = write_page(tmp_path / "page.ipynb", f"Path({str(sign)!r}).touch(); time.sleep(100)")
    process = Papermill(page, run_config(tiny, tmp_path / "run"), *ENGINE)
    process.until(sign.exists)
    kernels = psutil.Process(process.process.pid).children()
    send(process.process, signal.SIGHUP)
    assert process.wait(15) == 128 + signal.SIGHUP, process.console.read_text()
    assert process.statuses() == ["completed"] * 3 + ["failed"] + ["pending"] * 3
    said = text(process.notebook())
    assert "**Stopped by SIGHUP**" in said and "\n    the kernel was killed by SIGTERM" in said
    assert not (tmp_path / "run").exists() and all(map(gone, kernels))


@pytest.mark.long
def test_a_run_whose_kernel_gets_the_signal_directly_counts_as_stopped(tiny, tmp_path):
    page = write_page(tmp_path / "page.ipynb")
    process = Papermill(page, run_config(tiny, tmp_path / "run", epochs=10_000), *ENGINE)
    process.until_epoch(2)
    send(process.kernel(), signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert process.notebook().metadata.treelstm.outcome == "stopped by SIGTERM"


LIMIT = ("--execution-timeout", "12")  # the imports must fit on a busy machine


def test_a_time_limit_for_cells_stops_the_night_after_a_commit(tiny, tmp_path):
    run = tmp_path / "run"
    config = run_config(tiny, run, epochs=10_000)
    process = Papermill(write_page(tmp_path / "page.ipynb"), config, *ENGINE, *LIMIT)
    assert process.wait(60) == 124, process.console.read_text()
    nb = process.notebook()
    assert nb.metadata.treelstm == {"outcome": "stopped by the execution timeout", "deaths": []}
    assert "**Stopped by the execution timeout**" in text(nb)
    assert process.statuses()[-2:] == ["completed", "pending"]
    newest = list_checkpoints(run)[-1]
    assert load_checkpoint(newest.path)["step"] == newest.steps_into_next
    assert "stopped by the execution timeout" in str(run_status(run))


@pytest.mark.long
def test_a_time_limit_for_cells_also_ends_a_cell_that_does_not_train(tiny, tmp_path):
    idle = write_page(tmp_path / "idle.ipynb", "time.sleep(100)")
    process = Papermill(idle, run_config(tiny, tmp_path / "run"), *ENGINE, *LIMIT)
    assert process.wait(60) == 124, process.console.read_text()
    assert process.statuses() == ["completed"] * 3 + ["failed"] + ["pending"] * 3


SLOWER = """
class Slower(treelstm.Listener):
    def on_step(self, run):
        time.sleep(0.45)
listeners.append(Slower())
"""


def test_max_hours_ends_the_whole_night_in_time_and_the_run_goes_on_bit_identical(
    tiny, undisturbed, tmp_path
):
    """Over a restart; the cells after training are executed."""
    run, hours = tmp_path / "run", 30 / 3600
    page = write_page(tmp_path / "page.ipynb", DIE_ONCE.format(sign=str(tmp_path / "died")), SLOWER)
    process = Papermill(page, run_config(tiny, run, max_hours=hours), *ENGINE)
    began = time.monotonic()
    assert process.wait(90) == 124, process.console.read_text()
    assert 25 < time.monotonic() - began < 50  # papermill's own start and end are not counted
    nb = process.notebook()
    assert nb.metadata.treelstm.outcome == "stopped by max_hours"
    assert len(nb.metadata.treelstm.deaths) == 1 and set(process.statuses()) == {"completed"}
    assert "**The run was stopped by max_hours.**" in text(nb)
    assert log(run).splitlines()[-1].split("  ")[1].startswith("stopped by max_hours: epoch")
    assert not (run / "final_model.pt").exists()
    assert train(run_config(tiny, run)).outcome == "finished"
    assert_same_run(undisturbed, run)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("SIGUSR1", marks=pytest.mark.long),
        "SIGUSR2",
        pytest.param("SIGXCPU", marks=pytest.mark.long),
    ],
)
def test_signals_of_schedulers_stop_papermill_too(tiny, tmp_path, name):
    number = signal.Signals[name]
    process = Papermill(
        write_page(tmp_path / "page.ipynb"), run_config(tiny, tmp_path / "run", epochs=10_000), *ENGINE
    )
    process.until_epoch(1)
    send(process.kernel() if name == "SIGUSR2" else process.process, number)
    assert process.wait(30) == 128 + number, process.console.read_text()
    assert process.notebook().metadata.treelstm.outcome == f"stopped by {name}"


def test_two_nights_at_once_with_the_same_relative_output_path_and_a_new_home(tiny, tmp_path):
    nights_at_once(tiny, tmp_path, 2)


TWO_THREADS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import papermill
def night(parameters):
    options = {"engine_name": "treelstm", "progress_bar": False}
    nb = papermill.execute_notebook(sys.argv[1], None, parameters, **options)
    return f"{nb.metadata.treelstm.outcome}, {len(nb.metadata.treelstm.deaths)} deaths"
with ThreadPoolExecutor() as pool:
    print([*pool.map(night, json.loads(sys.argv[2]))])
"""


@pytest.mark.long
def test_two_threads_of_one_process_without_output_paths(tiny, tmp_path):
    page = write_page(tmp_path / "page.ipynb", DIE_ONCE.format(sign=str(tmp_path / "died")))
    runs = [parameters(run_config(tiny, tmp_path / name, epochs=3)) for name in ("first", "second")]
    words = [sys.executable, "-c", TWO_THREADS, str(page), json.dumps(runs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == str(["finished, 1 deaths"] * 2), done.stderr
    assert_same_run(tmp_path / "first", tmp_path / "second")


def test_a_night_leaves_nothing_and_removes_what_killed_nights_left(tiny, tmp_path, monkeypatch):
    """Its time limit of 0 is none, as in papermill."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    for name in ("t/treelstm-night-1-old", "t/treelstm-night-1-used", "t/treelstm-night-1-foreign"):
        (tmp_path / name).mkdir(parents=True)
        if "foreign" not in name:
            (tmp_path / name / "told.jsonl").touch()
        os.utime(tmp_path / name, (0, 0))
    descriptor = os.open(tmp_path / "t/treelstm-night-1-used", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    config = run_config(tiny, tmp_path / "run", epochs=1)
    nb = execute(write_page(tmp_path / "page.ipynb"), config, execution_timeout=0)
    assert nb.metadata.treelstm.outcome == "finished"
    os.close(descriptor)
    left = {path.name for path in (tmp_path / "t").glob("treelstm*")}
    assert left == {"treelstm-night-1-used", "treelstm-night-1-foreign"}


@pytest.mark.long
def test_without_the_engine_kills_lose_nothing_either(tiny, undisturbed, tmp_path):
    """The same command three times: its kernel is killed, then papermill, then nothing."""
    config = run_config(tiny, tmp_path / "run")
    page = write_page(tmp_path / "page.ipynb")
    first = Papermill(page, config)
    first.until_epoch(4)
    send(first.kernel(), signal.SIGKILL)
    assert first.wait(30) == 138  # papermill's own status for this
    second = Papermill(page, config)
    second.until_epoch(9)
    kernel = second.kernel()
    send(second.process, signal.SIGKILL)
    second.wait()
    killed = time.monotonic()
    while not gone(kernel):
        assert time.monotonic() - killed < 5
        time.sleep(0.05)
    third = Papermill(page, config)
    assert third.wait() == 0, third.console.read_text()
    assert_same_run(undisturbed, config.output_path)


SESSION = """
from pathlib import Path
from children import end_with_this_process
from pages import Papermill
from treelstm import Config
end_with_this_process()
page = Papermill(Path({page!r}), Config(output_dir={run!r}), "--engine", "treelstm")
page.until(Path({sign!r}).exists)
print(page.process.pid, flush=True)
page.wait(600)
"""


def test_a_killed_test_process_leaves_neither_papermill_nor_a_kernel(tmp_path):
    sign = tmp_path / "waiting"
    page = write_page(tmp_path / "page.ipynb", f"Path({str(sign)!r}).touch(); time.sleep(600)")
    code = SESSION.format(page=str(page), run=str(tmp_path / "run"), sign=str(sign))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY / 'tests'}:{REPOSITORY}"},
    ) as session:
        engine = psutil.Process(int(session.stdout.readline()))
        (kernel,) = engine.children()
        session.kill()
    killed = time.monotonic()
    while not (gone(engine) and gone(kernel)):
        assert time.monotonic() - killed < 10, "a process is left"
        time.sleep(0.05)


def test_papermill_starts_without_torch():
    code = "import papermill.cli, sys; print('torch' in sys.modules, 'treelstm.engine' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
