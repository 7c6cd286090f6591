"""Checks by trial: real batches, a step on the largest one, its cost, and whether it repeats exactly."""

import math
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from statistics import median

import numpy as np
import psutil
import torch

from treelstm.checks.report import ERROR, OK, WARNING, Check, Finding, Level, Report, judged
from treelstm.config import Config
from treelstm.data.pairs import Corpus, Pairs
from treelstm.evaluation import pair_distances
from treelstm.files import nearest_existing
from treelstm.model.encoder import parameter_shapes
from treelstm.model.objectives import Ranking, objective_of
from treelstm.process import chosen_device, default_threads, lack_of_gpus, usable_cores
from treelstm.progress import CENTURY_SECONDS, duration
from treelstm.randomness import epoch_order
from treelstm.run.changes import epochs_left, new_changes
from treelstm.run.directory import starting_point
from treelstm.run.state import Run, new_run, norm, state_of
from treelstm.run.step import train_step
from treelstm.sealed import sealed
from treelstm.trees.arrays import Array
from treelstm.trees.vocabulary import key_of

_WARM_UP_STEPS, _TIMED_STEPS, _PARTS_ROUNDS = 10, 120, 15


def largest_batch(config: Config, pairs: Pairs) -> Array:
    """The pairs whose trees have the most nodes, `batch_size` of them."""
    nodes = pairs.forest.tree_nodes.astype(np.int64)
    size = nodes[pairs.first] + nodes[pairs.second]
    return np.argsort(-size, kind="stable")[: config.batch_size]


def batches(config: Config, corpus: Corpus) -> Iterator[Finding]:
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
        subtrees = f"{batch.num_nodes:,} distinct subtrees on {len(batch.levels)} heights"
        text = f"{name} batch: {len(indices)} pairs, {nodes:,} nodes, {subtrees}"
        yield Finding("batches.size", OK, text)
    objective = objective_of(config)
    if isinstance(objective, Ranking):
        part = np.array_split(chosen["the first"], config.shards)[0]
        negatives = (~objective.target(pairs, part)).sum(1)
        low, high = int(negatives.min()), int(negatives.max())
        whose = "batch" if config.shards == 1 else "part of a batch"
        text = f"each tree of the first {whose} is compared with {low} to {high} trees that differ"
        remedy = "Set a larger batch_size; are all trees equal, or labelled similar to each other?"
        yield judged("batches.negatives", text, high == 0, ERROR, remedy)
    if config.batch_size > len(pairs):
        text = f"batch_size={config.batch_size} for {len(pairs)} training pairs: one step an epoch"
        yield Finding("batches.one-step", WARNING, text, "Set a smaller batch_size")


def model(config: Config, corpus: Corpus) -> Iterator[Finding | Check]:
    needed, free = least_bytes(config, corpus), free_bytes(chosen_device(config.device))
    if needed > free:
        text = (
            f"training needs at least {needed / 1e9:,.1f} GB for weights, gradients, Adam's moments and "
            f"the largest batch, {free / 1e9:,.1f} GB are free"
        )
        remedy = "Set smaller sizes of the model or a smaller batch_size"
        yield Finding("model.memory", ERROR, text, remedy)
        return
    run = new_run(config, corpus)
    count = sum(parameter.numel() for parameter in run.encoder.parameters())
    text = f"{count:,} parameters on {run.device}, {len(run.corpus.vocabulary):,} symbols"
    yield Finding("model.parameters", OK, text)
    if run.encoder.vectors is not None:
        yield partial(_vectors, run)
    order = largest_batch(config, corpus.training)
    train_step(run, order, run.corpus.vocabulary.ids(corpus.training.forest.symbols))
    loss = float(run.epoch_sums[0]) / len(order)
    gradients = {name: parameter.grad for name, parameter in run.encoder.named_parameters()}
    if not math.isfinite(loss + norm(each for each in gradients.values() if each is not None)):
        text = f"the first step gives a loss of {loss} or gradients that are not finite"
        remedy = "Lower margin or learning_rate; check the weights of start_from"
        yield Finding("model.first-step", ERROR, text, remedy)
        return
    text = f"one step on the largest batch: loss {loss:.4f}, all gradients finite"
    yield Finding("model.first-step", OK, text)
    idle = [name for name, gradient in gradients.items() if gradient is None or not bool(gradient.any())]
    text = f"no gradient reaches {', '.join(idle)}" if idle else "every parameter receives a gradient"
    remedy = "Check that these trees have children, and that a pair of the batch still has a loss"
    yield judged("model.gradients", text, bool(idle), WARNING, remedy)


