"""`python -m treelstm`: preflight, train, evaluate, show a run's status, read trees, make pairs
or write a sample.

Exit status: 0 done, 1 failed, 2 bad usage, 3 preflight says no-go; stopped after a commit: 128 + signal,
or 124 by max_hours.
"""

import argparse
import dataclasses
import io
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tqdm import tqdm

from treelstm.checks.groups import preflight
from treelstm.checks.report import PreflightRefused, as_text
from treelstm.config import NOT_OF_TRAINING, Config, ConfigError, EncoderSettings, did_you_mean
from treelstm.data.load import Needed, load_corpus, load_pairs
from treelstm.data.pairing import make_pairs
from treelstm.data.pairs import Pairs
from treelstm.data.readers.drawing import drawing
from treelstm.data.readers.formats import FORMATS, iterate_trees, write_trees
from treelstm.data.readers.source import Source, Tree
from treelstm.data.sample import write_sample
from treelstm.errors import UserError
from treelstm.evaluation import (
    PairScorer,
    can_retrieve,
    encoder_scorer,
    graded_quality,
    retrieval,
    tfidf_scorer,
)
from treelstm.history import IN_HISTORY
from treelstm.listeners import train
from treelstm.model.files import load_encoder, read_model
from treelstm.model.objectives import Graded
from treelstm.notify import notify
from treelstm.plain import shown
from treelstm.run.directory import find_best_model
from treelstm.run.status import NoCommitYet, run_status
from treelstm.signals import stop_signals

EXPECTED = (UserError, OSError)  # shown as one message, without a traceback

_OF_EVALUATION = {"output_dir", "checkpoint", "data_dir", "validation_dir", "device"}


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what it cannot show is written as its number
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    parsed, unknown = parser.parse_known_args(arguments)
    options = vars(parsed)
    command, run, flags = (options.pop(name) for name in ("command", "run", "flags"))
    if unknown:
        guess = did_you_mean(unknown[0].partition("=")[0], flags)
        kind = "flag" if unknown[0].startswith("-") else "argument"
        parser.error(f"{unknown[0]}: {command} has no such {kind}. {guess}")
    if command in ("preflight", "train", "evaluate"):
        try:
            options = {name: _value(name, text) for name, text in options.items()}
            options = {"config": Config.from_parameters(options)}
        except ConfigError as error:
            parser.error(str(error))
    try:
        return int(run(**options))
    except PreflightRefused as error:
        print(error, file=sys.stderr)
        return 3
    except EXPECTED as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _preflight(config: Config) -> int:
    report = preflight(config)
    print(as_text(report))
    return 3 if report.verdict == "no-go" else 0


def _train(config: Config) -> int:
    """Trains, after the checks that take under a second."""
    try:
        preflight(config, quick=True).require_go()
    except PreflightRefused as error:
        notify("failed", config.output_path, str(error))
        raise
    return train(config).outcome.exit_status


def _evaluate(config: Config) -> int:
    """The numbers that fit the pairs, beside those of the bag of symbols: on a directory that is named,
    else on the pairs that the checkpoint's run held out.
    """
    best = config.checkpoint == "best"
    path = find_best_model(config.output_path) if best else Path(config.checkpoint)
    encoder, run = load_encoder(path, config.device), Config.from_parameters(read_model(path)["config"])
    named = config.validation_path or (None if config.data_dir == Config.data_dir else config.data_path)
    if named:
        of = encoder.settings
        pairs, whose = load_pairs(named, of.ignored_keys, None, of.child_order), f"of {named}"
        if not pairs.has_classes:
            Needed.by(run).check(pairs)
    else:
        pairs, whose = load_corpus(run).validation, "that its run held out"
    rows = {"encoder": _numbers(encoder_scorer(encoder, pairs), pairs, run, run.margin)}
    rows["bag of symbols"] = _numbers(tfidf_scorer(pairs), pairs, run, 0.5)
    print(f"{path} on {len(pairs):,} pairs {whose}")
    print(f"{'':16}", *rows["encoder"], sep="  ")
    for label, numbers in rows.items():
        print(f"{label:16}", *(f"{n:{max(6, len(k))}.4f}" for k, n in numbers.items()), sep="  ")
    return 0


