from __future__ import annotations

import copy
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from asts import SMALL, chain, encoder_for, star, trees
from hypothesis import given, settings
from hypothesis import strategies as st

from treelstm.config import ConfigError, EncoderSettings
from treelstm.model.child_sum import ChildSumTreeLSTM
from treelstm.model.encoder import NoThreshold, TreeEncoder
from treelstm.trees.builder import TreeError, compile_forest


def gradients(encoder: TreeEncoder, output: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of a loss that weighs every output differently."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    found = torch.autograd.grad((output * weights).sum(), parameters, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def batched(encoder: TreeEncoder, asts: list[Any], share: bool = True) -> torch.Tensor:
    of = encoder.settings
    forest = compile_forest(asts, of.ignored_keys, share, of.child_order)
    trees, ids = np.arange(len(forest)), encoder.vocabulary.ids(forest.symbols)
    return encoder(encoder.batch(forest, trees, ids))


def assert_equal_to_reference(asts: list[dict[str, Any]], child_order: bool = False) -> None:
    encoder = encoder_for(asts, child_order=child_order)
    ours = batched(encoder, asts)
    expected = torch.stack([reference.encode(encoder, ast) for ast in asts])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-9)
    ours_by, expected_by = gradients(encoder, ours), gradients(encoder, expected)
    for name, gradient in expected_by.items():
        torch.testing.assert_close(ours_by[name], gradient, rtol=1e-5, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=5), st.booleans())
def test_random_trees_equal_the_recursive_reference_in_outputs_and_gradients(asts, child_order):
    assert_equal_to_reference(asts, child_order)


@pytest.mark.parametrize(
    "asts",
    [
        [{"kind": "alone"}],
        [chain(60)],
        [star(1000)],
        [{"kind": "n", "l": chain(3), "r": chain(3), "items": [chain(3), chain(3), {"kind": "x"}]}],
        [chain(5), star(9), chain(5), {"kind": "alone"}],
    ],
    ids=["single node", "chain", "star of 1,000", "repeated subtrees", "mixed"],
)
def test_special_shapes_equal_the_recursive_reference(asts):
    assert_equal_to_reference(asts)


def test_real_trees_equal_the_recursive_reference_in_float32(real: Path):
    with (real / "training" / "positive_pairs.jsonl").open(encoding="utf-8") as file:
        asts = [json.loads(line)["ast1"]["ast"] for line in itertools.islice(file, 40)]
    encoder = encoder_for(asts, torch.float32)
    ours = batched(encoder, asts)
    expected = torch.stack([reference.encode(encoder, ast) for ast in asts])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    ours_by, expected_by = gradients(encoder, ours), gradients(encoder, expected)
    for name, gradient in expected_by.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(ours_by[name], gradient, rtol=1e-5, atol=1e-5 * scale)


def test_the_hand_written_gradient_passes_gradcheck():
    asts = [star(3), chain(3), {"kind": "n", "l": chain(1), "r": chain(1)}]
    encoder = encoder_for(asts)
    forest = compile_forest(asts)
    batch = forest.batch(np.arange(3), encoder.vocabulary.ids(forest.symbols))
    x = torch.randn(batch.num_nodes, 5, dtype=torch.float64, requires_grad=True)
    weights = (
        encoder.input_weight,
        encoder.input_bias,
        encoder.sum_weight,
        encoder.forget_weight,
    )
    assert torch.autograd.gradcheck(ChildSumTreeLSTM.apply, (x, *weights, batch))


@settings(max_examples=30, deadline=None)
@given(st.lists(trees(), min_size=2, max_size=6))
def test_a_batch_of_one_equals_a_batch_of_many(asts):
    encoder = encoder_for(asts)
    alone = torch.cat([encoder.encode([ast]) for ast in asts])
    torch.testing.assert_close(encoder.encode(asts), alone, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=4))
