"""Tree-LSTM encoders trained on pairs of syntax trees; runs that survive being killed.

Names are imported at first use, because papermill imports this package to find its engine and must not
wait for torch.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from treelstm.process import wait_briefly as _wait_briefly

if _TYPE_CHECKING:
    from treelstm.checks.groups import preflight
    from treelstm.checks.report import Report
    from treelstm.config import Config
    from treelstm.data.load import load_corpus, load_pairs
    from treelstm.data.sample import write_sample
    from treelstm.evaluation import Metrics, evaluate
    from treelstm.history import History
    from treelstm.listeners import train
    from treelstm.model.files import export_encoder, import_encoder, load_encoder
    from treelstm.run.directory import (
        find_best_model,
        find_latest_checkpoint,
        list_checkpoints,
        load_checkpoint,
    )
    from treelstm.run.listener import Listener
    from treelstm.run.status import run_status

_wait_briefly()  # now, because OpenMP reads the environment when torch is loaded

__all__ = [
    "Config", "History", "Listener", "Metrics", "Report", "evaluate", "export_encoder",
    "find_best_model", "find_latest_checkpoint", "import_encoder", "list_checkpoints", "load_checkpoint",
    "load_corpus", "load_encoder", "load_pairs", "preflight", "run_status", "train", "write_sample",
]  # fmt: skip

_HOMES = {
    "checks.groups": "preflight", "checks.report": "Report", "config": "Config",
    "data.load": "load_corpus load_pairs", "data.sample": "write_sample",
    "evaluation": "Metrics evaluate", "history": "History", "listeners": "train",
    "model.files": "export_encoder import_encoder load_encoder",
    "run.directory": "find_best_model find_latest_checkpoint list_checkpoints load_checkpoint",
    "run.listener": "Listener", "run.status": "run_status",
}  # fmt: skip


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names.split():
            value = getattr(_import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