def _vectors(run: Run) -> Finding:
    """How many of the words in training have a pretrained vector."""
    table, keys = run.encoder.vector_table, run.config.vectors_keys
    symbols = run.corpus.vocabulary.symbols
    known = ~run.corpus.vocabulary.is_unknown(np.arange(len(symbols)))
    words = [k for k in np.flatnonzero(known).tolist() if key_of(symbols[k]) in keys]
    found = int((run.encoder.vector_row[words] >= 0).sum())
    text = (
        f"{found:,} of the {len(words):,} values of {', '.join(keys)} in training have one of the "
        f"{len(table):,} vectors, which take {table.nbytes / 1e6:,.0f} MB of every checkpoint"
    )
    remedy = "Check vectors_keys, and whether the file is of the same language and spelling"
    return judged("model.vectors", text, 2 * found < len(words) or not words, WARNING, remedy)


def least_bytes(config: Config, corpus: Corpus) -> int:
    """Memory of a step on the largest batch, without its smaller parts; nothing is allocated."""
    pairs, states, outputs = corpus.training, config.hidden_dim, config.output_dim
    weights = sum(map(math.prod, parameter_shapes(config, len(corpus.vocabulary)).values()))
    indices = largest_batch(config, pairs)
    trees = np.concatenate((pairs.first[indices], pairs.second[indices]))
    batch = pairs.forest.batch(trees, corpus.vocabulary.ids(pairs.forest.symbols))
    size = 2 if config.precision == "bfloat16" else 4  # bytes of a number inside the trees
    # Forward 3 gates and h, c, tanh c; backward the gradients of h, c and 3 gates.
    inside = batch.num_nodes * (11 * states + config.embedding_dim) * size
    return int(4 * 4 * weights + inside + 4 * len(trees) * (states + 2 * outputs))


