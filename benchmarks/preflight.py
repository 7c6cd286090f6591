"""What preflight takes, and how true its estimates are, on the real corpus at default sizes.

python benchmarks/preflight.py
"""

from __future__ import annotations

import json
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

# Seconds per epoch: between the ends of the first and the last. The peak is what the system recorded.
TRAIN = """
import json, resource, sys, time, treelstm
times = []
class Clock(treelstm.Listener):
    def on_epoch(self, record):
        times.append(time.perf_counter())
treelstm.train(treelstm.Config(**json.loads(sys.argv[1])), listeners=[Clock()])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([(times[-1] - times[0]) / (len(times) - 1), peak]))
"""


def main() -> None:
    with workplace() as name:
        data, validation = directories(Path(name))
        output = Path(name) / "run"
        settings = {
            "data_dir": str(data),
            "validation_dir": str(validation),
            "output_dir": str(output),
            "epochs": EPOCHS,
        }
        for state in ("without a cache", "with a cached corpus"):
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
