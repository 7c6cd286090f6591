"""An hour of training through the engine, with a kill of kernel, engine or both every 20 to 60 s.

    python benchmarks/soak.py [MINUTES]

The run that is killed and its undisturbed twin train at the same time, each on one thread; a few epochs
before tell how many the time holds. The killed run must end by itself, with the twin's bits, and leave
neither a process nor a file behind; the twin's memory, and that of the killed kernels, must stay flat.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median

from corpus import REPOSITORY, directories, workplace
from treelstm import Config, list_checkpoints, load_checkpoint

import psutil

PROBE_EPOCHS = 3
SHARE_LEFT_BY_KILLS = 0.85  # of the time, after start-ups and lost work; a little more than there is
KERNELS_TO_COMPARE = 20  # one in three holds 30 MB more than the others, as its heap happens to break
EXPECTED = re.compile(
    r"checkpoint_epoch_\d+\.pt|best_model\.pt|final_model\.pt|training_history\.json|training\.log(\.\d)?"
    r"|run\.json|tensorboard|\.lock|\.holder\.json"
)
MARK = f"TREELSTM_SOAK={uuid.uuid4()}"


def main(minutes: float) -> None:
    with workplace() as name:
        work = Path(name)
        (work / "tmp").mkdir()
        name, _, value = MARK.partition("=")
        os.environ |= {
            name: value,
            "TMPDIR": f"{work}/tmp",
            "JUPYTER_RUNTIME_DIR": f"{work}/jupyter",
        }
        data, validation = directories(work)
        settings = {
            "data_dir": str(data),
            "validation_dir": str(validation),
            "keep": 2,
            "num_threads": 1,  # what else runs on the machine disturbs one thread least
            "checkpoint_every_seconds": 2.0,
        }

        def config(name: str, epochs: int, **more: int) -> Config:
            run = {"output_dir": f"{work}/{name}", "epochs": epochs}
            return Config.from_parameters({**settings, **run, **more})

        probe = config("probe", PROBE_EPOCHS)
        undisturbed(probe)
        pace = load_checkpoint(list_checkpoints(probe.output_path)[-1].path)["timings"]
        seconds = min(timing["seconds"] for timing in pace)
        epochs = max(PROBE_EPOCHS + 1, round(60 * minutes * SHARE_LEFT_BY_KILLS / seconds))
        print(f"{epochs} epochs of {seconds:.1f} s for {minutes:g} minutes", flush=True)
        twin, killed = config("twin", epochs), config("killed", epochs, max_restarts=100_000)
        with ThreadPoolExecutor() as beside:
            memory = beside.submit(undisturbed, twin)
            peaks = disturbed(work, killed, minutes)
            sizes = memory.result()
        from runs import assert_same_run

        assert_same_run(twin.output_path, killed.output_path)
        print("bit-identical to the undisturbed run", flush=True)
        nothing_left(work, killed)
        flat("undisturbed training process", sizes)
        half = len(peaks) // 2
        first, second = max(peaks[:half]), max(peaks[half:])
        print(f"largest kernel: {first / 1e6:.0f} MB in the first half, {second / 1e6:.0f} MB after")
        if half < KERNELS_TO_COMPARE:
            print("too few kernels to compare the two")
        else:
            assert second < 1.02 * first, "memory grows from kernel to kernel"


def undisturbed(config: Config) -> list[int]:
    """Trains in a process of its own; its memory in bytes, every half second."""
    words = [sys.executable, "-m", "treelstm", "train", *config.flags()]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        samples = sampled(psutil.Process(process.pid), process)
    assert process.returncode == 0, process.returncode
    return samples


def sampled(process: psutil.Process, popen: subprocess.Popen[bytes]) -> list[int]:
    sizes = []
    while popen.poll() is None:
        try:
            sizes.append(held(process))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    popen.wait()
    return sizes


def held(process: psutil.Process) -> int:
    """Bytes of memory that are a process's own: pages of files come and go as the system likes."""
    memory = process.memory_info()
    return memory.rss - memory.shared


def flat(what: str, sizes: list[int]) -> None:
    """The last fifth's mean is less than 2% above that of the second fifth (the first warms up)."""
    fifth = len(sizes) // 5
    before, last = mean(sizes[fifth : 2 * fifth]), mean(sizes[-fifth:])
    growth = last / before - 1
    print(f"{what}: {last / 1e6:.0f} MB, {growth:+.2%} from the second to the last fifth of the time")
    assert growth < 0.02, "memory grows"


