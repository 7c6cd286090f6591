"""The equations of Tai et al. 2015, one node at a time, straight from the JSON: slow and obvious.

Beside them the bag of symbols, from a set of texts.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from treelstm.model.encoder import TreeEncoder
from treelstm.trees.vocabulary import LIST


def encode(encoder: TreeEncoder, ast: dict[str, Any], dropout_mask: Tensor | float = 1.0) -> Tensor:
    """Encoding [O] of one tree."""
    bag: set[str] = set()
    h, _ = state(encoder, ast, None, bag)
    z = encoder.output_weight @ (h * dropout_mask)
    if not encoder.settings.bag_of_symbols:
        return z
    total = encoder.embedding[torch.from_numpy(encoder.vocabulary.ids(sorted(bag)))].sum(0)
    return z + torch.exp(20 * encoder.gain) * (encoder.bag_weight @ (total / total.norm()))


def state(encoder: TreeEncoder, node: Any, role: str | None, bag: set[str]) -> tuple[Tensor, Tensor]:
    """h and c of one node, after its children's; adds the symbols below it to `bag`."""
    symbols = [] if role is None else [f"role={role}"]
    children = []
    if isinstance(node, list):
        symbols.append(LIST)
        node = {str(role): node}
    for key, value in node.items():
        if key not in encoder.settings.ignored_keys:
            _collect(encoder, key, value, symbols, children, bag)
    bag.update(symbols)
    ids = torch.from_numpy(encoder.vocabulary.ids(symbols))
    x = encoder.embedding[ids].sum(0)
    w_i, w_o, w_u, w_f = encoder.input_weight.chunk(4)
    b_i, b_o, b_u, b_f = encoder.input_bias.chunk(4)
    u_i, u_o, u_u = encoder.sum_weight.chunk(3)
    u_f = encoder.forget_weight

    size = encoder.settings.hidden_dim
    w = torch.linspace(math.pi, 0, size, dtype=torch.float64).to(x)
    h_sum = sum((torch.cos(place * w) * h for place, h, _ in children), x.new_zeros(size))  # eq. 2
    i = torch.sigmoid(w_i @ x + u_i @ h_sum + b_i)  # eq. 3
    o = torch.sigmoid(w_o @ x + u_o @ h_sum + b_o)  # eq. 5
    u = torch.tanh(w_u @ x + u_u @ h_sum + b_u)  # eq. 6
    c = i * u
    for _, h_k, c_k in children:
        c = c + torch.sigmoid(w_f @ x + u_f @ h_k + b_f) * c_k  # eqs. 4, 7
    return o * torch.tanh(c), c  # eq. 8


def _collect(
    encoder: TreeEncoder,
    key: str,
    value: Any,
    symbols: list[str],
    children: list[Any],
    bag: set[str],
    place: int = 0,
) -> None:
    in_order = encoder.settings.child_order
    if isinstance(value, list):
        for place, item in enumerate(value):
            if isinstance(item, list):
                children.append((place * in_order, *state(encoder, item, key, bag)))
            elif in_order and len(value) > 1 and not isinstance(item, dict | None):
                children.append((place, *state(encoder, {key: item}, None, bag)))
            else:
                _collect(encoder, key, item, symbols, children, bag, place * in_order)
    elif isinstance(value, dict):
        children.append((place, *state(encoder, value, key, bag)))
    elif value is not None:
        spelled = value if isinstance(value, str) else "\\" + json.dumps(value)
        symbols.append(f"{key}={spelled}")
