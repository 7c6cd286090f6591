"""Past one process and past memory: every claim of docs/scaling.md, measured; about an hour.

    python benchmarks/scale.py [SECTION ...]

Sections: bits, pace, parts, compiling, memory, opening, pairing, start, kills (the default: all). Each
row says what must hold and what was found. The table of docs/scaling.md and docs/scaling.png are made
from what all sections found last, which is kept in benchmarks/.scale.json.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import treelstm
from corpus import REAL, REPOSITORY, directories, workplace
from treelstm.data.pairs import Pairs
from treelstm.randomness import epoch_order
from treelstm.run.state import Run, new_run
from treelstm.run.step import train_step
from treelstm.trees.vocabulary import Vocabulary

import numpy as np
import torch

FOUND, PAGE = REPOSITORY / "benchmarks/.scale.json", REPOSITORY / "docs/scaling.md"
MILLION, MB, ROUNDS = 1_000_000, 1e6, 9
BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->\n"

Row = tuple[str, str, str]  # what, must, found


def main(sections: list[str]) -> None:
    rows: dict[str, list[Row]] = {}
    figures: dict[str, Any] = {}
    if FOUND.is_file():
        before = json.loads(FOUND.read_text())
        rows, figures = before["rows"], before["figures"]
    for name in sections or SECTIONS:
        began = time.monotonic()
        with workplace() as work:
            rows[name] = []
            for row in SECTIONS[name](Path(work), figures):
                rows[name].append(row)
                print(*row, sep=" | ", flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        FOUND.write_text(json.dumps({"rows": rows, "figures": figures}, indent=1) + "\n")
    write_page([row for name in SECTIONS for row in rows.get(name, [])], figures)


# --- training in several processes -------------------------------------------------------------


def command(*words: object, **settings: object) -> list[str]:
    flags = [str(each) for name, value in settings.items() for each in (f"--{name}", value)]
    return [sys.executable, "-m", "treelstm", *map(str, words), *flags]


def trained(directory: Path, data: Path, validation: Path, **settings: object) -> Path:
    """A run of the command, in however many processes."""
    settings = {"data-dir": data, "validation-dir": validation, "output-dir": directory} | settings
    subprocess.run(command("train", **settings), check=True, stdout=subprocess.DEVNULL)
    return directory


def bits(work: Path, figures: dict[str, Any]) -> Iterator[Row]:
    """The same bits at any number of processes, also where it changes in mid-run."""
    from runs import assert_same_run

    treelstm.write_sample(work / "training", 100, 400)
    treelstm.write_sample(work / "validation", 40, 160, seed=1, unlike=work / "training")
    data = work / "training", work / "validation"
    fixed = {"shards": 8, "num-threads": 1, "batch-size": 32}
    runs = [trained(work / str(n), *data, **fixed, processes=n, epochs=3) for n in (1, 2, 3, 4, 8)]
    for epoch, n in enumerate((2, 1, 3), 1):
        trained(work / "changing", *data, **fixed, processes=n, epochs=epoch)
    for run in (*runs[1:], work / "changing"):
        assert_same_run(runs[0], run)
    yield "same bits, shards 8, 3 epochs, at 1, 2, 3, 4, 8 processes; 2, 1, 3 in one run", "all", "all"


# Run under torchrun: seconds of a step of 256 pairs, of three epochs the fastest.
STEPS = """
import sys, time
import treelstm
from treelstm.data.load import load_corpus
from treelstm.neutral import neutral_torch
from treelstm.process import set_for_training
from treelstm.randomness import epoch_order
from treelstm.run.distributed import joined
from treelstm.run.state import new_run
from treelstm.run.step import train_step
data, validation, shards = sys.argv[1:]
config = treelstm.Config(data_dir=data, validation_dir=validation, batch_size=256, shards=int(shards))
with joined() as group, neutral_torch(), set_for_training(1):
    corpus = load_corpus(config)
    run, times = new_run(config, corpus), []
    run.group, ids = group, corpus.vocabulary.ids(corpus.training.forest.symbols)
    for epoch in range(1, 5):
        order, run.step = epoch_order(config.seed, epoch, len(corpus.training)), 0
        began = time.perf_counter()
        while run.step < run.steps_per_epoch:
            train_step(run, order, ids)
        times.append((time.perf_counter() - began) / run.steps_per_epoch)
    if group.rank == 0:
        print(min(times[1:]))