def disturbed(work: Path, config: Config, minutes: float) -> list[int]:
    """The same command again and again until it ends by itself with status 0; the kernels' peaks."""
    draw, kills, commands, peaks, returns = random.Random(5), Counter[str](), 0, [], []
    output = work / "page.ipynb"
    words = [sys.executable, "-m", "papermill", "--engine", "treelstm", "--no-progress-bar"]
    words += [str(REPOSITORY / "notebooks" / "02_train.ipynb"), str(output)]
    defaults = Config().to_dict()
    for name, value in config.to_dict().items():
        if value != defaults[name]:
            words += ["-p", name, str(value)]
    began = time.monotonic()
    status = None
    with (work / "console.txt").open("wb") as console:
        while status is None:
            commands += 1
            engine = subprocess.Popen(words, stdout=console, stderr=console)
            while engine.poll() is None:
                wait = draw.uniform(20, 60)
                peaks.append(largest(engine, wait))
                if engine.poll() is not None or time.monotonic() - began > 60 * minutes:
                    engine.wait()
                    break
                target = draw.choice(["kernel", "kernel", "engine", "both"])
                kernels = psutil.Process(engine.pid).children()
                if target != "engine":
                    for kernel in kernels:
                        kernel.kill()
                    threading.Thread(target=watch_return, args=(config, returns)).start()
                if target != "kernel":
                    engine.kill()
                    engine.wait()
                    _, alive = psutil.wait_procs(kernels, timeout=10)
                    assert not alive, "a kernel outlived its engine"
                kills[target] += 1
            status = None if engine.returncode == -9 else engine.returncode
    text = (work / "console.txt").read_text()
    assert status == 0, (status, text[-3000:])
    took = (time.monotonic() - began) / 60
    assert json.loads(output.read_bytes())["metadata"]["treelstm"]["outcome"] == "finished"
    restarts = (config.output_path / "training.log").read_text().count(": restart ")
    print(
        f"{sum(kills.values())} kills {dict(kills)}: {commands} commands, {restarts} restarts by the "
        f"engine; finished after {took:.1f} minutes"
    )
    print(
        f"from a kill of the kernel to the next commit: median {median(returns):.1f} s, "
        f"longest {max(returns):.1f} s"
    )
    assert took >= minutes, "ended too early to count: raise SHARE_LEFT_BY_KILLS"
    return [peak for peak in peaks if peak]


def largest(engine: subprocess.Popen[bytes], seconds: float) -> int:
    """The most memory that a kernel held while the engine was left alone for that long."""
    most, until = 0, time.monotonic() + seconds
    while time.monotonic() < until and engine.poll() is None:
        try:
            sizes = [held(child) for child in psutil.Process(engine.pid).children()]
            most = max([most, *sizes])
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.5)
    return most


def watch_return(config: Config, returns: list[float]) -> None:
    """Notes how long it takes until a checkpoint is written that was not there at the kill."""
    began, before = time.monotonic(), newest(config)
    while newest(config) <= before:
        if time.monotonic() - began > 100:
            return
        time.sleep(0.02)
    returns.append(time.monotonic() - began)


def newest(config: Config) -> float:
    times = [0.0]
    for checkpoint in list_checkpoints(config.output_path):
        try:
            times.append(checkpoint.path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times)


def nothing_left(work: Path, config: Config) -> None:
    time.sleep(2)
    name, _, value = MARK.partition("=")
    strays = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(name) == value:
                strays.append(process.cmdline())
        except psutil.Error:
            continue
    assert not strays, strays
    files = [path.name for path in config.output_path.iterdir() if not EXPECTED.fullmatch(path.name)]
    # torch makes an empty directory of its own for each user, whatever imports its optimizers.
    temporary = [
        str(path)
        for part in ("tmp", "jupyter")
        for path in (work / part).rglob("*")
        if not path.name.startswith("torchinductor_")
    ]
    events = [path.name for path in (config.output_path / "tensorboard").iterdir()]
    assert not files and not temporary and len(events) == 1, (files, temporary, events)
    print("no stray process, no stray file")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
