"""Forward and backward of one batch of real trees: this kernel, other implementations, and floors.

Everybody gets the same trees, fixed features and weights, and computes the states of all roots and
the gradients of all weights; preparing a batch is not timed for anyone. A floor is nothing but the
matrix products, each as one product over all nodes, into memory that is there already.

python benchmarks/contestants.py [--device cuda] [--pairs 16 256]
writes docs/speed.md and docs/speed.png (with a device in the name where it is not the CPU).
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import ModuleType

import treelstm
from corpus import REPOSITORY, directories, workplace
from treelstm.model.child_sum import ChildSumTreeLSTM
from treelstm.process import set_for_training
from treelstm.randomness import epoch_order
from treelstm.trees.forest import Forest

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

D, H = 128, 256
ROUNDS, BATCHES = 21, 3
PATIENCE_SECONDS = 20.0  # then a contestant has had rounds enough, if they are three
PACKAGE = "pytorch-tree-lstm==0.1.3"
OURS, SHARED, TIGHT = "treelstm", "floor with sharing", "floor without sharing"
PYPI = "pytorch-tree-lstm (PyPI)"
WEIGHTS = tuple[Tensor, Tensor, Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, nargs="+", default=None, help="pairs a batch")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with set_for_training(options.threads):
        compete(torch.device(options.device), options.pairs)


def compete(device: torch.device, sizes: list[int] | None) -> None:
    """Measures all contestants at batches of these sizes, and writes table and figure."""
    sizes = sizes or ([16, 256] if device.type == "cpu" else [16, 256, 2048])
    if sys.platform == "linux":  # without a limit: whoever shares nothing needs buffers of over 32 MB
        ctypes.CDLL(None).mallopt(-4, 0)  # M_MMAP_MAX
    with workplace() as name:
        training, validation = directories(Path(name))
        config = treelstm.Config(data_dir=str(training), validation_dir=str(validation))
        corpus = treelstm.load_corpus(config)
    pairs, forest = corpus.training, corpus.training.forest
    order = epoch_order(config.seed, 1, len(pairs))
    ids = corpus.vocabulary.ids(forest.symbols)
    random = torch.Generator().manual_seed(0)
    features = torch.randn(len(forest.height), D, generator=random) * 0.4
    shapes = ((4 * H, D), (4 * H,), (3 * H, H), (H, H))
    weights = [torch.randn(shape, generator=random) * shape[-1] ** -0.5 for shape in shapes]
    weights = [weight.to(device).requires_grad_() for weight in weights]
    package = pytorch_tree_lstm()

    results = {}
    for size in sizes:
        batches = []
        for k in range(BATCHES):
            indices = order[k * size : (k + 1) * size]
            trees = np.concatenate((pairs.first[indices], pairs.second[indices]))
            contest = contestants(forest, trees, ids, features, weights, package, device)
            check(contest, weights)
            batches.append(contest)
        results[size] = rounds(batches, device)
        for contest in batches:
            assert contest.keys() == batches[0].keys()
    where = f"{torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    text = table(results, where)
    print(text)
    suffix = "" if device.type == "cpu" else f"-{device.type}"
    (REPOSITORY / "docs" / f"speed{suffix}.md").write_text(text, encoding="utf-8")
    figure(results, where, REPOSITORY / "docs" / f"speed{suffix}.png")


# --- the contestants: each a function without arguments that returns the roots' states ----------


def contestants(
    forest: Forest,
    trees: np.ndarray,
    ids: np.ndarray,
    features: Tensor,
    weights: list[Tensor],
    package: ModuleType,
    device: torch.device,
) -> dict[str, Callable[[], Tensor]]:
    """Forward passes on one batch; the floors run their backward products too."""
    from twin import root_states

    batch = forest.batch(trees, ids)
    subtrees = [forest.tree_subtrees[forest.tree_ptr[t] : forest.tree_ptr[t + 1]] for t in trees]
    distinct = np.unique(np.concatenate(subtrees)).astype(np.int64)  # the forest has narrower numbers
    shared_x = features[torch.from_numpy(distinct)].to(device)
    graphs = [forest.graph(int(tree)) for tree in trees]
    starts = np.cumsum([0, *(graph.num_nodes for graph in graphs)]).tolist()
    subtree = torch.cat([graph.subtree for graph in graphs])
    edges = torch.cat(
        [graph.edge_index + start for graph, start in zip(graphs, starts[:-1], strict=True)], dim=1
    )
    height = torch.from_numpy(forest.height.astype(np.int64))[subtree]
    x = features[subtree].to(device)
    roots = torch.tensor(starts[:-1], device=device)
    below, leaves = batch.below_top, batch.leaves
    inner_nodes = int((height > 0).sum())
    batch = batch.to(device)

    w, b, u, u_f = weights
    theirs = package.TreeLSTM(D, H).to(device)
    theirs.W_iou.weight, theirs.W_f.weight = (
        nn.Parameter(part) for part in w.detach().split((3 * H, H))
    )
    theirs.W_iou.bias, theirs.W_f.bias = (nn.Parameter(part) for part in b.detach().split((3 * H, H)))
    theirs.U_iou.weight, theirs.U_f.weight = nn.Parameter(u.detach()), nn.Parameter(u_f.detach())
    theirs_order, adjacency = height.to(device), edges.t().contiguous().to(device)
    edge_order = height[edges[0]].to(device)

    def tree_lstm() -> Tensor:
        h, _ = theirs(x, theirs_order, adjacency, edge_order)
        return h.index_select(0, roots)

    tree_lstm.gradient = lambda: theirs.U_f.weight.grad  # type: ignore[attr-defined]

    lstm = nn.LSTM(D, H).to(device)
    packed = pack_sequence([x[a:z] for a, z in pairwise(starts)], enforce_sorted=False)

    def recursive() -> Tensor:
        children: list[list[int]] = [[] for _ in range(len(x))]
        for parent, child in edges.t().tolist():
            children[parent].append(child)
        return torch.stack([state(x, weights, children, root)[0] for root in starts[:-1]])

    return {
        OURS: lambda: ChildSumTreeLSTM.apply(shared_x, w, b, u, u_f, batch),
        "the same levels, plain autograd": lambda: root_states(shared_x, w, b, u, u_f, batch),
        PYPI: tree_lstm,
        "torch.nn.LSTM, packed, same nodes": lambda: lstm(packed)[1][0][0],
        "one call a node, recursive": recursive,
        TIGHT: floor(len(x), inner_nodes, edges.shape[1], device),
        SHARED: floor(batch.num_nodes, batch.num_nodes - leaves, below, device),
    }


def state(
    x: Tensor, weights: list[Tensor], children: list[list[int]], node: int
) -> tuple[Tensor, Tensor]:
    """h and c of one node, after its children's (tests/reference.py on fixed features)."""
    w, b, u, u_f = weights
    below = [state(x, weights, children, child) for child in children[node]]
    i, o, update, f_x = (w @ x[node] + b).split(H)
    if below:
        u_i, u_o, u_u = (u @ torch.stack([h for h, _ in below]).sum(0)).split(H)  # eq. 2
        i, o, update = i + u_i, o + u_o, update + u_u
    c = torch.sigmoid(i) * torch.tanh(update)
    for h_k, c_k in below:
        c = c + torch.sigmoid(f_x + u_f @ h_k) * c_k
    return torch.sigmoid(o) * torch.tanh(c), c