def free_bytes(device: torch.device) -> int:
    """Memory that this process could still take; of a GPU, also what torch keeps for it unused."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return int(psutil.virtual_memory().available)


def determinism(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """Two steps from the same state give the same bits when repeated."""
    order = epoch_order(config.seed, 1, len(corpus.training))
    states = []
    for _ in range(2):
        run = new_run(config, corpus)
        ids = run.corpus.vocabulary.ids(corpus.training.forest.symbols)
        for _ in range(min(2, run.steps_per_epoch)):
            train_step(run, order, ids)
        states.append([weight.detach().cpu() for weight in run.encoder.parameters()])
    same = all(torch.equal(first, second) for first, second in zip(*states, strict=True))
    text = f"two steps from the same state {'give identical bits' if same else 'differ'} on {run.device}"
    remedy = 'A resumed run will differ too: set device="cpu", or update torch'
    yield judged("determinism.steps", text, not same, WARNING, remedy)


def resources(config: Config, corpus: Corpus, report: Report) -> Iterator[Finding | Check]:
    run = new_run(config, corpus)
    ids = run.corpus.vocabulary.ids(corpus.training.forest.symbols)
    train_step(run, largest_batch(config, corpus.training), ids)
    began = time.perf_counter()
    size = sum(map(len, sealed(state_of(run))))
    commit_seconds = time.perf_counter() - began

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
    share = math.ceil(config.shards / config.processes) / config.shards  # of the parts of a batch
    steps_seconds = share * float(np.mean(spent[-len(every) :])) * run.steps_per_epoch
    report.seconds_per_epoch = steps_seconds + validation_seconds + commit_seconds
    left = _epochs_left(config, corpus)
    seconds = left * report.seconds_per_epoch
    most = "at most " if config.patience else ""
    pace = (
        f"about {report.seconds_per_epoch:.1f} s per epoch, {duration(seconds)} for {most}{left} epochs"
    )
    if seconds < CENTURY_SECONDS:
        ends = datetime.now() + timedelta(seconds=seconds)
        at = f"{ends:%Y-%m-%d at %H:%M}" + (" or earlier" if most else "")
        pace += f"; started now, it ends on {at}"
    if config.max_hours is not None and seconds >= 3600 * config.max_hours:
        pace += f", unless max_hours={config.max_hours:g} stops it first"
    yield Finding("resources.pace", OK, pace)
    yield partial(_memory, report, run.device, config.processes)
    yield partial(_disk, config, report, size, left)


def processes(config: Config, corpus: Corpus) -> Iterator[Finding]:
    """Whether each process has a part of every batch, what the parts cost, and whether they pay."""
    count, shards = config.processes, config.shards
    enough = max(count, shards)
    if enough > config.batch_size:
        text = (
            f"processes={count} need as many parts of each batch, found batch_size={config.batch_size}"
        )
        remedy = f"Set processes to at most {config.batch_size}"
        yield Finding("processes.parts", ERROR, text, remedy)
        return
    if lack := lack_of_gpus(config.device, count):
        yield Finding("processes.gpus", ERROR, *lack)
        return
    times = _cost_of_shards(config, corpus, enough)
    share = times * math.ceil(enough / count) / enough
    cost = f"shards={enough} makes a step {times:.2f} times the work of shards=1, since equal subtrees "
    cost += f"are shared within a part only; of this, each of processes={count} does {share:.2f}"
    if count > shards:
        found = (
            f"processes={count} need as many parts of each batch, found shards={shards}. If set, {cost}"
        )
        remedy = f"Set shards={count} and a new output_dir (other bits, about the same quality), or "
        yield Finding("processes.parts", ERROR, found, f"{remedy}processes={shards}")
        return
    remedy = f"One process with shards=1 is faster: set shards={count}, more processes or larger batches"
    yield judged("processes.cost", cost, share >= 1, WARNING, remedy)
    cores, each = usable_cores(), config.num_threads or default_threads(shards)
    text = f"{count} processes of {each} threads on {cores} cores"
    text += " slow each other down" * (count * each > cores)
    remedy = f"Set processes={max(1, cores // each)}"
    yield judged("processes.cores", text, count * each > cores, WARNING, remedy)


def _cost_of_shards(config: Config, corpus: Corpus, shards: int) -> float:
    """How many times as long as whole batches this process takes over batches in parts."""
    order = epoch_order(config.seed, 1, len(corpus.training))
    runs = [new_run(replace(config, shards=each), corpus) for each in (1, shards)]
    ids = runs[0].corpus.vocabulary.ids(corpus.training.forest.symbols)
    spent: list[list[float]] = [[], []]
    for number in range(_PARTS_ROUNDS):
        for run, times in zip(runs, spent, strict=True):
            run.step = number % run.steps_per_epoch
            began = time.perf_counter()
            train_step(run, order, ids)
            times.append(time.perf_counter() - began)
    return float(median(b / a for a, b in zip(*spent, strict=True)))


def _epochs_left(config: Config, corpus: Corpus) -> int:
    """How many epochs training would run, at most."""
    start = starting_point(config.output_path, config.resume)
    if start is None:
        return config.epochs
    return epochs_left(config, start.content, new_changes(config, corpus, start.content))[0]


def _memory(report: Report, device: torch.device, processes: int) -> Finding:
    if device.type == "cuda":  # of each process its own
        free, processes = free_bytes(device) + torch.cuda.memory_allocated(device), 1
        peak = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        free = free_bytes(device) + psutil.Process().memory_info().rss
    peak *= processes
    report.peak_memory_bytes = float(peak)
    whose = f" in {processes} processes" * (processes > 1)
    text = f"peak memory {peak / 1e9:.2f} GB{whose} of {free / 1e9:.1f} GB free on {device}"
    level: Level = ERROR if peak > free else WARNING
    remedy = "Set a smaller batch_size, or close other programs"
    return judged("resources.memory", text, peak > 0.8 * free, level, remedy)


def _disk(config: Config, report: Report, size: int, left: int) -> Finding:
    """Disk space of the whole run: the checkpoints that `keep` keeps, and two models."""
    model = size / 3  # weights without Adam's two moments
    kept = left if config.keep == "all" else min(left, 2 * int(config.keep))  # each with its best
    report.disk_bytes = kept * size + 2 * model
    needed = report.disk_bytes + 3 * size  # two commits inside an epoch, and the one being written
    directory = nearest_existing(config.output_path)
    free = shutil.disk_usage(directory).free
    text = (
        f"{report.disk_bytes / 1e6:,.1f} MB for {kept} checkpoints of {size / 1e6:.1f} MB; "
        f"{free / 1e9:,.1f} GB are free in {directory}"
    )
    fit = max(1, (int(free / size) - 5) // 2)
    remedy = f"Set keep={fit}, free some space, or choose another output_dir"
    return judged("resources.disk", text, needed > free, ERROR, remedy)
