"""Random and special ASTs, and a small encoder that knows their symbols."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from treelstm.config import EncoderSettings
from treelstm.model.encoder import TreeEncoder
from treelstm.trees.builder import compile_forest
from treelstm.trees.vocabulary import Vocabulary

VALUES = st.sampled_from(["a", "b", "c", 1, True, None])


def trees(max_leaves: int = 25) -> st.SearchStrategy[dict[str, Any]]:
    """Random ASTs; few symbols, so that subtrees repeat."""
    leaf = st.fixed_dictionaries({"kind": st.sampled_from(["x", "y"])}, optional={"root": VALUES})
    return st.recursive(
        leaf,
        lambda inner: st.fixed_dictionaries(
            {"kind": st.just("n"), "items": st.lists(inner, max_size=4)},
            optional={"left": inner, "right": inner},
        ),
        max_leaves=max_leaves,
    )


def chain(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {"kind": "leaf"}
    for level in range(depth):
        node = {"kind": str(level % 3), "next": node}
    return node


def star(children: int) -> dict[str, Any]:
    return {"kind": "hub", "items": [{"kind": str(k % 7), "number": k % 11} for k in range(children)]}


SMALL = EncoderSettings(embedding_dim=5, hidden_dim=6, output_dim=4, ignored_keys=())


def encoder_for(
    asts: list[dict[str, Any]], dtype: torch.dtype = torch.float64, child_order: bool = False
) -> TreeEncoder:
    forest = compile_forest(asts, child_order=child_order)
    vocabulary = Vocabulary.of(forest, np.arange(len(forest)))
    return TreeEncoder(vocabulary, replace(SMALL, child_order=child_order)).to(dtype)