def floor(nodes: int, inner: int, children: int, device: torch.device) -> Callable[[], None]:
    """The products of equations 2 to 8 and of their gradients by weights and states, nothing else."""
    new = torch.randn
    x, x_inner, h_sum, h = (
        new(*shape, device=device) for shape in ((nodes, D), (inner, D), (inner, H), (children, H))
    )
    w, w_f, u, u_f = (new(*s, device=device) for s in ((3 * H, D), (H, D), (3 * H, H), (H, H)))
    gates, gates_inner = new(nodes, 3 * H, device=device), new(inner, 3 * H, device=device)
    forget_x, forget_h = new(inner, H, device=device), new(children, H, device=device)
    d_w, d_w_f, d_u, d_u_f, d_h_sum, d_h = (torch.empty_like(t) for t in (w, w_f, u, u_f, h_sum, h))

    def products() -> None:
        torch.mm(x, w.t(), out=gates)
        torch.mm(x_inner, w_f.t(), out=forget_x)
        torch.mm(h_sum, u.t(), out=gates_inner)
        torch.mm(h, u_f.t(), out=forget_h)
        torch.mm(gates.t(), x, out=d_w)
        torch.mm(forget_x.t(), x_inner, out=d_w_f)
        torch.mm(gates_inner.t(), h_sum, out=d_u)
        torch.mm(gates_inner, u, out=d_h_sum)
        torch.mm(forget_h.t(), h, out=d_u_f)
        torch.mm(forget_h, u_f, out=d_h)

    return products