"""


def pace(work: Path, figures: dict[str, Any]) -> Iterator[Row]:
    """One process against two, one thread each: steps alone, and whole epochs of a run."""
    data = directories(work)
    (work / "steps.py").write_text(STEPS)
    both = (1, 1), (2, 2)  # processes, shards
    steps: dict[tuple[int, int], list[float]] = {each: [] for each in both}
    epochs: dict[tuple[int, int], list[float]] = {each: [] for each in both}
    for number in range(ROUNDS):
        for processes, shards in both:
            engine = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            engine += [f"--nproc-per-node={processes}", "--local-addr=127.0.0.1"]
            words = [*engine, work / "steps.py", *data, shards]
            said = subprocess.check_output([*map(str, words)], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
            steps[processes, shards].append(float(said))
            settings = {"processes": processes, "shards": shards, "num-threads": 1, "batch-size": 256}
            run = trained(work / f"{processes}-{number}", *data, **settings, epochs=3)
            timings = treelstm.load_checkpoint(treelstm.find_latest_checkpoint(run))["timings"]
            epochs[processes, shards].append(min(timing["seconds"] for timing in timings))
    for what, times in (("steps", steps), ("epochs with validation and commits", epochs)):
        figures[f"seconds: {what}"] = {
            f"{p} process{'es' * (p > 1)}": median(times[p, p]) for p in (1, 2)
        }
        ratio = median(a / b for a, b in zip(*times.values(), strict=True))
        name = f"2 processes of 1 thread against 1 of 1 thread, 256 pairs, wall: {what}"
        yield name, "1.5", f"{ratio:.2f}"


def parts(work: Path, figures: dict[str, Any]) -> Iterator[Row]:
    """What cutting a batch into parts costs one process, and what it changes."""
    torch.set_num_threads(1)
    data, validation = directories(work)
    settings = {"data_dir": str(data), "validation_dir": str(validation), "batch_size": 256}
    corpus = treelstm.load_corpus(treelstm.Config(**settings))
    ids = corpus.vocabulary.ids(corpus.training.forest.symbols)

    def steps(run: Run, count: int) -> None:
        for _ in range(count):
            order = epoch_order(run.config.seed, run.epochs_done + 1, len(corpus.training))
            train_step(run, order, ids)
            if run.step == run.steps_per_epoch:
                run.step, run.epochs_done = 0, run.epochs_done + 1

    runs = {s: new_run(treelstm.Config(**settings, shards=s), corpus) for s in (1, 2, 4, 8)}
    for run in runs.values():
        steps(run, 100)
    one, eight = (
        torch.cat([weight.detach().ravel() for weight in runs[s].encoder.parameters()]).double()
        for s in (1, 8)
    )
    difference = float((one - eight).norm())
    said = f"{difference:.1e}, {difference / float(one.norm()):.0e} of the norm of the weights"
    yield "norm of the difference of weights, shards 1 and 8, 100 steps", "1e-5", said
    times = interleaved({s: lambda run=run: steps(run, 10) for s, run in runs.items()})
    cost = {s: median(t / o for t, o in zip(times[s], times[1], strict=True)) for s in runs}
    figures["cost of shards"] = cost
    said = ", ".join(f"{s}: {each:.2f}" for s, each in cost.items() if s > 1)
    yield "a step of 256 pairs in one process by shards, times one of shards=1", "", said


def interleaved(works: dict[Any, Callable[[], object]]) -> dict[Any, list[float]]:
    """Seconds of each work in interleaved rounds, the first of which does not count."""
    times: dict[Any, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if number:
                times[name].append(time.perf_counter() - began)
    return times


def kills(work: Path, figures: dict[str, Any]) -> Iterator[Row]:
    """See benchmarks/torture.py, which raises unless every run ended as it should."""
    words = [sys.executable, "benchmarks/torture.py", "60", "--processes", "2"]
    said = subprocess.check_output(words, cwd=REPOSITORY, text=True).strip().splitlines()[-1]
    yield "SIGKILLs of workers, launchers or groups of 2 processes and 1", "60, all identical", said


# --- corpora past memory -----------------------------------------------------------------------


def repeated(directory: Path, source: Path, size: float) -> Path:
    """Pair files of about `size` bytes: those of `source` again and again."""
    directory.mkdir()
    whole = sum(path.stat().st_size for path in source.glob("*_pairs.jsonl"))
    for path in source.glob("*_pairs.jsonl"):
        content = path.read_bytes()
        with (directory / path.name).open("wb") as file:
            for _ in range(max(1, round(size / whole))):
                file.write(content)
    return directory


def sample(directory: Path, pairs: int) -> Path:
    treelstm.write_sample(directory, pairs // 4, pairs - pairs // 4)
    return directory


def size_of(directory: Path) -> float:
    """Megabytes of pair files."""
    return sum(path.stat().st_size for path in directory.glob("*_pairs.jsonl")) / MB


# Run in a process of its own that imports no torch, which would take more memory than compiling does.
COMPILE = """
import json, re, sys, tempfile, time
from pathlib import Path
from treelstm.config import EncoderSettings
from treelstm.data.compiling import compile_pairs
from treelstm.data.files import pair_files
with tempfile.TemporaryDirectory() as name:
    began = time.perf_counter()
    compile_pairs(pair_files(sys.argv[1], None), EncoderSettings(), Path(name), int(sys.argv[2]))
    seconds = time.perf_counter() - began
