"""Every problem is found before the night: checks that return findings and print nothing.

The groups are numbered as a person reads them; each check is a function from the settings (and what
earlier groups loaded) to findings. The quick form leaves out whatever reads the data or trains.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from importlib import metadata
from pathlib import Path

import filelock
import numpy as np
import psutil
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from treelstm import checkpoint as store
from treelstm.checkpoint import CheckpointError
from treelstm.config import Config, project_root
from treelstm.data import Corpus, DataError, Pairs, load_corpus, load_pairs, pair_files
from treelstm.evaluation import pair_distances
from treelstm.files import write_whole
from treelstm.progress import duration
from treelstm.randomness import epoch_order
from treelstm.report import ERROR, NOTE, OK, WARNING, Finding, Report
from treelstm.training import (
    SettingsChanged,
    changed_settings,
    new_run,
    starting_point,
    state_of,
    threads,
    train_step,
)
from treelstm.trees import Array, key_of

_WARM_UP_STEPS, _TIMED_STEPS = 10, 120
_THREAD_ROUNDS, _THREAD_STEPS = 3, 5


def preflight(config: Config, quick: bool = False) -> Report:
    """Checks everything a run needs; raises nothing that a user could cause.

    `quick` takes under a second: no data is read, nothing is trained.
    """
    report = Report(config)

    def add(group: str, findings: Iterator[Finding]) -> None:
        report.findings[group] = list(findings)

    add("Dependencies", _dependencies(config))
    add("Data files", _data_files(config))
    corpus = None
    if not quick and not report.count(ERROR):
        try:
            corpus = load_corpus(config)
        except DataError as error:
            add("Data content", _problems(error))
        else:
            report.pairs = corpus.training
            add("Data content", _data_content(config, corpus))
    if corpus is not None:
        resuming = config.resume is not None and bool(store.list_checkpoints(config.output_path))
        trained = replace(config, start_from=None) if resuming else config  # no matter on resume
        with threads(config.num_threads):
            add("Batches", _batches(config, corpus))
            add("Model", _model(trained, corpus))
            if not report.count(ERROR):
                add("Resources", _resources(trained, corpus, report))
                if not resuming:  # a resumed run keeps its thread count
                    report.findings["Resources"] += _thread_count(trained, corpus)
            add("Output directory", _output_directory(config, corpus))
            if not report.count(ERROR):
                add("Determinism", _determinism(trained, corpus))
    else:
        add("Output directory", _output_directory(config, None))
    return report


# --- 1 dependencies ----------------------------------------------------------------------------


def _dependencies(config: Config) -> Iterator[Finding]:
    try:
        requires = metadata.requires("treelstm") or []
        python = metadata.metadata("treelstm")["Requires-Python"]
    except metadata.PackageNotFoundError:
        yield Finding(ERROR, "the package treelstm is not installed", "Run: pip install -e .")
        return
    fits = SpecifierSet(python).contains(platform.python_version())
    yield Finding(
        OK if fits else ERROR,
        f"Python {platform.python_version()} (asked for: {python})",
        "" if fits else "Make the environment again with a newer Python",
    )
    for requirement in map(Requirement, requires):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)
    yield from _device(config)
    yield from _kernel()


def _package(requirement: Requirement) -> Finding:
    remedy = f'Run: pip install "{requirement}"'
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(
            ERROR, f"{requirement.name} is missing (asked for: {requirement.specifier})", remedy
        )
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(OK, f"{requirement.name} {version} (asked for: {requirement.specifier})")
    return Finding(ERROR, f"{requirement.name} is {version}, asked for: {requirement.specifier}", remedy)


def _device(config: Config) -> Iterator[Finding]:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        try:
            worked = float(torch.ones(64, 64, device="cuda").mm(torch.ones(64, 64, device="cuda"))[0, 0])
        except RuntimeError as error:
            yield Finding(
                ERROR, f"{name} is seen, but fails: {error}", 'Mend the driver or set device="cpu"'
            )
        else:
            yield Finding(OK if worked == 64 else ERROR, f"{name} works, torch build for {build}")
    elif config.device.startswith("cuda"):
        yield Finding(
            ERROR,
            f'device is "{config.device}", but torch (built for {build}) sees no GPU',
            'Set device="cpu" or "auto", or install a CUDA build of torch',
        )
    elif Path("/proc/driver/nvidia/gpus").is_dir():
        yield Finding(
            WARNING,
            f"there is a GPU, but torch (built for {build}) cannot use it",
            "Install a CUDA build of torch",
        )
    else:
        yield Finding(OK, f"torch build for {build}, no GPU: training on the CPU")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = config.num_threads or torch.get_num_threads()
    if asked > cores:
        yield Finding(
            WARNING,
            f"{asked} threads on {cores} cores slow each other down",
            f"Set num_threads={cores}",
        )
    else:
        yield Finding(OK, f"{asked} threads on {cores} cores")


def _kernel() -> Iterator[Finding]:
    """The kernel that the notebooks name exists and is this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    for path in sorted((project_root() / "notebooks").glob("*.ipynb")):
        name = json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"]
        try:
            program = KernelSpecManager().get_kernel_spec(name).argv[0]
        except NoSuchKernel:
            yield Finding(
                ERROR,
                f'{path.name} names the kernel "{name}", which does not exist',
                f"Run: python -m ipykernel install --sys-prefix --name {name}",
            )
            return
        if program not in ("python", "python3", sys.executable):
            yield Finding(
                WARNING,
                f'the kernel "{name}" runs {program}, not this Python ({sys.executable})',
                f"Run: python -m ipykernel install --sys-prefix --name {name}",
            )
            return
    yield Finding(OK, "the kernel that the notebooks name exists and is this Python")


