"""Nights at once: engines that start at the same moment, with the same relative paths and a new home.

    python benchmarks/nights.py [NIGHTS]

Each kernel is killed once; every run must end as the others, to the last bit.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from treelstm import write_sample

from together import nights_at_once


def main(nights: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        data, began = Path(name), time.monotonic()
        write_sample(data / "training", positives=24, negatives=48)
        write_sample(data / "validation", 24, 48, seed=1, unlike=data / "training")
        (data / "work").mkdir()
        nights_at_once(data, data / "work", nights)
    seconds = time.monotonic() - began
    print(
        f"{nights} nights at once, one kill each: all ended bit-identical ({seconds:.0f} s)", flush=True
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
