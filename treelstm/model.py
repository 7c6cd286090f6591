"""Child-Sum Tree-LSTM over a batch of shared subtrees (Tai et al. 2015, arXiv:1503.00075, eqs. 2-8).

Subtrees are evaluated leaves first, one height per step; each distinct subtree once.

Shapes: N distinct subtrees in the batch, of which the first L are leaves; E child-parent edges;
B trees; D embedding, H hidden, O output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from treelstm.randomness import WEIGHTS, generator
from treelstm.trees import Forest, TreeBatch, Vocabulary

_TREES_PER_CALL = 2048  # distinct trees that `encode_trees` evaluates at once; bounds its memory
_EMBEDDING_SCALE = 0.15  # standard deviation; a node adds up several symbols

# The derivatives that autograd itself uses: one pass over memory instead of three or four.
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_embedding_backward = torch.ops.aten.embedding_dense_backward


class ChildSumTreeLSTM(torch.autograd.Function):
    """Equations 2 to 8 for every subtree of a batch, with the backward pass written out.

    Plain autograd would keep a copy of the states for every level. Here the levels share one
    buffer, activations are in place, and each weight's gradient is one product over all nodes.

    The gates lie in the order i, o, u, f along the first axis of the weights:
    `w` [4H, D] and `b` [4H] act on inputs, `u` [3H, H] on the sum of the children's states,
    `u_f` [H, H] on each child's state. Returns h [B, H] of the trees' roots.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, b: Tensor, u: Tensor, u_f: Tensor, batch: TreeBatch
    ) -> Tensor:
        size, leaves, edges = u_f.shape[0], batch.node_cuts[1], len(batch.child)
        gates = torch.addmm(b[: 3 * size], x, w[: 3 * size].t())  # W x + b of eqs. 3, 5, 6
        forget_x = torch.addmm(b[3 * size :], x[leaves:], w[3 * size :].t())  # of eq. 4
        h, c, tanh_c, forget_h = (x.new_empty(len(x), size) for _ in range(4))
        h_sum = x.new_empty(len(x) - leaves, size)
        f, slope = x.new_empty(edges, size), x.new_empty(edges, size)
        own = torch.arange(edges, device=x.device)
        all_children, parent, child_ptr = batch.child, batch.parent, batch.child_ptr

        for at, edge, _ in _levels(batch):
            gates_k, c_k = gates[at], c[at]
            i, o, update = gates_k.split(size, dim=1)
            if at.start:
                inner = slice(at.start - leaves, at.stop - leaves)
                child, pointers = all_children[edge], child_ptr[at.start : at.stop + 1] - edge.start
                below = _sum_rows(h, child, pointers)  # eq. 2
                h_sum[inner] = below
                gates_k.addmm_(below, u.t())
                # U_f h_k depends on the child alone: one product per child, gathered per edge.
                f_k = torch.index_select(forget_h, 0, child, out=f[edge])
                f_k.add_(forget_x.index_select(0, parent[edge] - leaves)).sigmoid_()  # eq. 4
                kept = torch.mul(f_k, c.index_select(0, child), out=slope[edge])
                c_k.copy_(_sum_rows(kept, own[: len(kept)], pointers))
                kept.addcmul_(kept, f_k, value=-1)  # f (1 - f) c_k, what the backward pass needs
            else:
                c_k.zero_()
            gates_k[:, : 2 * size].sigmoid_()  # eqs. 3, 5
            _tanh_(update)  # eq. 6
            c_k.addcmul_(i, update)  # eq. 7
            h_k = torch.mul(o, _tanh_(tanh_c[at].copy_(c_k)), out=h[at])  # eq. 8
            if at.stop < len(x):
                torch.mm(h_k, u_f.t(), out=forget_h[at])
        ctx.save_for_backward(x, w, u, u_f, gates, f, slope, h, tanh_c, h_sum, own)
        ctx.batch = batch
        return h.index_select(0, batch.root)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w, u, u_f, gates, f, slope, h, tanh_c, h_sum, own = ctx.saved_tensors
        batch: TreeBatch = ctx.batch
        size, leaves, below = u_f.shape[0], batch.node_cuts[1], batch.node_cuts[-2]
        # index_add would do, but on a GPU it adds equal roots up in any order.
        d_h = _embedding_backward(grads[0], batch.root, len(h), -1, False)
        d_gates = torch.empty_like(gates)  # by W x + U h + b of i, o, u
        d_h_sum = torch.empty_like(h_sum)  # by eq. 2's sum
        d_forget_x = torch.empty_like(h_sum)
        d_forget_h = h.new_empty(below, size)  # by U_f h_k, rows of children
        d_f, d_kept = torch.empty_like(f), torch.empty_like(f)  # by eq. 4's argument; by c_k
        parent, child_ptr = batch.parent, batch.child_ptr
        by_child, by_child_ptr = batch.by_child, batch.by_child_ptr

        for at, edge, up in reversed(_levels(batch)):
            gates_k, tanh_k, d_gates_k, d_h_k = gates[at], tanh_c[at], d_gates[at], d_h[at]
            i, o, update = gates_k.split(size, dim=1)
            d_i, d_o, d_update = d_gates_k.split(size, dim=1)
            d_c_above: Tensor | None = None
            if at.stop <= below:
                # Pull from the parents: the edges that leave these nodes upwards.
                to, pointers = by_child[up], by_child_ptr[at.start : at.stop + 1] - up.start
                d_forget = _sum_rows(d_f, to, pointers)
                d_forget_h[at] = d_forget
                d_h_k.add_(_sum_rows(d_h_sum, parent.index_select(0, to) - leaves, pointers))
                d_h_k.addmm_(d_forget, u_f)
                d_c_above = _sum_rows(d_kept, to, pointers)
            d_c = d_h_k * o
            _tanh_backward(d_c, tanh_k, grad_input=d_c)
            if d_c_above is not None:
                d_c += d_c_above
            torch.mul(d_c, update, out=d_i)
            torch.mul(d_h_k, tanh_k, out=d_o)
            d_i_o = d_gates_k[:, : 2 * size]
            _sigmoid_backward(d_i_o, gates_k[:, : 2 * size], grad_input=d_i_o)
            torch.mul(d_c, i, out=d_update)
            _tanh_backward(d_update, update, grad_input=d_update)
            if at.start:
                inner = slice(at.start - leaves, at.stop - leaves)
                torch.mm(d_gates_k, u, out=d_h_sum[inner])
                d_c_edge = d_c.index_select(0, parent[edge] - at.start)
                torch.mul(d_c_edge, f[edge], out=d_kept[edge])
                d_f_k = torch.mul(d_c_edge, slope[edge], out=d_f[edge])
                pointers = child_ptr[at.start : at.stop + 1] - edge.start
                d_forget_x[inner] = _sum_rows(d_f_k, own[: len(d_f_k)], pointers)

        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = d_gates @ w[: 3 * size]
            d_x[leaves:].addmm_(d_forget_x, w[3 * size :])
        d_w = torch.empty_like(w)
        torch.mm(d_gates.t(), x, out=d_w[: 3 * size])
        torch.mm(d_forget_x.t(), x[leaves:], out=d_w[3 * size :])
        d_b = torch.cat((d_gates.sum(0), d_forget_x.sum(0)))
        d_u = d_gates[leaves:].t() @ h_sum
        d_u_f = d_forget_h.t() @ h[:below]
        return d_x, d_w, d_b, d_u, d_u_f, None