# --- 2 data files, 3 data content --------------------------------------------------------------


def _data_files(config: Config) -> Iterator[Finding]:
    directories = [config.data_path]
    if config.validation_path is not None:
        directories.append(config.validation_path)
    for directory in directories:
        try:
            paths = pair_files(directory)
        except DataError as error:
            yield from _problems(error)
            continue
        for path in paths.values():
            size = path.stat().st_size
            if not os.access(path, os.R_OK):
                yield Finding(ERROR, f"{path} cannot be read", "Mend its permissions")
            elif size == 0:
                yield Finding(ERROR, f"{path} is empty", "Both classes are needed; add pairs")
            else:
                yield Finding(OK, f"{path}: {size / 1e6:.1f} MB")


def _problems(error: DataError) -> Iterator[Finding]:
    for problem in error.problems.shown:
        where = f"{problem.path}:{problem.line}" if problem.line else str(problem.path)
        yield Finding(ERROR, f"{where}: {problem.found}", problem.remedy)
    if error.problems.count > len(error.problems.shown):
        more = error.problems.count - len(error.problems.shown)
        yield Finding(ERROR, f"... and {more:,} more", "Mend those above, then look again")


def _data_content(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """Every line of every file has been read, now or when the cached forest was compiled."""
    named = [("training", corpus.training, config.data_path)]
    if config.validation_path is not None:
        named.append(("validation", corpus.validation, config.validation_path))
    for name, pairs, directory in named:
        yield _class_ratio(name, pairs)
        yield _sizes(name, pairs)
        yield from _repetitions(name, pairs)
        yield from _metadata(directory, pairs, config)
    yield from _unseen(corpus)
    yield from _keys(corpus.training)


def _class_ratio(name: str, pairs: Pairs) -> Finding:
    similar = int(pairs.label.sum())
    rare = min(similar, len(pairs) - similar)
    text = (
        f"{name}: {len(pairs):,} pairs, {similar:,} similar; always answering the majority is right in "
        f"{pairs.majority_rate:.1%}, so look at ROC-AUC and average precision"
    )
    if len(pairs) - rare > 20 * rare:
        return Finding(WARNING, text, "Over 20 to 1: add pairs of the rare class")
    return Finding(OK if pairs.majority_rate < 0.8 else NOTE, text)


def _sizes(name: str, pairs: Pairs) -> Finding:
    _, first = np.unique(pairs.forest.root[pairs.trees], return_index=True)
    trees = pairs.trees[first]

    def spread(values: Array) -> str:
        low, middle, high, most = np.percentile(values, (5, 50, 95, 100)).astype(int)
        return f"{low} / {middle} / {high} / {most}"

    nodes, levels = pairs.forest.tree_nodes[trees], pairs.forest.tree_heights[trees] + 1
    text = (
        f"{name}: {len(trees):,} distinct trees; nodes 5% / median / 95% / most {spread(nodes)}, "
        f"levels {spread(levels)}"
    )
    if int(levels.max()) == 1:
        return Finding(WARNING, text, "No tree has a child: is the AST nested under ignored keys?")
    return Finding(OK, text)


def _repetitions(name: str, pairs: Pairs) -> Iterator[Finding]:
    """The same pair of trees twice, in either order, and under both labels."""
    roots = np.sort(np.stack((pairs.forest.root[pairs.first], pairs.forest.root[pairs.second])), axis=0)
    _, same = np.unique(roots, axis=1, return_inverse=True)
    same = np.asarray(same).ravel()
    similar = np.bincount(same, weights=pairs.label) > 0
    dissimilar = np.bincount(same, weights=1 - pairs.label) > 0
    both = np.flatnonzero((similar & dissimilar)[same])
    repeated = len(pairs) - len(np.unique(same * 2 + pairs.label))
    if len(both):
        wheres = {pairs.where(int(k)): None for k in both[np.argsort(same[both], kind="stable")][:20]}
        yield Finding(
            WARNING,
            f"{name}: {len(np.unique(same[both])):,} pair(s) stand under both labels: "
            + ", ".join(wheres),
            "Remove one of each; what differs may hang under an ignored key",
        )
    if repeated:
        order = np.argsort(same * 2 + pairs.label, kind="stable")
        again = order[1:][np.diff((same * 2 + pairs.label)[order]) == 0]
        example = pairs.where(int(again.min()))
        many = repeated > 0.05 * len(pairs)
        yield Finding(
            WARNING if many else NOTE,
            f"{name}: {repeated:,} pair(s) repeat an earlier one ({repeated / len(pairs):.1%}), "
            f"as {example}",
            "Remove the repetitions: they count more than once" if many else "",
        )


def _metadata(directory: Path, pairs: Pairs, config: Config) -> Iterator[Finding]:
    path = directory / "metadata.json"
    if not path.is_file():
        return
    similar, total = int(pairs.label.sum()), len(pairs)
    if config.validation_path is None:  # these pairs are what a split left
        whole = load_pairs(directory, config.ignored_keys)
        similar, total = int(whole.label.sum()), len(whole)
    true = {"num_positive_pairs": similar, "num_negative_pairs": total - similar, "total_pairs": total}
    try:
        said = json.loads(path.read_bytes())
        wrong = [f"{k} {said[k]}, found {v}" for k, v in true.items() if k in said and said[k] != v]
    except (ValueError, TypeError, OSError) as error:
        yield Finding(WARNING, f"{path} cannot be read ({error})", "Write it again or remove it")
        return
    if wrong:
        yield Finding(
            WARNING, f"{path} says {'; '.join(wrong)}", "Is a file incomplete? Compare, then correct it"
        )
    else:
        yield Finding(OK, f"{path} agrees with the files")


def _unseen(corpus: Corpus) -> Iterator[Finding]:
    overlap, unknown = corpus.overlap, corpus.unknown_share
    text = f"{overlap:.1%} of the validation trees occur in training"
    if overlap > 0.05:
        yield Finding(
            WARNING, text, "Scores will flatter: set validation_dir to pairs of other sentences"
        )
    else:
        yield Finding(NOTE if overlap else OK, text)
    text = f"{unknown:.1%} of the symbols in validation trees are unknown to training"
    if unknown > 0.2:
        yield Finding(
            WARNING, text, "Is it the same parser, the same language? Compare the keys of both"
        )
    else:
        yield Finding(OK, text)


def _keys(pairs: Pairs) -> Iterator[Finding]:
    """Keys with a new value on nearly every node, and keys with one value only."""
    forest = pairs.forest
    keys = np.array([key_of(symbol) for symbol in forest.symbols])
    occurrences = np.bincount(forest.symbol, minlength=len(keys))
    constant = []
    for key in np.unique(keys).tolist():
        mine = keys == key
        used, values = int(occurrences[mine].sum()), int(mine.sum())
        if used >= 50 and values > 0.9 * used:
            yield Finding(
                WARNING,
                f'the key "{key}" has {values:,} values on {used:,} distinct subtrees: bookkeeping?',
                f'It keeps subtrees from being shared and learned: add "{key}" to ignored_keys',
            )
        elif used >= 50 and values == 1 and key != "role":
            constant.append(key)
    if constant:
        yield Finding(NOTE, f"keys with one value only: {', '.join(constant)}")


# --- 4 batches, 5 model ------------------------------------------------------------------------


def largest_batch(config: Config, pairs: Pairs) -> Array:
    """The pairs whose trees have the most nodes, as many as a batch holds."""
    size = pairs.forest.tree_nodes[pairs.first] + pairs.forest.tree_nodes[pairs.second]
    return np.argsort(-size, kind="stable")[: config.batch_size]


def _batches(config: Config, corpus: Corpus) -> Iterator[Finding]:
    pairs = corpus.training
    ids = corpus.vocabulary.ids(pairs.forest.symbols)
    chosen = {
        "the first": epoch_order(config.seed, 1, len(pairs))[: config.batch_size],
        "the largest possible": largest_batch(config, pairs),
    }
    for name, indices in chosen.items():
        trees = np.concatenate((pairs.first[indices], pairs.second[indices]))
        batch = pairs.forest.batch(trees, ids)
        nodes = int(pairs.forest.tree_nodes[trees].sum())
        yield Finding(
            OK,
            f"{name} batch: {len(indices)} pairs, {nodes:,} nodes, {batch.num_nodes:,} distinct "
            f"subtrees on {len(batch.levels)} heights",
        )
    if config.batch_size > len(pairs):
        yield Finding(
            WARNING,
            f"batch_size={config.batch_size}, but there are {len(pairs)} training pairs: "
            "one step an epoch",
            "Set a smaller batch_size",
        )


def _model(config: Config, corpus: Corpus) -> Iterator[Finding]:
    try:
        run = new_run(config, corpus)
    except (SettingsChanged, CheckpointError, FileNotFoundError) as error:
        yield Finding(ERROR, str(error), "Mend start_from, the sizes or the device")
        return
    count = sum(parameter.numel() for parameter in run.encoder.parameters())
    yield Finding(OK, f"{count:,} parameters on {run.device}, {len(run.corpus.vocabulary):,} symbols")
    order = largest_batch(config, corpus.training)
    train_step(run, order, run.corpus.vocabulary.ids(corpus.training.forest.symbols))
    loss = float(run.running[0]) / len(order)
    gradients = {name: parameter.grad for name, parameter in run.encoder.named_parameters()}
    finite = math.isfinite(loss) and all(
        gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients.values()
    )
    if not finite:
        remedy = "Set a smaller margin or learning_rate; look for damaged weights in start_from"
        yield Finding(
            ERROR, f"the first step gives a loss of {loss} or gradients that are not finite", remedy
        )
        return
    yield Finding(OK, f"one step on the largest batch: loss {loss:.4f}, all gradients finite")
    idle = [name for name, gradient in gradients.items() if gradient is None or not bool(gradient.any())]
    if idle:
        yield Finding(
            WARNING,
            f"no gradient reaches {', '.join(idle)}",
            "Have these trees any children? Is every pair of the batch already far enough apart?",
        )
    else:
        yield Finding(OK, "every parameter group receives a gradient")


# --- 6 resources -------------------------------------------------------------------------------


def _resources(config: Config, corpus: Corpus, report: Report) -> Iterator[Finding]:
    run = new_run(config, corpus)
    ids = run.corpus.vocabulary.ids(corpus.training.forest.symbols)
    train_step(run, largest_batch(config, corpus.training), ids)
    began = time.perf_counter()
    parts = store.sealed(state_of(run))
    commit_seconds = time.perf_counter() - began
    size = sum(map(len, parts))
    del parts

    order, spent = epoch_order(config.seed, 1, len(corpus.training)), []
    stride = max(1, run.steps_per_epoch // _TIMED_STEPS)
    every = list(range(0, run.steps_per_epoch, stride))
    for run.step in every[:_WARM_UP_STEPS] + every:
        began = time.perf_counter()
        train_step(run, order, ids)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)
    run.step = 0
    pair_distances(run.encoder, corpus.validation)
    began = time.perf_counter()
    pair_distances(run.encoder, corpus.validation)
    validation_seconds = time.perf_counter() - began
    report.seconds_per_epoch = (
        float(np.mean(spent[-len(every) :])) * run.steps_per_epoch + validation_seconds + commit_seconds
    )
    done = _epochs_done(config)
    left = max(0, config.epochs - done)
    ends = datetime.now() + timedelta(seconds=left * report.seconds_per_epoch)
    yield Finding(
        OK,
        f"about {report.seconds_per_epoch:.1f} s an epoch, "
        f"{duration(left * report.seconds_per_epoch)} for {left} epochs; "
        f"started now, it ends on {ends:%Y-%m-%d at %H:%M}",
    )
    yield _memory(report, run.device)
    yield from _disk(config, report, size, left)


def _thread_count(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """How fast steps are with 1, 2, 4, ... threads, in turns: more of them do not always help.

    Only proposed: the count decides the last bits, so a choice by the clock inside `train` would
    make two equal runs differ.
    """
    run = new_run(config, corpus)
    if run.device.type != "cpu":
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads()
    counts = sorted({used, *(2**k for k in range(cores.bit_length()) if 2**k <= cores)})
    order = epoch_order(config.seed, 1, len(corpus.training))
    ids = run.corpus.vocabulary.ids(corpus.training.forest.symbols)
    spent: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(_THREAD_ROUNDS):
        for count in counts:
            with threads(count):
                run.step = 0
                for _ in range(min(_THREAD_STEPS, run.steps_per_epoch)):
                    began = time.perf_counter()
                    train_step(run, order, ids)
                    spent[count].append(time.perf_counter() - began)
    pace = {count: config.batch_size / float(np.median(spent[count])) for count in counts}
    best = max(counts, key=pace.__getitem__)
    text = "pairs/s by threads: " + ", ".join(f"{count}: {pace[count]:,.0f}" for count in counts)
    if best != used and pace[best] > 1.1 * pace[used]:
        yield Finding(NOTE, f"{text}; this run takes {used}", f"Set num_threads={best}")
    else:
        yield Finding(OK, f"{text}; this run takes {used}")


def _epochs_done(config: Config) -> int:
    checkpoints = store.list_checkpoints(config.output_path)
    return checkpoints[-1].epochs_done if checkpoints and config.resume == "auto" else 0


def _memory(report: Report, device: torch.device) -> Finding:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
    else:
        process = psutil.Process().memory_info().rss
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
        free = psutil.virtual_memory().available + process
    report.peak_memory_bytes = float(peak)
    text = f"peak memory {peak / 1e9:.2f} GB of {free / 1e9:.1f} GB free on {device}"
    if peak > free:
        return Finding(ERROR, text, "Set a smaller batch_size or free some memory")
    if peak > 0.8 * free:
        return Finding(WARNING, text, "Set a smaller batch_size, or close what else runs")
    return Finding(OK, text)


def _disk(config: Config, report: Report, size: int, left: int) -> Iterator[Finding]:
    """Commits of the whole run: the epochs' own as `keep` says, two inside an epoch, two models."""
    model = size / 3  # weights without Adam's two moments
    kept = left if config.keep == "all" else min(left, int(config.keep) + 1)
    report.disk_bytes = kept * size + 2 * model
    needed = report.disk_bytes + 3 * size  # two commits inside an epoch, and the one being written
    directory = _nearest(config.output_path)
    free = shutil.disk_usage(directory).free
    text = (
        f"{report.disk_bytes / 1e6:,.1f} MB for {kept} checkpoints of {size / 1e6:.1f} MB; "
        f"{free / 1e9:,.1f} GB are free in {directory}"
    )
    if needed > free:
        fit = max(1, int(free / size) - 6)
        yield Finding(
            ERROR, text, f"Set keep={fit} to keep fewer, free some space, or choose another output_dir"
        )
    else:
        yield Finding(OK, text)


def _nearest(path: Path) -> Path:
    """The directory itself, or its nearest parent that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


# --- 7 output directory ------------------------------------------------------------------------


def _output_directory(config: Config, corpus: Corpus | None) -> Iterator[Finding]:
    directory = config.output_path
    yield from _writable(directory)
    if directory.is_dir() and (by := store.holder(directory)):
        yield Finding(
            ERROR, f"{directory} is in use by {by}", "Wait for it, stop it, or choose another output_dir"
        )
    good = []
    for checkpoint in store.list_checkpoints(directory) if corpus is not None else []:
        try:
            store.load_checkpoint(checkpoint.path)
            good.append(checkpoint)
        except CheckpointError as error:
            yield Finding(
                WARNING, str(error), "Auto passes over it; restore it from a backup if you can"
            )
    if good:
        yield Finding(OK, f"{len(good)} checkpoint(s) verified")
    if corpus is not None:
        yield from _what_resume_does(config, corpus)


def _writable(directory: Path) -> Iterator[Finding]:
    """Writing, fsync, rename and locking work where the commits will go."""
    base = _nearest(directory)
    if not base.is_dir():
        yield Finding(ERROR, f"{base} is a file, expected a directory", "Choose another output_dir")
        return
    probe = base / f".treelstm-preflight-{os.getpid()}"
    try:
        write_whole(probe, b"a probe; may be deleted")
        with filelock.FileLock(probe, timeout=0):
            pass
        yield Finding(OK, f"write, fsync, rename and lock work in {base}")
    except (OSError, NotImplementedError) as error:
        yield Finding(ERROR, str(error), "Mend its permissions or choose another output_dir")
    finally:
        try:
            probe.unlink(missing_ok=True)
        except OSError as error:
            yield Finding(WARNING, f"{probe} cannot be removed ({error.strerror})", "Remove it by hand")


def _what_resume_does(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """One sentence on what training would do, or why it would refuse."""
    if config.resume is None:
        existing = len(store.list_checkpoints(config.output_path))
        aside = f", setting {existing} checkpoint(s) aside" if existing else ""
        yield Finding(OK, f"resume=None starts from scratch{aside}")
        return
    try:
        usable = starting_point(config, config.resume)
    except (CheckpointError, FileNotFoundError) as error:
        yield Finding(
            ERROR, str(error), "Name another checkpoint, restore one, or choose a new output_dir"
        )
        return
    if usable is None:
        yield Finding(
            OK, f'resume="auto" starts from scratch in {config.output_path}: no checkpoint yet'
        )
        return
    content, name = usable.content, usable.checkpoint.path.name
    changes = changed_settings(config, corpus, content)
    for change in changes:
        remedy = "Put it back to resume, or choose a new output_dir"
        yield Finding(ERROR, f"{name} was trained with {change}", remedy)
    done = usable.checkpoint.epochs_done
    if not changes and done >= config.epochs:
        yield Finding(
            NOTE, f"{name} has finished: nothing is left to do", f"Raise epochs (now {config.epochs})"
        )
    elif not changes:
        step = f", step {content['step']}" if content["step"] else ""
        yield Finding(
            OK,
            f"resume takes {name} (epoch {content['epoch']}{step}) and runs epochs {done + 1} to "
            f"{config.epochs}",
        )


# --- 8 determinism -----------------------------------------------------------------------------


def _determinism(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """Two steps from the same state, twice, give the same bits."""
    order = epoch_order(config.seed, 1, len(corpus.training))
    states = []
    for _ in range(2):
        run = new_run(config, corpus)
        ids = run.corpus.vocabulary.ids(corpus.training.forest.symbols)
        for _ in range(min(2, run.steps_per_epoch)):
            train_step(run, order, ids)
        states.append([weight.detach().cpu() for weight in run.encoder.parameters()])
    if all(torch.equal(first, second) for first, second in zip(*states, strict=True)):
        yield Finding(OK, f"two steps from the same state give identical bits on {run.device}")
    else:
        yield Finding(
            WARNING,
            f"two steps from the same state differ on {run.device}: "
            "a resumed run will not be bit-identical",
            'Set device="cpu", or update torch',
        )