def test_sharing_subtrees_changes_neither_outputs_nor_gradients(asts):
    asts = asts + asts[:1]
    encoder = encoder_for(asts)
    shared, unshared = batched(encoder, asts), batched(encoder, asts, share=False)
    torch.testing.assert_close(shared, unshared, rtol=1e-9, atol=1e-12)
    shared_by, unshared_by = gradients(encoder, shared), gradients(encoder, unshared)
    for name, gradient in unshared_by.items():
        torch.testing.assert_close(shared_by[name], gradient, rtol=1e-9, atol=1e-12)


def shuffled(value: Any, random: Any) -> Any:
    """The same AST with its keys and the objects of its lists in another order."""
    if isinstance(value, list):
        return random.sample([shuffled(item, random) for item in value], len(value))
    if isinstance(value, dict):
        return {key: shuffled(value[key], random) for key in random.sample(list(value), len(value))}
    return value


@settings(max_examples=40, deadline=None)
@given(trees(), st.randoms(use_true_random=False))
def test_order_of_siblings_and_keys_does_not_change_a_bit(ast, random):
    encoder = encoder_for([ast], torch.float32)
    assert torch.equal(encoder.encode([ast]), encoder.encode([shuffled(ast, random)]))


@settings(max_examples=30, deadline=None)
@given(st.lists(trees(), min_size=2, max_size=6, unique_by=lambda ast: json.dumps(ast, sort_keys=True)))
def test_order_of_trees_permutes_the_encodings(asts):
    encoder = encoder_for(asts)
    backwards = encoder.encode(asts[::-1]).flip(0)
    torch.testing.assert_close(encoder.encode(asts), backwards, rtol=1e-9, atol=1e-12)


SENTENCE = {
    "tipo": "frazo",
    "subjekto": {
        "kerno": {"radiko": "hund", "kazo": "nominativo"},
        "priskriboj": [{"radiko": "grand"}, {"radiko": "brun"}],
    },
    "verbo": {"radiko": "vid", "tempo": "is"},
    "objekto": {"kerno": {"radiko": "kat", "kazo": "akuzativo"}},
}


