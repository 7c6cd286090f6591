"""What preflight takes, and how true its estimates are, on the real corpus at default sizes.

python benchmarks/preflight.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from corpus import directories, workplace

EPOCHS = 4

CHECK = """
import json, sys, treelstm
report = treelstm.preflight(treelstm.Config(**json.loads(sys.argv[1])))
estimates = [report.seconds_per_epoch, report.peak_memory_bytes, report.disk_bytes]
print(json.dumps([report.verdict, *estimates]))
"""

# Seconds an epoch are taken between the first and the last epoch's commit; the peak is the kernel's.
TRAIN = """
import json, resource, sys, time, treelstm
from treelstm import training
commit, times = training.commit, []
def timed(run):
    content = commit(run)
    times.append(time.perf_counter())
    return content
training.commit = timed
treelstm.train(treelstm.Config(**json.loads(sys.argv[1])))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([(times[-1] - times[0]) / (len(times) - 1), peak]))
"""


def main() -> None:
    with workplace() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        data, validation = directories(Path(name))
        output = Path(name) / "run"
        settings = {
            "data_dir": str(data),
            "validation_dir": str(validation),
            "output_dir": str(output),
            "epochs": EPOCHS,
        }
        for state in ("cold", "with a cached forest"):
            began = time.perf_counter()
            verdict, seconds, memory, disk = run(CHECK, settings)
            print(f"preflight {state}: {time.perf_counter() - began:.1f} s in all, verdict: {verdict}")
        true_seconds, true_memory = run(TRAIN, settings)
        true_disk = sum(path.stat().st_size for path in output.glob("*.pt"))
        for what, said, true in (
            ("seconds an epoch", seconds, true_seconds),
            ("peak memory, MB", memory / 1e6, true_memory / 1e6),
            ("disk, MB", disk / 1e6, true_disk / 1e6),
        ):
            print(f"{what}: estimated {said:.2f}, true {true:.2f}: {said / true - 1:+.1%}")


def run(code: str, settings: dict[str, object]) -> list[float]:
    words = [sys.executable, "-c", code, json.dumps(settings)]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


if __name__ == "__main__":
    main()
