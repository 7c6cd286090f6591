"""The kernel's plain-autograd twin: the same levels of shared subtrees, no backward pass of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from treelstm.trees.forest import TreeBatch


def root_states(x: Tensor, w: Tensor, b: Tensor, u: Tensor, u_f: Tensor, batch: TreeBatch) -> Tensor:
    """Equations 2 to 8 as `ChildSumTreeLSTM` computes them; h [B, H] of the roots."""
    size = u_f.shape[0]
    h, c, forget_h = (x.new_empty(0, size) for _ in range(3))
    for at, edge, _ in batch.levels:
        gates = torch.addmm(b[: 3 * size], x[at], w[: 3 * size].t())
        c_sum: Tensor | float = 0.0
        if at.start:
            child, parent = batch.child[edge], batch.parent[edge] - at.start
            zeros = x.new_zeros(at.stop - at.start, size)
            gates = gates + zeros.index_add(0, parent, h.index_select(0, child)) @ u.t()  # eq. 2
            forget_x = torch.addmm(b[3 * size :], x[at], w[3 * size :].t())
            f = torch.sigmoid(
                forget_x.index_select(0, parent) + forget_h.index_select(0, child)
            )  # eq. 4
            c_sum = zeros.index_add(0, parent, f * c.index_select(0, child))
        i, o, update = gates.split(size, dim=1)
        level_c = torch.sigmoid(i) * torch.tanh(update) + c_sum  # eqs. 3, 6, 7
        level_h = torch.sigmoid(o) * torch.tanh(level_c)  # eqs. 5, 8
        h, c = torch.cat((h, level_h)), torch.cat((c, level_c))
        if at.stop < len(x):
            forget_h = torch.cat((forget_h, level_h @ u_f.t()))
    return h.index_select(0, batch.root)