assert "torch" not in sys.modules
# Linux only; getrusage would start at the peak of the process that started this one.
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(json.dumps({"seconds": seconds, "megabytes": int(peak[1]) / 1024}))
"""


def compiled(directory: Path, workers: int = 1) -> dict[str, float]:
    """Seconds and peak memory in MB of a process that compiles."""
    words = [sys.executable, "-c", COMPILE, str(directory), str(workers)]
    found: dict[str, float] = json.loads(subprocess.check_output(words, cwd=REPOSITORY))
    return found


def compiling(work: Path, figures: dict[str, Any]) -> Iterator[Row]:
    source, _ = directories(work)
    whole = size_of(source) * MB
    corpora = {
        "krestomatio" if REAL.is_dir() else "the sample": (source, 50),
        "the sample, all trees distinct": (sample(work / "distinct", 60_000), 25),
        "trees that repeat 20 times": (repeated(work / "20 times", source, 5.5 * whole), 300),
    }
    rates = figures["MB a second, one worker"] = {}
    for name, (directory, must) in corpora.items():
        found = [size_of(directory) / compiled(directory)["seconds"] for _ in range(3)]
        rates[name] = median(found)
        yield f"compile, MB/s per core: {name}", str(must), f"{median(found):.0f}"
    ratios = []
    for _ in range(3):
        one, two = (compiled(work / "distinct", workers)["seconds"] for workers in (1, 2))
        ratios.append(one / two)
    yield "compile, 2 workers against 1 (all distinct)", "1.7 times", f"{median(ratios):.2f}"


def memory(work: Path, figures: dict[str, Any]) -> Iterator[Row]:
    """Peak memory of compiling, by pairs and by distinct trees."""
    source, _ = directories(work)
    peaks = figures["peak memory, MB, by MB of repeated pairs"] = {}
    for times in (1, 4, 16):
        directory = repeated(work / f"repeated-{times}", source, 250 * MB * times)
        found = compiled(directory)
        peaks[round(size_of(directory))] = found["megabytes"]
        for path in directory.iterdir():
            path.unlink()
    low, *_, high = peaks.values()
    said = f"{high / low - 1:+.0%} ({' / '.join(f'{each:.0f} MB' for each in peaks.values())})"
    yield "memory of compiling 1, 4, 16 times 250 MB of repeated pairs", "flat within 10%", said
    grown = figures["peak memory, MB, by thousand distinct pairs"] = {}
    for times in (1, 4, 16):
        directory = sample(work / f"distinct-{times}", 5_000 * times)
        grown[5 * times] = compiled(directory)["megabytes"]
    (a, low), (b, middle), (c, high) = grown.items()
    straight = low + (high - low) / (c - a) * (b - a)
    said = (
        f"{middle / straight - 1:+.0%} off a line ({' / '.join(f'{m:.0f} MB' for m in grown.values())})"
    )
    yield "the same with 1, 4, 16 times the distinct trees", "linear", said


def by_reference(directory: Path, source: Path, pairs: int, redrawn: bool = False) -> Path:
    """`pairs` pairs of the trees of a pair corpus: its own pairs again and again, or drawn anew."""
    known: dict[bytes, int] = {}
    own: list[tuple[int, int, int]] = []
    directory.mkdir()
    with (directory / "trees.jsonl").open("wb") as trees:
        for label, name in enumerate(("negative_pairs.jsonl", "positive_pairs.jsonl")):
            for line in (source / name).read_bytes().splitlines():
                record, numbers = json.loads(line), []
                for side in ("ast1", "ast2"):
                    text = json.dumps(record[side], ensure_ascii=False).encode()
                    if text not in known:
                        trees.write(b'{"id": "%d", ' % len(known) + text[1:] + b"\n")
                    numbers.append(known.setdefault(text, len(known)))
                own.append((*numbers, label))
    draw = random.Random(0)
    with (directory / "pairs.tsv").open("w") as file:
        file.write("first\tsecond\tlabel\n")
        for _ in range(pairs):
            first, second, label = own[draw.randrange(len(own))]
            if redrawn:
                first, second = draw.randrange(len(known)), draw.randrange(len(known))
            file.write(f"{first}\t{second}\t{label}\n")
    return directory


# Run in a process of its own: what opening and a first batch take, and what stays in memory.
OPEN = """
import json, resource, sys, time
import treelstm, torch, torch_geometric, numpy as np
from treelstm.config import Config
from treelstm.data.load import load_corpus, load_pairs
from treelstm.model.encoder import TreeEncoder
from treelstm.randomness import epoch_order
from treelstm.trees.vocabulary import Vocabulary
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
before, began = resident(), time.perf_counter()
pairs = load_pairs(sys.argv[1])
opened = time.perf_counter()
order = epoch_order(42, 1, len(pairs))
ids = np.arange(len(pairs.forest.symbols))
some = order[:256]
pairs.forest.batch(np.concatenate((pairs.first[some], pairs.second[some])), ids, bags=True)
first = time.perf_counter()
corpus = load_corpus(Config(data_dir=sys.argv[1]))
corpus.vocabulary.ids(corpus.training.forest.symbols)
ready = time.perf_counter()
print(json.dumps({"pairs": len(pairs), "open": 1e3 * (opened - began), "batch": 1e3 * (first - opened),
                  "corpus": 1e3 * (ready - first), "resident": resident() - before}))