def changes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], str]]:
    """Paths of all symbols of an AST: scalars, and the keys that objects hang under."""
    found: list[tuple[tuple[Any, ...], str]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            found += changes(item, (*path, key))
            if isinstance(key, str):
                found.append(((*path, key), "role"))
        else:
            found.append(((*path, key), "value"))
    return found


@pytest.mark.parametrize(("path", "what"), changes(SENTENCE), ids=str)
def test_changing_any_symbol_of_any_node_changes_the_encoding(path, what):
    other = copy.deepcopy(SENTENCE)
    holder: Any = other
    for key in path[:-1]:
        holder = holder[key]
    if what == "role":
        holder["alia"] = holder.pop(path[-1])
    else:
        holder[path[-1]] = "alia"
    encoder = encoder_for([SENTENCE, other])
    first, second = encoder.encode([SENTENCE, other])
    assert (first - second).norm() > 1e-4 * first.norm()


def test_exchanging_subject_and_object_changes_the_encoding():
    other = SENTENCE | {"subjekto": SENTENCE["objekto"], "objekto": SENTENCE["subjekto"]}
    first, second = encoder_for([SENTENCE]).encode([SENTENCE, other])
    assert (first - second).norm() > 1e-4 * first.norm()


@pytest.mark.parametrize("ast", [chain(5_000), star(50_000)], ids=["5,000 deep", "50,000 wide"])
def test_deep_and_wide_trees_encode_and_train_in_reasonable_time(ast):
    encoder = encoder_for([ast], torch.float32)
    began = time.monotonic()
    gradients(encoder, batched(encoder, [ast]))
    assert torch.isfinite(encoder.encode([ast])).all()
    assert time.monotonic() - began < 20


def test_weights_come_from_the_seed_and_leave_global_random_state_alone():
    before = torch.random.get_rng_state()
    first, second = encoder_for([SENTENCE]), encoder_for([SENTENCE])
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = TreeEncoder(first.vocabulary, SMALL, seed=1)
    assert not torch.equal(first.embedding.float(), other.embedding)


def test_encoding_no_trees_gives_no_rows():
    assert encoder_for([SENTENCE]).encode([]).shape == (0, 4)


def test_distance_and_is_similar_answer_for_two_asts():
    other = SENTENCE | {"subjekto": SENTENCE["objekto"], "objekto": SENTENCE["subjekto"]}
    encoder = encoder_for([SENTENCE, other], torch.float32)
    first, second = encoder.encode([SENTENCE, other])
    distance = encoder.distance(SENTENCE, other)
    assert isinstance(distance, float) and distance == pytest.approx(float((first - second).norm()))
    assert encoder.distance(SENTENCE, SENTENCE) == 0.0
    with pytest.raises(NoThreshold, match=r"never validated\. Train it, or set \.threshold"):
        encoder.is_similar(SENTENCE, other)
    encoder.threshold = 2 * distance
    assert encoder.is_similar(SENTENCE, other) is True
    encoder.threshold = distance
    assert encoder.is_similar(SENTENCE, other) is False


@pytest.mark.parametrize("asts", [SENTENCE, "La hundo kuras."], ids=["one tree", "a text"])
def test_one_tree_in_the_place_of_a_list_is_told_how_to_write_it(asts):
    with pytest.raises(TreeError, match=r"takes a list .* one tree, write encode\(\[tree\]\)"):
        encoder_for([SENTENCE]).encode(asts)


def test_a_bag_alone_is_an_encoder_without_a_tree():
    asts = [star(5), chain(3), star(5)]
    settings = EncoderSettings(embedding_dim=5, hidden_dim=0, output_dim=4, ignored_keys=())
    encoder = TreeEncoder(encoder_for(asts).vocabulary, settings)
    assert {*encoder.state_dict()} == {"embedding", "bag_weight", "gain"}
    first, second, third = encoder.encode(asts)
    assert torch.equal(first, third) and not torch.equal(first, second)
    # Other structure, the same symbols: no difference that a bag could see.
    twice = {"kind": "n", "l": {"kind": "x"}, "r": {"kind": "n"}}
    once = {"kind": "n", "l": {"kind": "n"}, "r": {"kind": "x"}}
    assert encoder.distance(twice, once) == pytest.approx(0, abs=1e-6)


def test_an_encoder_needs_a_tree_or_a_bag():
    with pytest.raises(ConfigError, match=r"hidden_dim is 0 .* bag_of_symbols"):
        EncoderSettings(hidden_dim=0, bag_of_symbols=False)


def test_two_trees_that_share_a_word_which_training_did_not_know_are_nearer_than_two_that_do_not():
    encoder = encoder_for([{"kind": "x", "word": f"w{k}"} for k in range(9)], torch.float32)
    new = [{"kind": "x", "word": word} for word in ("cat", "cat", "dog")]
    again = TreeEncoder(encoder.vocabulary, encoder.settings)
    again.load_state_dict(encoder.state_dict())
    first, same, other = encoder.encode(new)
    assert torch.equal(first, same) and torch.dist(first, other) > 0.05
    for alone in (again.encode([new[2]]), encoder.encode(new[::-1])):  # made from the text alone
        torch.testing.assert_close(alone[0], other)


def test_without_a_bag_words_that_training_did_not_know_are_one_symbol_as_ever():
    settings = EncoderSettings(**{**SMALL.to_dict(), "bag_of_symbols": False})
    encoder = TreeEncoder(encoder_for([{"word": "a"}, {"word": "b"}]).vocabulary, settings)
    assert not {"bag_weight", "gain"} & {*encoder.state_dict()}
    assert encoder.distance({"word": "cat"}, {"word": "dog"}) == pytest.approx(0, abs=1e-6)