def _levels(batch: TreeBatch) -> list[tuple[slice, slice, slice]]:
    """Nodes of each height, edges down from them and (sorted by child) up from them; leaves first."""
    cuts = zip(batch.node_cuts, batch.edge_cuts, batch.up_cuts, strict=True)
    return [(slice(n, n2), slice(e, e2), slice(p, p2)) for (n, e, p), (n2, e2, p2) in pairwise(cuts)]


def _tanh_(x: Tensor) -> Tensor:
    """tanh in place. On a CPU as 2 sigmoid(2x) - 1: equal to 1e-7, in a fifth of the time."""
    if x.is_cuda or x.dtype == torch.bfloat16:  # bfloat16 would lose what is near 0
        return x.tanh_()
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _sum_rows(rows: Tensor, index: Tensor, pointers: Tensor) -> Tensor:
    """Row k is the sum of rows[index[pointers[k]:pointers[k + 1]]]: gather and sum in one call.

    An embedding bag does this without atomics, so its sums have one order on every device.
    """
    return torch.embedding_bag(rows, index, pointers, False, 0, False, None, True)[0]


class TreeEncoder(nn.Module):
    """Trees -> vectors: symbol embeddings, Child-Sum Tree-LSTM, linear projection of the root.

    Weights are drawn from `seed` alone. With `precision="bfloat16"` the states and products inside
    the trees are of that type; weights, their gradients and the projection stay as they are. The
    vocabulary and the ignored keys belong to the encoder: with them it reads ASTs.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        output_dim: int = 512,
        ignored_keys: Iterable[str] = (),
        seed: int = 42,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.precision = precision
        self.vocabulary = vocabulary
        self.ignored_keys = tuple(ignored_keys)
        random = generator(seed, WEIGHTS)

        def drawn(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter((torch.rand(shape, generator=random) * 2 - 1) * scale)

        inputs, states = embedding_dim**-0.5, hidden_dim**-0.5
        symbols = torch.randn(len(vocabulary), embedding_dim, generator=random)
        self.embedding = nn.Parameter(symbols * _EMBEDDING_SCALE)
        self.input_weight = drawn(4 * hidden_dim, embedding_dim, scale=inputs)
        # A forget gate that starts open lets children through (Jozefowicz et al. 2015, section 5).
        self.input_bias = nn.Parameter(torch.cat((torch.zeros(3 * hidden_dim), torch.ones(hidden_dim))))
        self.sum_weight = drawn(3 * hidden_dim, hidden_dim, scale=states)
        self.forget_weight = drawn(hidden_dim, hidden_dim, scale=states)
        # No bias: distances would cancel it, so it would never be trained.
        self.output_weight = drawn(output_dim, hidden_dim, scale=states)
        self.threshold = math.nan  # distance under which trees count as similar; set by calibration

    @property
    def hidden_dim(self) -> int:
        return self.forget_weight.shape[0]

    def forward(self, batch: TreeBatch, dropout_mask: Tensor | None = None) -> Tensor:
        """Encodings [B, O] of the batch's trees; `dropout_mask` [B, H] acts on the root states."""
        x = functional.embedding_bag(
            batch.symbol,
            self.embedding,
            batch.symbol_ptr,
            mode="sum",
            include_last_offset=True,
        )
        inside = [x, self.input_weight, self.input_bias, self.sum_weight, self.forget_weight]
        if self.precision == "bfloat16":
            inside = [tensor.bfloat16() for tensor in inside]
        root: Tensor = ChildSumTreeLSTM.apply(*inside, batch).to(x.dtype)
        if dropout_mask is not None:
            root = root * dropout_mask
        return functional.linear(root, self.output_weight)

    def encode_trees(self, forest: Forest, trees: Sequence[int] | np.ndarray) -> Tensor:
        """Encodings [len(trees), O], without dropout; equal trees are evaluated once."""
        trees = np.asarray(trees, np.int64)
        roots, first, inverse = np.unique(forest.root[trees], return_index=True, return_inverse=True)
        ids = self.vocabulary.ids(forest.symbols)
        device = self.embedding.device
        parts = [self.output_weight.new_empty(0, len(self.output_weight))]
        with torch.no_grad():
            for start in range(0, len(roots), _TREES_PER_CALL):
                batch = forest.batch(trees[first[start : start + _TREES_PER_CALL]], ids)
                parts.append(self(batch.to(device)))
        return torch.cat(parts).index_select(0, torch.from_numpy(inverse).to(device))

    def encode(self, asts: Iterable[Any]) -> Tensor:
        """Encodings of JSON ASTs: float32 [n, O], on the encoder's device.

        Raises:
            TreeError: an AST is no JSON object or empty; says which one.
        """
        forest = Forest.compile(asts, self.ignored_keys)
        return self.encode_trees(forest, np.arange(len(forest)))


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distance of each pair: [P, O], [P, O] -> [P]; its gradient at 0 is 0."""
    distance: Tensor = torch.linalg.vector_norm(first - second, dim=1)
    return distance


def contrastive_loss(distance: Tensor, label: Tensor, margin: float) -> Tensor:
    """Loss of each pair [P] (Hadsell, Chopra & LeCun 2006, eq. 4; their Y is 1 - label here).

    Similar pairs (label 1) pay for distance, dissimilar ones (label 0) for lack of it up to `margin`.
    """
    pull = distance.square()
    push = (margin - distance).clamp(min=0).square()
    return 0.5 * torch.where(label > 0, pull, push)
