"""The kernel beside its plain-autograd twin, and in bfloat16. On a GPU: test_gpu.py."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from asts import chain, encoder_for, star, trees
from conftest import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import assert_same_run
from torch.nn import functional
from twin import root_states

from treelstm import load_encoder, train
from treelstm.model.child_sum import ChildSumTreeLSTM, SymbolSum
from treelstm.model.encoder import TreeEncoder
from treelstm.trees.builder import compile_forest


def inner_weights(encoder: TreeEncoder) -> list[torch.Tensor]:
    names = "input_weight", "input_bias", "sum_weight", "forget_weight"
    return [getattr(encoder, name) for name in names]


@settings(max_examples=40, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=5))
def test_the_hand_written_gradient_equals_plain_autograd_of_the_same_levels(asts):
    encoder = encoder_for(asts)
    forest = compile_forest([*asts, chain(4), star(3)])
    batch = forest.batch(np.arange(len(forest)), encoder.vocabulary.ids(forest.symbols))
    x = torch.randn(batch.num_nodes, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x, *inner_weights(encoder)]
    ours, twin = ChildSumTreeLSTM.apply(*inputs, batch), root_states(*inputs, batch)
    torch.testing.assert_close(ours, twin, rtol=1e-9, atol=1e-12)
    weights = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).reshape(ours.shape)
    found = torch.autograd.grad((ours * weights).sum(), inputs, materialize_grads=True)
    expected = torch.autograd.grad((twin * weights).sum(), inputs, materialize_grads=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_sums_of_symbols_are_an_embedding_bag_in_values_and_gradient():
    asts = [star(5), chain(3), {"kind": ["n", "n", "m"], "name": "x"}]
    forest = compile_forest(asts)
    batch = forest.batch(np.arange(3), encoder_for(asts).vocabulary.ids(forest.symbols))
    table = torch.randn(40, 7, dtype=torch.float64, requires_grad=True)
    bags = functional.embedding_bag(
        batch.symbol, table, batch.symbol_ptr, mode="sum", include_last_offset=True
    )
    sums = SymbolSum.apply(table, batch)
    assert torch.equal(sums, bags)
    weights = torch.randn_like(bags)
    (found,), (expected,) = (torch.autograd.grad(x, table, weights) for x in (sums, bags))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert expected.any() and not found[batch.symbol.max() + 1 :].any()


def test_fixed_features_give_the_same_gradients_and_cost_none_of_their_own():
    encoder = encoder_for([star(5), chain(3)])
    forest = compile_forest([star(5), chain(3)])
    batch = forest.batch(np.arange(2), encoder.vocabulary.ids(forest.symbols))
    x = torch.randn(batch.num_nodes, 5, dtype=torch.float64)
    weights = inner_weights(encoder)
    fixed = torch.autograd.grad(ChildSumTreeLSTM.apply(x, *weights, batch).sum(), weights)
    x = x.clone().requires_grad_()
    learned = torch.autograd.grad(ChildSumTreeLSTM.apply(x, *weights, batch).sum(), [*weights, x])
    assert all(torch.equal(a, b) for a, b in zip(fixed, learned, strict=False))
    assert learned[-1].any()


# --- bfloat16 ----------------------------------------------------------------------------------


def test_bfloat16_comes_close_to_float32_and_is_not_float32():
    asts = [star(30), chain(20), {"kind": "n", "l": star(4), "r": chain(3)}]
    full, half = encoder_for(asts, torch.float32), encoder_for(asts, torch.float32)
    half.settings = dataclasses.replace(half.settings, precision="bfloat16")
    expected, found = full.encode(asts), half.encode(asts)
    assert found.dtype == torch.float32
    difference = float((found - expected).abs().max() / expected.abs().max())
    assert 1e-5 < difference < 0.03


def test_a_bfloat16_run_resumes_bit_identical_with_float32_weights(tiny, tmp_path):
    whole = train(tiny_config(tiny, tmp_path / "whole", precision="bfloat16"))
    for epochs in (1, 3):
        train(tiny_config(tiny, tmp_path / "parts", precision="bfloat16", epochs=epochs))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    encoder = load_encoder(tmp_path / "parts" / "final_model.pt")
    assert encoder.settings.precision == "bfloat16"
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    float32 = train(tiny_config(tiny, tmp_path / "float32"))
    assert float32.epochs != whole.epochs
    assert abs(float32.epochs[-1]["train_loss"] - whole.epochs[-1]["train_loss"]) < 0.02
