"""What the benchmarks run on: the real corpus where it is beside the clone, else the sample."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
REAL = REPOSITORY.parent / "shared" / "data" / "krestomatio"
sys.path.insert(0, str(REPOSITORY / "tests"))


def directories(work: Path) -> tuple[Path, Path]:
    """Training and validation pairs."""
    if REAL.is_dir():
        print("corpus: krestomatio (real)")
        return REAL / "training", REAL / "validation"
    from treelstm import write_sample

    print("corpus: the sample, since ../shared/data/krestomatio is not beside this clone")
    write_sample(work / "training")
    write_sample(work / "validation", seed=1, unlike=work / "training")
    return work / "training", work / "validation"


def asts(directory: Path) -> list[dict[str, Any]]:
    """All ASTs of a directory of plain files, in the order in which pairs number their trees."""
    found = []
    for name in ("positive_pairs.jsonl", "negative_pairs.jsonl"):
        for line in (directory / name).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            found += [record["ast1"]["ast"], record["ast2"]["ast"]]
    return found


def workplace() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="treelstm-benchmark-")
