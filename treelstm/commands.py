"""`python -m treelstm`: preflight, train, evaluate, encode or compare trees, show a run's status or all
runs, read trees, make pairs or write a sample.

Exit status: 0 done, 1 failed, 2 bad usage, 3 preflight says no-go; stopped after a commit: 128 + signal,
or 124 by max_hours.
"""

import argparse
import dataclasses
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from json import dumps
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tqdm import tqdm

from treelstm import run_table
from treelstm.checks.groups import preflight
from treelstm.checks.report import PreflightRefused, as_text
from treelstm.collection import write_vectors
from treelstm.config import (
    NOT_OF_TRAINING,
    Config,
    ConfigError,
    EncoderSettings,
    did_you_mean,
    from_root,
)
from treelstm.data.load import Needed, load_corpus, load_pairs
from treelstm.data.pairing import make_pairs
from treelstm.data.pairs import Pairs
from treelstm.data.readers.formats import FORMATS, iterate_trees, write_trees
from treelstm.data.readers.source import Tree, drawing
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
from treelstm.model.objectives import Graded
from treelstm.notify import notify
from treelstm.own_trees import compare_trees, encoder_of, tree_of_file, tree_of_json
from treelstm.plain import shown
from treelstm.run.distributed import GroupLost, is_first, joined
from treelstm.run.status import NoCommitYet, run_status
from treelstm.runs import list_runs
from treelstm.signals import stop_signals
from treelstm.sweeps.night import PAGE, SWEEP_DIR, run_plan
from treelstm.sweeps.plan import OF_ONE_RUN, PRUNERS, make_plan, read_plan
from treelstm.trees.naming import label_keys

EXPECTED = (UserError, OSError)  # shown as one message, without a traceback


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
    if command == "pairs" and len({"by", "scores", "keys"} & options.keys()) != 1:
        parser.error("pairs: say one of --by label, --key KEY and --scores FILE")
    if command == "encode" and not options["to"].endswith(".npy"):
        parser.error(f"--to {options['to']}: encode writes a .npy file. Give it such a name.")
    if command == "compare" and options["first"] == options["second"] == "-":
        parser.error("only one of the two trees can be read from standard input (-)")
    if command in ("preflight", "train", "evaluate", "encode", "compare"):
        try:
            of_config = options.keys() & Config.__dataclass_fields__.keys()
            given = {name: _value(name, options.pop(name)) for name in of_config}
            options["config"] = Config.from_parameters(given)
        except ConfigError as error:
            parser.error(str(error))
    status = 141  # 128 + SIGPIPE
    try:
        status = int(run(**options))
        if command != "train":  # whose lines may be lost without harm, see log.py
            print(end="", flush=True)
        return status
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status
    except PreflightRefused as error:
        print(error, file=sys.stderr)
        return 3
    except EXPECTED as error:
        if is_first() or not isinstance(error, GroupLost):  # the first process says it
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _preflight(config: Config, json: bool = False) -> int:
    report = preflight(config)
    print(dumps(report.to_dict(), indent=1) if json else as_text(report))
    return 3 if report.verdict == "no-go" else 0


def _train(config: Config) -> int:
    """Trains, after the checks that take under a second."""
    with joined():
        try:
            if is_first():
                preflight(config, quick=True).require_go()
        except PreflightRefused as error:
            notify("failed", config.output_path, str(error))
            raise
        return train(config).outcome.exit_status


def _evaluate(config: Config) -> int:
    """The numbers that fit the pairs, beside those of the bag of symbols: on a directory that is named,
    else on the pairs that the checkpoint's run held out.
    """
    encoder = encoder_of(config)
    path, run = encoder.origin.path, encoder.origin.config
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


def _encode(config: Config, inputs: list[str], to: str, **options: Any) -> int:
    """The encodings of all trees, one row each, and their ids. A signal leaves no part of a file."""
    encoder, trees = encoder_of(config), iterate_trees([*map(Path, inputs)], **options)
    with stop_signals(_leave):
        seen = tqdm(trees, unit=" trees", disable=None, leave=False)
        count, beside = write_vectors(Path(to), encoder, seen)
    print(f"{count:,} encodings written to {to}, the ids of their trees to {beside}")
    return 0