"""


def opening(work: Path, figures: dict[str, Any]) -> Iterator[Row]:
    """A compiled corpus of a million pairs."""
    treelstm.write_sample(work / "sample", 12_500, 37_500)
    million = by_reference(work / "million", work / "sample", MILLION, redrawn=True)
    treelstm.load_pairs(million)
    words = [sys.executable, "-c", OPEN, str(million)]
    found = [json.loads(subprocess.check_output(words)) for _ in range(5)]
    took = {key: median(each[key] for each in found) for key in found[0]}
    figures["opening a million pairs"] = took
    yield "open 1 million pairs of 100,000 sample trees", "50 ms", f"{took['open']:.0f} ms"
    yield "their first batch: order, ids, 256 pairs", "100 ms", f"{took['batch']:.0f} ms"
    yield "split, vocabulary, all that a run's start reads of them", "", f"{took['corpus']:.0f} ms"
    said = f"{took['resident']:,.0f} MB"
    yield "resident beyond imports after all this", "1 GB", said
    source, _ = directories(work)
    million = by_reference(work / "again", source, MILLION)
    works = [steps_on(treelstm.load_pairs(each)) for each in (source, million)]
    times = interleaved(dict(enumerate(works)))
    ratio = median(small / large for small, large in zip(*times.values(), strict=True))
    yield "steps/s at 1 million pairs against 5,495, 256 pairs a batch", ".95", f"{ratio:.2f}"


def steps_on(pairs: Pairs) -> Callable[[], None]:
    """Ten steps of a run on these pairs."""
    vocabulary = Vocabulary.of(pairs.forest, pairs.trees)
    corpus = treelstm.data.pairs.Corpus(
        pairs, pairs[np.arange(0, len(pairs), len(pairs) // 100)], vocabulary, {}
    )
    run = new_run(treelstm.Config(batch_size=256, best_by="validation_loss"), corpus)
    order, ids = epoch_order(1, 1, len(pairs)), vocabulary.ids(pairs.forest.symbols)

    def steps() -> None:
        for _ in range(10):
            train_step(run, order, ids)
            run.step %= run.steps_per_epoch - 1

    return steps


def pairing(work: Path, figures: dict[str, Any]) -> Iterator[Row]:
    """Pairs from 100,000 trees of the sample's grammar."""
    treelstm.write_sample(work / "sample", 12_500, 37_500)
    with (work / "trees.jsonl").open("w") as file:
        number = 0
        for name in ("positive_pairs.jsonl", "negative_pairs.jsonl"):
            for line in (work / "sample" / name).read_text().splitlines():
                record = json.loads(line)
                for side in ("ast1", "ast2"):
                    file.write(json.dumps({"id": str(number), **record[side]}) + "\n")
                    number += 1
    began = time.perf_counter()
    words = command("pairs", work / "trees.jsonl", key="radiko", to=work / "pairs")
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    said = f"{time.perf_counter() - began:.0f} s"
    yield f"pairs --key from {number:,} trees", "2 min", said


