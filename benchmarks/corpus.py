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
    """Training and validation pairs. No cache lies beside them: the first to load them compiles them."""
    if REAL.is_dir():
        print("corpus: krestomatio (real), not compiled yet")
        return tuple(linked(REAL / part, work / part) for part in ("training", "validation"))
    from treelstm import write_sample

    print("corpus: the sample (no ../shared/data/krestomatio beside this clone), not compiled yet")
    write_sample(work / "training")
    write_sample(work / "validation", seed=1, unlike=work / "training")
    return work / "training", work / "validation"


def linked(data: Path, directory: Path) -> Path:
    """Makes `directory`, with links to the files of `data` but without its cache."""
    directory.mkdir()
    for path in data.glob("[!.]*"):
        (directory / path.name).symlink_to(path)
    return directory


def asts(directory: Path, pairs: Any) -> dict[int, dict[str, Any]]:
    """All ASTs of a directory of plain files, by the numbers that its pairs give their trees."""
    found = {}
    numbers = iter(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    for name in ("positive_pairs.jsonl", "negative_pairs.jsonl"):
        for line in (directory / name).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            found |= zip(next(numbers), (record["ast1"]["ast"], record["ast2"]["ast"]), strict=True)
    return found


def workplace() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="treelstm-benchmark-")