def _numbers(scorer: PairScorer, pairs: Pairs, run: Config, margin: float) -> dict[str, float]:
    """What these pairs and the run's objective allow to be measured, by the heading of its column.

    `margin` is half of the distance that stands for the lowest similarity.
    """
    found, classes = dict[str, float](), pairs.has_classes
    if classes:
        metrics = scorer.metrics(pairs.label)
        found = {"ROC-AUC": metrics.roc_auc, "average precision": metrics.average_precision}
        majority = f"accuracy (majority {metrics.majority_rate:.3f})"
        found |= {"F1    ": metrics.f1, majority: metrics.accuracy}
    if run.objective == "graded" and not np.isnan(pairs.similarity).any():
        graded = Graded(margin, run.similarity_low, run.similarity_high)
        predicted = graded.similarity(scorer.distance)
        quality = graded_quality(scorer.distance, predicted, pairs.similarity)
        headings = {metric.key: metric.label for metric in IN_HISTORY}
        found |= {headings[key]: number for key, number in quality.items()}
    if run.objective == "ranking" and can_retrieve(pairs):
        ranks = retrieval(scorer, pairs, at=(1,))
        found |= {"precision at 1": ranks.precision[1]}
        found |= {"mean reciprocal rank": ranks.mean_reciprocal_rank}
    return found


def _status(directory: Path | str) -> int:
    try:
        print(run_status(directory))
    except NoCommitYet as error:
        print(error)
    return 0


def _sample(data_dir: str, unlike: str | None, **numbers: int) -> int:
    write_sample(data_dir, unlike=unlike, **numbers)
    print(f"{numbers['positives'] + numbers['negatives']:,} pairs written to {data_dir}")
    return 0


def _trees(
    inputs: list[str],
    to: str | None,
    format: str | None,
    show: int,
    labels: bool,
    each: str,
    ignored_keys: list[str],
) -> int:
    """Reads trees, draws the first ones, and writes them all. A signal leaves no part of a file."""
    left_out = Counter[str]()

    def drawn() -> Iterator[Tree]:
        trees = iterate_trees(map(Path, inputs), format, labels, each, left_out)
        for number, tree in enumerate(tqdm(trees, unit=" trees", disable=None, leave=False)):
            if number < show:
                tqdm.write(
                    f"{tree.id}: {shown(tree.sentence or '')}\n{drawing(tree.ast, ignored_keys)}\n"
                )
            yield tree

    with stop_signals(_leave):
        count = sum(1 for _ in drawn()) if to is None else write_trees(Path(to), drawn())
    print(f"{count:,} tree{'s' * (count != 1)}" + (f" written to {to}" if to else ""))
    for what, times in sorted(left_out.items()):
        if times:
            print(f"left out: {what} ({times:,})")
    return 0


def _pairs(inputs: list[str], to: str, **options: Any) -> int:
    for directory, about in make_pairs(inputs, to, **options).items():
        print(
            f"{directory}:", *(f"  {what.replace('_', ' ')}: {n}" for what, n in about.items()), sep="\n"
        )
    return 0


def _leave(number: int, frame: object) -> NoReturn:
    print("interrupted, nothing was written", file=sys.stderr)
    sys.exit(128 + number)