def start(work: Path, figures: dict[str, Any]) -> Iterator[Row]:
    """From a process's start to its first step, on a small corpus."""
    from resume import print_first_steps

    data, validation = directories(work)
    treelstm.load_pairs(data), treelstm.load_pairs(validation)
    settings = {
        "data_dir": str(data),
        "validation_dir": str(validation),
        "output_dir": str(work / "run"),
    }
    with redirect_stdout(StringIO()) as said:
        print_first_steps(settings | {"epochs": 1})
    seconds = said.getvalue().partition("median ")[2].partition(" s")[0]
    yield "from a process's start to its first step, small corpus", "3 s", f"{seconds} s"


# --- what it says ------------------------------------------------------------------------------


def write_page(rows: list[Row], figures: dict[str, Any]) -> None:
    """The table between the marks of docs/scaling.md."""
    lines = ["| | must | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{after}")
    draw(figures)


def draw(figures: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(9.0, 2.8), layout="constrained")
    left, middle, right = canvas.subplots(1, 3)
    pace = figures.get("seconds: epochs with validation and commits", {})
    bars = left.bar([*pace], [*pace.values()], color="tab:blue", width=0.5)
    left.bar_label(bars, fmt="%.1f s", fontsize=8)
    left.set(title="an epoch of 5,495 pairs, 256 a batch", ylabel="seconds")
    left.margins(y=0.15)
    memory = figures.get("peak memory, MB, by MB of repeated pairs", {})
    middle.plot([int(key) / 1000 for key in memory], list(memory.values()), marker="o")
    middle.set(title="compiling repeated pairs", xlabel="GB of pair files", ylabel="peak memory, MB")
    middle.set_ylim(0, 1.4 * max(memory.values(), default=1))
    grown = figures.get("peak memory, MB, by thousand distinct pairs", {})
    right.plot([int(key) for key in grown], list(grown.values()), marker="o")
    right.set(title="compiling distinct trees", xlabel="thousand pairs", ylabel="peak memory, MB")
    right.set_ylim(bottom=0)
    for panel in (left, middle, right):
        panel.title.set_size(9)
        panel.tick_params(labelsize=8)
    canvas.savefig(REPOSITORY / "docs/scaling.png", dpi=110)


SECTIONS = {
    each.__name__: each
    for each in (bits, pace, parts, compiling, memory, opening, pairing, start, kills)
}

if __name__ == "__main__":
    main(sys.argv[1:])