def pytorch_tree_lstm() -> ModuleType:
    """The package that is imported as `treelstm` too, under a name of its own."""
    target = REPOSITORY / "benchmarks" / ".contestants"
    init = target / "treelstm" / "__init__.py"
    if not init.is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*command, str(target), PACKAGE], check=True)
    spec = importlib.util.spec_from_file_location("pytorch_tree_lstm", init)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- measuring ---------------------------------------------------------------------------------


def whole(contestant: Callable[[], Tensor]) -> Tensor | None:
    roots = contestant()
    if roots is not None:
        roots.sum().backward()
    return roots


def check(contest: dict[str, Callable[[], Tensor]], weights: list[Tensor]) -> None:
    """Who claims to compute the same function does: states of the roots, gradient of U_f."""
    expected = None
    for name, contestant in contest.items():
        if name in (TIGHT, SHARED) or "LSTM, packed" in name:
            continue
        for weight in weights:
            weight.grad = None
        roots = whole(contestant)
        gradient = contestant.gradient() if hasattr(contestant, "gradient") else weights[3].grad
        found = roots.detach(), gradient
        expected = expected or found
        for ours, theirs in zip(expected, found, strict=True):
            difference = float((ours - theirs).abs().max() / ours.abs().max())
            assert difference < 2e-5, f"{name} differs by {difference:.1e}"


def rounds(
    batches: list[dict[str, Callable[[], Tensor]]], device: torch.device
) -> dict[str, tuple[float, float]]:
    """Trees a second, and how many times as fast ours is: medians over interleaved rounds."""
    trees = len(batches) * len(batches[0][OURS]())
    spent: dict[str, list[float]] = {name: [] for name in batches[0]}
    for number in range(-1, ROUNDS):  # the first round warms up
        for name in batches[0]:
            if len(spent[name]) >= 3 and sum(spent[name]) > PATIENCE_SECONDS:
                continue
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            for batch in batches:  # one after the other, as in training
                whole(batch[name])
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 0:
                spent[name].append(time.perf_counter() - began)
    ours = spent[OURS]
    return {
        name: (trees / median(times), median(t / o for t, o in zip(times, ours, strict=False)))
        for name, times in spent.items()
    }


# --- what it says ------------------------------------------------------------------------------


def table(results: dict[int, dict[str, tuple[float, float]]], where: str) -> str:
    lines = [
        f"Forward and backward, float32, D = {D}, H = {H}, {where}, torch {torch.__version__}; medians "
        f"over up to {ROUNDS} interleaved rounds. Ratio: this kernel's speed by theirs.\n",
        "| | " + " | ".join(f"trees/s, {size} pairs | ratio" for size in results) + " |",
        "|---|" + "---:|---:|" * len(results),
    ]
    for name in next(iter(results.values())):
        cells = []
        for result in results.values():
            pace, ratio = result[name]
            cells.append(f"{pace:,.0f} | {ratio:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(results: dict[int, dict[str, tuple[float, float]]], where: str, path: Path) -> None:
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(8.0, 3.2), layout="constrained")
    panels = canvas.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for panel, (size, result) in zip(panels, results.items(), strict=True):
        bars = {name: pace for name, (pace, _) in result.items() if name not in (TIGHT, SHARED)}
        names = sorted(bars, key=bars.__getitem__)
        colors = ["tab:blue" if name == OURS else "0.7" for name in names]
        drawn = panel.barh(names, [bars[name] for name in names], color=colors)
        panel.bar_label(drawn, [f"{bars[name]:,.0f}" for name in names], padding=3, fontsize=8)
        for name, style in ((TIGHT, ":"), (SHARED, "--")):
            panel.axvline(result[name][0], color="tab:red", linestyle=style, linewidth=1, label=name)
        panel.set(xscale="log", xlabel=f"trees per second, {size} pairs", xlim=(20, 60_000))
        panel.tick_params(labelsize=8)
    panels[-1].legend(fontsize=7, loc="lower right")
    canvas.suptitle(f"Forward and backward of a batch of sentence trees, {where}", fontsize=9)
    canvas.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