_PATHS = "data_dir validation_dir output_dir start_from checkpoint compare_with resume".split()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m treelstm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    every = {setting.name for setting in dataclasses.fields(Config)}
    for name, run, settings, help in (
        ("preflight", _preflight, every - NOT_OF_TRAINING, "find every problem before training"),
        ("train", _train, every - NOT_OF_TRAINING, "train, or resume training"),
        ("evaluate", _evaluate, _OF_EVALUATION, "metrics of a checkpoint on unseen pairs"),
    ):
        options: dict[str, Any] = {"argument_default": argparse.SUPPRESS, "allow_abbrev": False}
        command = commands.add_parser(name, help=help, **options)
        fields = (field for field in dataclasses.fields(Config) if field.name in settings)
        command.set_defaults(run=run, flags=[_add_flag(command, field) for field in fields])
    status = commands.add_parser("status", help="how a run stands, from its files", allow_abbrev=False)
    status.add_argument("directory", nargs="?", default=Config().output_path, help="its output_dir")
    status.set_defaults(run=_status, flags=[])
    sample = commands.add_parser("sample", help="write a sample corpus", allow_abbrev=False)
    sample.add_argument("--data-dir", default=Config().data_dir, help="directory to write to")
    sample.add_argument("--positives", type=int, default=495, help="similar pairs")
    sample.add_argument(
        "--negatives", type=int, default=5000, help="dissimilar pairs, half of them hard"
    )
    sample.add_argument("--seed", type=int, default=0, help="another seed, another corpus")
    sample.add_argument("--unlike", help="directory of a sample whose sentences to avoid")
    flags = "--data-dir --positives --negatives --seed --unlike".split()
    sample.set_defaults(run=_sample, flags=flags)
    trees = commands.add_parser("trees", help="trees from what parsers write", allow_abbrev=False)
    trees.add_argument("inputs", nargs="+", metavar="INPUT", help="a file, or a directory of files")
    trees.add_argument("--to", metavar="FILE", help="file to write, such as trees.jsonl.gz")
    trees.add_argument("--format", help=f"told by name and content, or one of {', '.join(FORMATS)}")
    trees.add_argument(
        "--show", type=int, default=0, help="draw so many trees, as the encoder sees them"
    )
    trees.add_argument("--labels", action="store_true", help="leave gold labels inside the trees")
    trees.add_argument("--each", default=Source.each, help="function or file: what of code is a tree")
    default = EncoderSettings.ignored_keys
    trees.add_argument("--ignored-keys", nargs="*", default=default, help="keys that are not drawn")
    flags = "--to --format --show --labels --each --ignored-keys".split()
    trees.set_defaults(run=_trees, flags=flags)
    pairs = commands.add_parser("pairs", help="pairs from labelled or judged trees", allow_abbrev=False)
    add = pairs.add_argument
    add("inputs", nargs="+", metavar="TREES", help="what `trees` reads or has written")
    add("--to", metavar="DIR", required=True, help="directory to write")
    way = pairs.add_mutually_exclusive_group(required=True)
    way.add_argument("--by", choices=["label"], help="two trees of one label are similar")
    way.add_argument("--scores", metavar="FILE", help="table: two ids or sentences and a score a row")
    add("--columns", nargs="*", default=(), help="of the table, if its header is not known")
    add("--positives", type=int, help="similar pairs in all; default: as many as trees")
    add("--negatives", type=int, help="dissimilar pairs in all; default: as many as similar ones")
    add("--neighbours", action="store_true", help="dissimilar pairs within one source file")
    add("--seed", type=int, default=0, help="another seed, other pairs")
    add("--validation", type=float, default=0.1, help="share of the trees, by label, to keep apart")
    add("--validation-to", metavar="DIR", help="directory for them; default: DIR-validation")
    names = "to by scores columns positives negatives neighbours seed validation validation-to"
    pairs.set_defaults(run=_pairs, flags=[f"--{name}" for name in names.split()])
    return parser


def _add_flag(command: argparse.ArgumentParser, setting: dataclasses.Field[Any]) -> str:
    """Adds the flag of a setting; returns its name."""
    flag = f"--{setting.name.replace('_', '-')}"
    shown = f"{setting.metadata['help']} (default: {setting.default})".replace("%", "%%")
    form: dict[str, Any] = {"nargs": "*"} if str(setting.type).startswith("tuple") else {}
    if setting.type == "bool":
        form = {"action": argparse.BooleanOptionalAction}
    command.add_argument(flag, help=shown, **form)
    return flag


def _value(name: str, text: Any) -> Any:
    """A flag's text as a value: None, a number, a path relative to the working directory."""
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
