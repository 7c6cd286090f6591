"""Child-Sum Tree-LSTM over a batch of shared subtrees (Tai et al. 2015, arXiv:1503.00075, eqs. 2-8).

Subtrees are evaluated leaves first, one height per step; each distinct subtree once.

Shapes: N distinct subtrees in the batch, of which the first L are leaves; E child-parent edges;
B trees; D embedding, H hidden.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from treelstm.trees.forest import TreeBatch

ARITHMETIC = "2"  # raised whenever the same trees and weights give other bits; commits hold it

# The derivatives that autograd itself uses: one pass over memory instead of three or four.
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input

_MINUS_ONE = torch.tensor(-1.0)  # converting a Python number takes 1 us a call


class SymbolSum(torch.autograd.Function):
    """x [R, D], for each row of symbols the sum of their rows of the embedding [symbols, D].

    An embedding bag whose gradient is summed for the batch's symbols only; all other rows are 0. (Adam
    still moves every row: its moments decay.)
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, batch: TreeBatch) -> Tensor:
        ctx.batch, ctx.rows = batch, len(embedding)
        return _sum_rows(embedding, batch.symbol, batch.symbol_ptr[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        batch: TreeBatch = ctx.batch
        d_embedding = grads[0].new_zeros(ctx.rows, grads[0].shape[1])
        d_embedding[batch.used] = _sum_rows(grads[0], batch.user, batch.user_start)
        return d_embedding, None


class ChildSumTreeLSTM(torch.autograd.Function):
    """Equations 2 to 8 for every subtree of a batch, with the backward pass written out.

    Autograd would keep a copy of the states for every level. Here the levels share one buffer,
    activations are in place, and each weight's gradient is one product over all nodes.

    The gates lie in the order i, o, u, f along the first axis of the weights:
    `w` [4H, D] and `b` [4H] act on inputs, `u` [3H, H] on the sum of the children's states,
    `u_f` [H, H] on each child's state. Returns h [B, H] of the trees' roots.

    In a batch with `factors`, fixed numbers, a child's state counts in eq. 2 times those of its place.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, b: Tensor, u: Tensor, u_f: Tensor, batch: TreeBatch
    ) -> Tensor:
        size, nodes, leaves, edges = len(u_f), len(x), batch.leaves, len(batch.child)
        gates = torch.addmm(b[: 3 * size], x, w[: 3 * size].t())  # W x + b of eqs. 3, 5, 6
        # U_f h_k of eq. 4 depends on the child alone: one product per child, in the first rows; one
        # per parent, W x_j + b, in those below. An edge's forget gate adds up one of each.
        terms = x.new_empty(2 * nodes - leaves, size)
        torch.addmm(b[3 * size :], x[leaves:], w[3 * size :].t(), out=terms[nodes:])
        h, c, tanh_c = (x.new_empty(nodes, size) for _ in range(3))
        h_sum, f = x.new_empty(nodes - leaves, size), x.new_empty(edges, size)
        child, child_start = batch.child, batch.child_start
        two_terms = torch.stack((child, batch.parent + (nodes - leaves)), dim=1).flatten()
        own = torch.arange(edges, device=x.device)
        factors = None if batch.factors is None else batch.factors.to(x.dtype)[batch.place]  # [E, H]
        every_second = 2 * own
        u_t, u_f_t = u.t(), u_f.t()

        for at, edge, _ in batch.levels:
            gates_k = gates[at]
            i, o, update = gates_k.chunk(3, dim=1)
            if at.start:
                child_k, start, f_k = child[edge], child_start[at], f[edge]
                count = len(child_k)
                below = _sum_rows(h, child_k, start, factors, edge)  # eq. 2
                h_sum[at.start - leaves : at.stop - leaves] = below
                gates_k.addmm_(below, u_t)
                both = two_terms[2 * edge.start : 2 * edge.stop]
                torch.sigmoid(_sum_rows(terms, both, every_second[:count]), out=f_k)  # eq. 4
                kept = c.index_select(0, child_k)
                kept_sum = _sum_rows(torch.mul(kept, f_k, out=kept), own[:count], start)
            gates_k[:, : 2 * size].sigmoid_()  # eqs. 3, 5
            _tanh(update, out=update)  # eq. 6
            if at.start:
                c_k = torch.addcmul(kept_sum, i, update, out=c[at])  # eq. 7
            else:
                c_k = torch.mul(i, update, out=c[at])
            h_k = torch.mul(o, _tanh(c_k, out=tanh_c[at]), out=h[at])  # eq. 8
            if at.stop < nodes:
                torch.mm(h_k, u_f_t, out=terms[at])
        ctx.save_for_backward(x, w, u, u_f, gates, f, h, c, tanh_c, h_sum, own)
        ctx.batch, ctx.factors = batch, factors
        return h.index_select(0, batch.root)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w, u, u_f, gates, f, h, c, tanh_c, h_sum, own = ctx.saved_tensors
        batch: TreeBatch = ctx.batch
        size, leaves, below = len(u_f), batch.leaves, batch.below_top
        i, o, update = gates.chunk(3, dim=1)
        d_h = _sum_rows(grads[0], batch.by_root, batch.root_start)  # 0 for whatever is no root
        # First, for all nodes at once, the local derivatives that the loop multiplies by the gradients
        # from above: d_c, and d_gates by the arguments W x + U h + b of i, o and u.
        d_c, d_gates = torch.empty_like(h), torch.empty_like(gates)
        d_i, d_o, d_update = d_gates.chunk(3, dim=1)
        _tanh_backward(o, tanh_c, grad_input=d_c)  # of eq. 8 by c
        _sigmoid_backward(tanh_c, o, grad_input=d_o)
        _sigmoid_backward(update, i, grad_input=d_i)  # of eq. 7
        _tanh_backward(i, update, grad_input=d_update)
        slope = c.index_select(0, batch.child)
        _sigmoid_backward(slope, f, grad_input=slope)  # c_k f (1 - f) of each edge, and its sum
        slope = _sum_rows(slope, own, batch.child_ptr[leaves:-1])  # over each parent's edges

        d_kept, d_kept_f = torch.empty_like(f), torch.empty_like(f)  # by c_k, once and twice times f
        d_h_sum = torch.empty_like(h_sum)  # by eq. 2's sum
        d_forget_h = h.new_empty(below, size)  # by U_f h_k, rows of children
        parent, by_child, by_child_start = batch.parent, batch.by_child, batch.by_child_start
        parent_by_child = parent.index_select(0, by_child) - leaves
        factors = None if ctx.factors is None else ctx.factors[by_child]

        for at, edge, up in reversed(batch.levels):
            d_gates_k, d_c_k, d_h_k = d_gates[at], d_c[at], d_h[at]
            d_i, d_o, d_update = d_gates_k.chunk(3, dim=1)
            if at.stop <= below:
                # Gather from the parents, over the edges that lead up from these nodes. c_k is in every
                # term of the sum of d_c f (1 - f) c_k, so it is c_k times a difference of two sums.
                start, to = by_child_start[at], by_child[up]
                by_c = _sum_rows(d_kept, to, start)
                d_forget = torch.sub(by_c, _sum_rows(d_kept_f, to, start), out=d_forget_h[at])
                d_forget *= c[at]
                d_h_k += _sum_rows(d_h_sum, parent_by_child[up], start, factors, up)
                d_h_k.addmm_(d_forget, u_f)
                torch.addcmul(by_c, d_c_k, d_h_k, out=d_c_k)
            else:
                d_c_k *= d_h_k
            d_i *= d_c_k
            d_o *= d_h_k
            d_update *= d_c_k
            if at.start:
                torch.mm(d_gates_k, u, out=d_h_sum[at.start - leaves : at.stop - leaves])
                f_k = f[edge]
                d_kept_k = torch.mul(d_c.index_select(0, parent[edge]), f_k, out=d_kept[edge])
                torch.mul(d_kept_k, f_k, out=d_kept_f[edge])
        d_forget_x = slope.mul_(d_c[leaves:])

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


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    """tanh of x. On a CPU as 2 sigmoid(2x) - 1: equal to 1e-7, in a fifth of the time."""
    if x.device.type != "cpu" or x.dtype == torch.bfloat16:  # bfloat16 would lose what is near 0
        return torch.tanh(x, out=out)
    torch.add(x, x, out=out).sigmoid_()
    return torch.add(_MINUS_ONE, out, alpha=2, out=out)


def _sum_rows(
    rows: Tensor, index: Tensor, start: Tensor, factors: Tensor | None = None, at: slice = slice(None)
) -> Tensor:
    """Row k is the sum of rows[index[start[k]:start[k + 1]]], the last one's until the end of `index`.
    With `factors`, each of the rows counts times its own, in factors[at].

    An embedding bag gathers and sums in one call without atomics, so in one order on every device.
    """
    if factors is not None:
        rows = factors[at] * rows.index_select(0, index)
        index = torch.arange(len(rows), device=rows.device)
    return torch.embedding_bag(rows, index, start, False, 0)[0]