def _compare(config: Config, first: str, second: str) -> int:
    """Distance and verdict of two trees, and what they come from; "-" is read from standard input."""
    from treelstm.tables import strongest_nodes  # loads matplotlib

    encoder = encoder_of(config)
    given = [
        tree_of_json(sys.stdin.buffer.read(), encoder)
        if each == "-"
        else tree_of_file(Path(each).absolute(), encoder)
        for each in (first, second)
    ]
    for name, tree in zip((first, second), given, strict=True):
        if tree.note:
            print(f"{name}: {tree.note}", file=sys.stderr)
    found = compare_trees(encoder, given[0].ast, given[1].ast)
    print(f"{found.verdict} ({encoder.origin})")
    if found.unknown:
        print(f"symbols that training did not know: {shown(', '.join(found.unknown))}")
    if nodes := strongest_nodes(found.why, label_keys(found.forest)):
        print("distance without a subtree:")
    for whose, node, change in nodes:
        print(f"  {change}  {whose:6}  {shown(node)}")
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


def _runs(directory: Path | str, json: bool = False) -> int:
    rows = list_runs(Path(directory).absolute())
    if json:
        print(dumps([row.to_dict() for row in run_table.ranked(rows)], indent=1))
    else:
        print(run_table.as_text(rows) if rows else run_table.about(rows, directory))
    return 0


def _sample(data_dir: str, positives: int, negatives: int, **options: Any) -> int:
    write_sample(data_dir, positives, negatives, **options)
    print(f"{positives + negatives:,} pairs written to {data_dir}")
    return 0


def _sweep(**options: Any) -> int:
    """Many runs; a plan that cannot be carried out is bad usage, whether of flags or of a file."""
    said = {name: _value(name, text) for name, text in options.items()}
    words = {name: said.pop(name) for name in _OF_SWEEP & said.keys()}
    try:
        for flag in {"grid", "search"} & words.keys():
            words[flag] = _choices(flag, words[flag])
        if file := words.pop("plan", None):
            plan = read_plan(Path(file))
            settings = plan.pop("settings", {})
            for name in [*(plan.keys() & words.keys()), *(settings.keys() & said.keys())]:
                raise ConfigError(f"{name} stands in {file} and among the flags. Keep one.")
            words, said = {"sweep_dir": f"models/{Path(file).stem}", **plan, **words}, settings | said
        directory = from_root(words.pop("sweep_dir", SWEEP_DIR))
        retry = words.pop("retry_failed", False)
        swept = run_plan(make_plan(said, **words), directory, retry, from_root(PAGE))
    except ConfigError as error:
        print(f"python -m treelstm sweep: {error}", file=sys.stderr)
        return 2
    print(swept)
    return swept.exit_status


def _choices(flag: str, texts: list[str]) -> dict[str, Any]:
    """What --grid or --search say of each setting: its values, or a range as text."""
    found = dict[str, Any]()
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name in found:
            raise ConfigError(f"--{flag} {text}: expected each setting once, as name=value,value.")
        listed = [_value(name, each) for each in values.split(",") if values]
        found[name] = values if flag == "search" and ":" in values else listed
    return found


def _trees(
    inputs: list[str],
    to: str | None = None,
    show: int = 0,
    ignored_keys: Iterable[str] = EncoderSettings.ignored_keys,
    **options: Any,
) -> int:
    """Reads trees, draws the first ones, and writes them all. A signal leaves no part of a file."""
    left_out = Counter[str]()

    def drawn() -> Iterator[Tree]:
        trees = iterate_trees([*map(Path, inputs)], left_out=left_out, **options)
        for number, tree in enumerate(tqdm(trees, unit=" trees", disable=None, leave=False)):
            if number < show:
                says = f"{tree.id}: {shown(tree.sentence or '')}"
                tqdm.write(f"{says}\n{drawing(tree.ast, ignored_keys)}\n")
            yield tree

    with stop_signals(_leave):
        count = write_trees(Path(to), drawn()) if to else sum(1 for _ in drawn())
    print(f"{count:,} tree{'s' * (count != 1)}" + (f" written to {to}" if to else ""))
    for what, times in sorted(left_out.items()):
        if times:
            print(f"left out: {what} ({times:,})")
    return 0


