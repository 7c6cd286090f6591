"""Tree-LSTM encoders trained on pairs of syntax trees; runs that survive being killed.

A name is imported when it is first asked for. papermill imports this package at every start, to find
the engine in it, and must not wait for torch.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treelstm.checkpoint import (
        find_latest_checkpoint,
        list_checkpoints,
        load_checkpoint,
        load_encoder,
    )
    from treelstm.config import Config
    from treelstm.data import load_corpus, load_pairs
    from treelstm.evaluation import Metrics, evaluate
    from treelstm.export import export_encoder, import_encoder
    from treelstm.preflight import preflight
    from treelstm.report import Report
    from treelstm.sample import write_sample
    from treelstm.training import History, train

# Read when torch is loaded. OpenMP's threads wait for each other by spinning, by default for 10 ms;
# where another process is busy, they spin on the core that the awaited thread needs, and a step can
# take 20 times as long. 0.1 ms costs 4% on a machine of one's own, and beside others nothing.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__all__ = [
    "Config",
    "History",
    "Metrics",
    "Report",
    "evaluate",
    "export_encoder",
    "find_latest_checkpoint",
    "import_encoder",
    "list_checkpoints",
    "load_checkpoint",
    "load_corpus",
    "load_encoder",
    "load_pairs",
    "preflight",
    "train",
    "write_sample",
]

_HOMES = {
    "checkpoint": "find_latest_checkpoint list_checkpoints load_checkpoint load_encoder",
    "config": "Config",
    "data": "load_corpus load_pairs",
    "evaluation": "Metrics evaluate",
    "export": "export_encoder import_encoder",
    "preflight": "preflight",
    "report": "Report",
    "sample": "write_sample",
    "training": "History train",
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names.split():
            value = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        """`treelstm.preflight` is the function, also after its module has been imported."""
        if name == "preflight" and isinstance(value, ModuleType):
            value = value.preflight
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
