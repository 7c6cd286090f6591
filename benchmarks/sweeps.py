"""Sweeps of 12 trials, killed 40 times at random: kernel, engine, the sweep's process, or all at once.

    python benchmarks/sweeps.py [KILLS] [TRIALS]

A grid, and a search with pruning, each with one trial at a time and with two. Every sweep must end by
itself with the command that began it; its trials are those of an undisturbed sweep and, to the last bit,
the runs that their settings give alone; its journal is readable, no trial is repeated, no process stays.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from treelstm import Config, write_sample
from treelstm.sweeps.trials import read_trials

from conftest import tiny_config
from runs import files
from sweeping import assert_as_alone, assert_journal_tells, killed_until_it_ends, nothing_left, start


def main(kills: int, trials: int) -> None:
    grid = {"hidden_dim": [8, 12], "learning_rate": [0.001, 0.003, 0.01][: max(1, trials // 4)]}
    search = {"learning_rate": "1e-4:1e-1:log", "hidden_dim": "4:16", "dropout": [0.0, 0.1, 0.3]}
    kinds: dict[str, dict[str, Any]] = {
        "grid": {"grid": grid, "seeds": 2},
        "search with pruning": {"search": search, "trials": trials, "prune": "median"},
        "grid with pruning, two at once": {
            "grid": grid,
            "seeds": 2,
            "prune": "hyperband",
            "parallel": 2,
        },
        "search, two at once": {"search": search, "trials": trials, "parallel": 2},
    }
    for name, words in kinds.items():
        with tempfile.TemporaryDirectory() as place:
            one_sweep(Path(place), name, kills, trials, words)


def one_sweep(work: Path, name: str, kills: int, trials: int, words: dict[str, Any]) -> None:
    began = time.monotonic()
    write_sample(work / "training", positives=24, negatives=48)
    write_sample(work / "validation", 24, 48, seed=1, unlike=work / "training")
    config = tiny_config(work, work, epochs=8, checkpoint_every_seconds=0, num_threads=1)
    config = Config(**{**config.to_dict(), "output_dir": Config.output_dir})
    sweep_dir, twin = work / "sweep", work / "twin"
    words = {**words, "sweep_dir": str(sweep_dir)}
    done = killed_until_it_ends(work, config, kills, trials, **words)
    nothing_left()
    ends = assert_as_alone(sweep_dir, work)
    assert_journal_tells(sweep_dir)
    if words.get("parallel", 1) == 1:  # else proposals and judgements depend on who ends first
        assert start(work, config, **{**words, "sweep_dir": str(twin)}).wait() == 0
        told = [[(t.name, t.outcome, t.why) for t in read_trials(d).values()] for d in (sweep_dir, twin)]
        assert told[0] == told[1], told
    before = {path.name: files(path) for path in sweep_dir.glob("*/")}
    assert start(work, config, **words).wait() == 0
    assert before == {path.name: files(path) for path in sweep_dir.glob("*/")}, "a trial was repeated"
    print(
        f"{name}: {sum(done.values())} kills {dict(done)}; {sum(ends.values())} trials {dict(ends)}, "
        f"all bit-identical to single runs; no orphan, nothing twice ({time.monotonic() - began:.0f} s)",
        flush=True,
    )


if __name__ == "__main__":
    kills, trials = (*map(int, sys.argv[1:]), *(40, 12)[len(sys.argv) - 1 :])
    main(kills, trials)