def _leave(number: int, frame: object) -> NoReturn:
    print("interrupted, nothing was written", file=sys.stderr)
    sys.exit(128 + number)


def _pairs(inputs: list[str], to: str, **options: Any) -> int:
    for directory, about in make_pairs(inputs, to, **options).items():
        print(f"{directory}:")
        for what, number in about.items():
            print(f"  {what.replace('_', ' ')}: {number}")
    return 0


_OF_SWEEP = {*"sweep_dir grid seeds search trials plan prune parallel retry_failed".split()}
_PATHS = (
    "plan sweep_dir data_dir validation_dir output_dir start_from checkpoint compare_with resume".split()
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m treelstm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: Callable[..., int], help: str, arguments: dict[str, Any]) -> None:
        """`arguments`: what argparse makes of each; what is not given has the default of `run`."""
        options: dict[str, Any] = {"argument_default": argparse.SUPPRESS, "allow_abbrev": False}
        command = commands.add_parser(name, help=help, **options)
        for argument, form in arguments.items():
            command.add_argument(argument, **({"help": form} if isinstance(form, str) else form))
        command.set_defaults(run=run, flags=[each for each in arguments if each.startswith("--")])

    settings = {field.name: field for field in dataclasses.fields(Config)}

    def flags_of(names: Collection[str]) -> dict[str, Any]:
        return {f"--{n.replace('_', '-')}": _flag(field) for n, field in settings.items() if n in names}

    of_training = flags_of(settings.keys() - NOT_OF_TRAINING)
    as_data = {"action": "store_true", "help": "the report as one JSON document, for other programs"}
    add("preflight", _preflight, "find every problem before training", {
        **of_training, "--json": as_data,
    })  # fmt: skip
    add("train", _train, "train, or resume training", of_training)
    add("sweep", _sweep, "train many runs in a night, or go on with them", {
        "--sweep-dir": f"directory of all trials (default: {SWEEP_DIR}, with a plan models/ITS_NAME)",
        "--grid": {"action": "append", "metavar": "NAME=V1,V2", "help": "try all combinations"},
        "--seeds": {"type": int, "help": "each with so many seeds: --seed and those after it"},
        "--search": {"action": "append", "metavar": "NAME=LOW:HIGH[:log]",
                     "help": "search a range, or choices NAME=V1,V2, by Optuna"},
        "--trials": {"type": int, "help": "of a search, in all"},
        "--plan": {"metavar": "FILE", "help": "the same as a TOML file, see docs/training-guide.md"},
        "--prune": {"choices": PRUNERS, "help": "end hopeless trials at an epoch's end"},
        "--parallel": {"type": int, "help": "trials at once (1); threads are divided"},
        "--retry-failed": {"action": "store_true", "help": "try failed trials again"},
        **flags_of(settings.keys() - NOT_OF_TRAINING - set(OF_ONE_RUN)),
        "--max-hours": "hours after which all trials of this night commit and stop",
    })  # fmt: skip
    evaluated = flags_of({"output_dir", "checkpoint", "data_dir", "validation_dir", "device"})
    add("evaluate", _evaluate, "metrics of a checkpoint on unseen pairs", evaluated)
    of_encoder = flags_of({"output_dir", "checkpoint", "device"})
    add("encode", _encode, "encodings of trees, as a .npy file", {
        "inputs": {"nargs": "+", "metavar": "INPUT", "help": "what `trees` reads or has written"},
        "--to": {"metavar": "FILE", "required": True, "help": "vectors.npy; ids: vectors.ids.jsonl"},
        "--format": f"told by name and content, or one of {', '.join(FORMATS)}",
        "--each": "function or file: what of code is a tree",
        **of_encoder,
    })  # fmt: skip
    add("compare", _compare, "distance of two trees, similar or not, and why", {
        "first": "a file with one tree, or - for JSON from standard input",
        "second": "another one",
        **of_encoder,
    })  # fmt: skip
    run_dir = {"nargs": "?", "default": Config().output_path, "help": "its output_dir"}
    add("status", _status, "how a run stands, from its files", {"directory": run_dir})
    runs_dir = {"nargs": "?", "default": Config().output_path.parent, "help": "directory of runs"}
    add("runs", _runs, "every run under a directory, best first", {
        "directory": runs_dir,
        "--json": {"action": "store_true", "help": "all that is known, for other programs"},
    })  # fmt: skip
    add("sample", _sample, "write a sample corpus", {
        "--data-dir": {"default": Config().data_dir, "help": "directory to write to"},
        "--positives": {"type": int, "default": 495, "help": "similar pairs"},
        "--negatives": {"type": int, "default": 5000, "help": "dissimilar pairs, half of them hard"},
        "--seed": {"type": int, "help": "another seed, another corpus"},
        "--unlike": "directory of a sample whose sentences to avoid",
    })  # fmt: skip
    add("trees", _trees, "trees from what parsers write", {
        "inputs": {"nargs": "+", "metavar": "INPUT", "help": "a file, or a directory of files"},
        "--to": {"metavar": "FILE", "help": "file to write, such as trees.jsonl.gz"},
        "--format": f"told by name and content, or one of {', '.join(FORMATS)}",
        "--show": {"type": int, "help": "draw so many trees, as the encoder sees them"},
        "--labels": {"action": "store_true", "help": "leave gold labels inside the trees"},
        "--each": "function or file: what of code is a tree",
        "--ignored-keys": {"nargs": "*", "help": "keys that are not drawn"},
    })  # fmt: skip
    add("pairs", _pairs, "pairs from labelled or judged trees", {
        "inputs": {"nargs": "+", "metavar": "TREES", "help": "what `trees` reads or has written"},
        "--to": {"metavar": "DIR", "required": True, "help": "directory to write"},
        "--by": {"choices": ["label"], "help": "two trees of one label are similar"},
        "--key": {"dest": "keys", "action": "append", "help": "trees that share its values are similar"},
        "--similar": {"type": float, "help": "overlap (Jaccard) from which they are (0.3)"},
        "--dissimilar": {"type": float, "help": "overlap up to which they are dissimilar (0.1)"},
        "--scores": {"metavar": "FILE", "help": "table: two ids or sentences and a score a row"},
        "--columns": {"nargs": "*", "help": "of the table, if its header is not known"},
        "--positives": {"type": int, "help": "similar pairs in all; default: as many as trees"},
        "--negatives": {"type": int, "help": "dissimilar ones in all; default: as many as similar"},
        "--neighbours": {"action": "store_true", "help": "dissimilar pairs within one source file"},
        "--seed": {"type": int, "help": "another seed, other pairs"},
        "--validation": {"type": float, "help": "share of the trees, by label, to keep apart (0.1)"},
        "--validation-to": {"metavar": "DIR", "help": "directory for them; default: DIR-validation"},
    })  # fmt: skip
    return parser


def _flag(setting: dataclasses.Field[Any]) -> dict[str, Any]:
    """What argparse makes of a setting."""
    shown = f"{setting.metadata['help']} (default: {setting.default})".replace("%", "%%")
    if setting.type == "bool":
        return {"help": shown, "action": argparse.BooleanOptionalAction}
    return {"help": shown, **({"nargs": "*"} if str(setting.type).startswith("tuple") else {})}


def _value(name: str, text: Any) -> Any:
    """A flag's text as a value: None, a bool, a number, a path relative to the working directory."""
    if not isinstance(text, str):
        return text
    if text == "None":
        return None
    if name in _PATHS:
        return text if text in ("auto", "best") else str(Path(text).resolve())
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
