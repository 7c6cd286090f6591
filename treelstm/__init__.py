"""Tree-LSTM encoders trained on pairs of syntax trees; runs that survive being killed."""

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
