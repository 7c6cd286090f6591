"""`python -m treelstm`: preflight, train, evaluate or write a sample, for tmux and schedulers.

Exit status: 0 done, 1 failed, 2 bad usage, 3 preflight says no-go, 128 + signal stopped by a signal
after a commit.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any

from treelstm.checkpoint import BEST, CheckpointError, RunInUse, load_encoder
from treelstm.config import Config, ConfigError
from treelstm.data import DataError, load_pairs
from treelstm.evaluation import bag_distances, calibrated_threshold, evaluate, pair_metrics
from treelstm.notify import notify
from treelstm.preflight import preflight
from treelstm.report import PreflightRefused, as_text
from treelstm.sample import write_sample
from treelstm.training import SettingsChanged, TrainingDiverged, train
from treelstm.trees import TreeError

# What a user can get wrong or a machine can do to them: one message, no traceback.
EXPECTED = (
    CheckpointError,
    ConfigError,
    DataError,
    OSError,
    RunInUse,
    SettingsChanged,
    TrainingDiverged,
    TreeError,
)


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "sample":
            return _sample(**options)
        config = Config.from_parameters({name: _value(name, text) for name, text in options.items()})
    except ConfigError as error:
        parser.error(str(error))
    except EXPECTED as error:
        return _failed(error)
    try:
        return {"preflight": _preflight, "train": _train, "evaluate": _evaluate}[command](config)
    except PreflightRefused as error:
        print(error, file=sys.stderr)
        return 3
    except EXPECTED as error:
        return _failed(error)


def _failed(error: BaseException) -> int:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 1


def _preflight(config: Config) -> int:
    report = preflight(config)
    print(as_text(report))
    return 3 if report.verdict == "no-go" else 0


def _train(config: Config) -> int:
    """Trains, after everything that can be checked in under a second."""
    try:
        preflight(config, quick=True).require_go()
    except PreflightRefused as error:
        notify("failed", config.output_path, str(error))
        raise
    outcome = train(config, config.resume).outcome
    _, _, stopped_by = outcome.partition("stopped by ")
    return 128 + signal.Signals[stopped_by] if stopped_by else 0


def _evaluate(config: Config) -> int:
    """Metrics on `validation_dir`, else on `data_dir`, beside the bag of symbols."""
    path = config.output_path / BEST if config.checkpoint == "best" else Path(config.checkpoint)
    encoder = load_encoder(path)
    directory = config.validation_path or config.data_path
    pairs = load_pairs(directory, encoder.ignored_keys)
    bag = bag_distances(pairs)
    rows = {
        "encoder": evaluate(encoder, pairs),
        "bag of symbols": pair_metrics(bag, pairs.label, calibrated_threshold(bag, pairs.label)),
    }
    print(f"{path} on {len(pairs):,} pairs of {directory}")
    print(f"{'':16}  ROC-AUC  average precision     F1  accuracy (majority {pairs.majority_rate:.3f})")
    for label, metrics in rows.items():
        print(
            f"{label:16}  {metrics.roc_auc:7.4f}  {metrics.average_precision:17.4f}  "
            f"{metrics.f1:5.3f}  {metrics.accuracy:8.3f}"
        )
    return 0


def _sample(data_dir: str, unlike: str | None, **numbers: int) -> int:
    write_sample(data_dir, unlike=unlike, **numbers)
    print(f"{numbers['positives'] + numbers['negatives']:,} pairs written to {data_dir}")
    return 0


# --- flags -------------------------------------------------------------------------------------

_PATHS = (
    "data_dir",
    "validation_dir",
    "output_dir",
    "start_from",
    "checkpoint",
    "compare_with",
    "resume",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m treelstm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help in (
        ("preflight", "find every problem before the night"),
        ("train", "train, or resume training"),
        ("evaluate", "metrics of a checkpoint on unseen pairs"),
    ):
        command = commands.add_parser(name, help=help, argument_default=argparse.SUPPRESS)
        for setting in dataclasses.fields(Config):
            flag = f"--{setting.name.replace('_', '-')}"
            shown = f"{setting.metadata['help']} (default: {setting.default})".replace("%", "%%")
            many: dict[str, Any] = {"nargs": "*"} if str(setting.type).startswith("tuple") else {}
            if setting.type == "bool":
                many = {"action": "store_true"}
            command.add_argument(flag, help=shown, **many)
    sample = commands.add_parser("sample", help="write a sample corpus")
    sample.add_argument("--data-dir", default=Config().data_dir, help="directory to write to")
    sample.add_argument("--positives", type=int, default=495, help="similar pairs")
    sample.add_argument(
        "--negatives", type=int, default=5000, help="dissimilar pairs, half of them hard"
    )
    sample.add_argument("--seed", type=int, default=0, help="another seed, another corpus")
    sample.add_argument("--unlike", help="directory of a sample whose sentences to avoid")
    return parser


def _value(name: str, text: Any) -> Any:
    """A flag's text as the value meant: None, a number, a path from the shell's own directory."""
    if not isinstance(text, str):
        return text
    if text == "None":
        return None
    if name in _PATHS:
        return text if text in ("auto", "best") else str(Path(text).resolve())
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    sys.exit(main())
