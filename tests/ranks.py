"""Trains run after run in one group of processes: `python -m torch.distributed.run ... ranks.py SPEC`.

Starting processes takes longer than the runs of the tests, so one start serves many. A spec is a list of
entries {"config": settings}, each with one of:
  {"stop_after": n}   process 1 gets SIGTERM after that many steps
  {"die_after": n}    process 1 gets SIGKILL after that many steps, once: torchrun starts all again
  {"share": numbers}  an array of so many numbers is made once a machine
  {"differ": true}    the processes hold different values
  {"fails": n}        process n raises an error; the last entry
What each process finds is written beside the spec, in one line of JSON an entry.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from treelstm import Config, Listener, train
from treelstm.errors import UserError
from treelstm.run.distributed import Group, joined


class Signals(Listener):
    """Sends another process a signal after so many steps, if the mark is not there, and leaves it."""

    def __init__(self, steps: int, pid: int, number: signal.Signals, mark: Path) -> None:
        self.steps, self.pid, self.number, self.mark, self.done = steps, pid, number, mark, 0

    def on_step(self, run: Any) -> None:
        self.done += 1
        if self.done == self.steps and not self.mark.exists():
            self.mark.touch()
            os.kill(self.pid, self.number)


def carry_out(entry: dict[str, Any], group: Group, work: Path, number: int) -> Any:
    if numbers := entry.get("share"):
        import numpy as np

        found = group.once_a_machine(lambda: np.arange(numbers)[::-1], numbers)
        return [type(found).__name__, str(found.dtype), found[:3].tolist(), int(found.sum())]
    if entry.get("differ"):
        group.require_same("the same", "words")
        group.require_same(group.rank, "ranks")
    if entry.get("fails") == group.rank:
        raise UserError("this file is damaged.")
    config = Config.from_parameters(entry["config"])
    pids = group.agree(*(os.getpid() if group.rank == k else 0 for k in range(group.size)))
    listeners = []
    for what, sent in (("stop_after", signal.SIGTERM), ("die_after", signal.SIGKILL)):
        if what in entry:
            listeners.append(Signals(entry[what], int(pids[1]), sent, work / f"mark{number}"))
    return train(config, listeners=listeners).outcome


if __name__ == "__main__":
    spec = Path(sys.argv[1])
    with (
        spec.with_name(f"found{os.environ['RANK']}.jsonl").open("w") as out,
        joined() as group,
    ):
        for number, entry in enumerate(json.loads(spec.read_text())):
            try:
                found = carry_out(entry, group, spec.parent, number)
            except UserError as error:
                found = f"{type(error).__name__}: {error}"
                if "fails" in entry or "it was killed" in found:
                    raise
            finally:
                out.write(json.dumps(found) + "\n")
