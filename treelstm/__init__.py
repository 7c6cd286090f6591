"""Tree-LSTM encoders trained on pairs of syntax trees; runs that survive being killed.

Names are imported at first use, because papermill imports this package to find its engine and must not
wait for torch. Nothing slow is imported here: `python -m treelstm` handles Ctrl-C only after this.
"""

import os as _os
import sys as _sys

TYPE_CHECKING = False  # as type checkers read it; importing typing takes longer than all of this
if TYPE_CHECKING:
    from treelstm.checks.groups import preflight
    from treelstm.checks.report import Report
    from treelstm.collection import Collection, load_collection
    from treelstm.config import Config
    from treelstm.data.load import load_corpus, load_pairs
    from treelstm.data.pairing import make_pairs
    from treelstm.data.readers.formats import read_trees
    from treelstm.data.sample import write_sample
    from treelstm.evaluation import Metrics, evaluate
    from treelstm.exports import export_encoder, import_encoder
    from treelstm.history import History
    from treelstm.listeners import train
    from treelstm.model.files import load_encoder
    from treelstm.run.directory import (
        find_best_model,
        find_latest_checkpoint,
        list_checkpoints,
        load_checkpoint,
    )
    from treelstm.run.listener import Listener
    from treelstm.run.status import run_status
    from treelstm.runs import list_runs
    from treelstm.sweeps.night import sweep
    from treelstm.tuning import try_batch_sizes, try_learning_rates

# Lets waiting OpenMP threads sleep after 0.1 ms instead of 10 ms. Beside busy processes, threads that
# spin keep the core that the awaited thread needs: a step can take 20 times as long. On an idle machine,
# sleeping costs 4%. Now, because OpenMP reads this when torch is loaded; the user's settings win.
torch_came_first = "torch" in _sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & {*_os.environ}
if "OMP_WAIT_POLICY" not in _os.environ:
    _os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__all__ = [
    "Collection", "Config", "History", "Listener", "Metrics", "Report", "evaluate", "export_encoder",
    "find_best_model", "find_latest_checkpoint", "import_encoder", "list_checkpoints", "list_runs",
    "load_checkpoint", "load_collection", "load_corpus", "load_encoder", "load_pairs", "make_pairs",
    "preflight", "read_trees", "run_status", "sweep", "train", "try_batch_sizes",
    "try_learning_rates", "write_sample",
]  # fmt: skip

_HOMES = {
    "checks.groups": "preflight", "checks.report": "Report", "config": "Config",
    "collection": "Collection load_collection",
    "data.load": "load_corpus load_pairs", "data.pairing": "make_pairs",
    "data.readers.formats": "read_trees", "data.sample": "write_sample",
    "evaluation": "Metrics evaluate", "exports": "export_encoder import_encoder",
    "history": "History", "listeners": "train", "model.files": "load_encoder",
    "run.directory": "find_best_model find_latest_checkpoint list_checkpoints load_checkpoint",
    "run.listener": "Listener", "run.status": "run_status", "runs": "list_runs",
    "sweeps.night": "sweep", "tuning": "try_batch_sizes try_learning_rates",
}  # fmt: skip


def __getattr__(name: str) -> object:
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names.split():
            value = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
