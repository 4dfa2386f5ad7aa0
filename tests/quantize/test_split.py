"""Ternary weight splitting: two binary weights whose sum is the ternary one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from xtc_jax.bert import apply
from xtc_jax.errors import UserError
from xtc_jax.params import named_leaves
from xtc_jax.quantize import (
    QuantRules,
    WeightSpec,
    binarize,
    dequantize,
    fake_quantize,
    named_rules,
    split,
    split_ternary,
    weight_levels,
    with_extra_rules,
)

each_scale = pytest.mark.parametrize("granularity", ["tensor", "row", 8])


def halves(w, granularity="tensor", quantizer="ternary"):
    """Levels of ``w``, and its halves."""
    levels = weight_levels(jnp.asarray(w), WeightSpec(2, granularity, quantizer))
    return levels, split_ternary(w, np.asarray(levels.codes), np.asarray(levels.scale))


@each_scale
def test_the_binarized_halves_sum_to_the_ternary_weight_and_the_halves_to_the_latent_one(rng, granularity):
    w = (0.04 * rng.normal(size=(12, 32))).astype(np.float32)
    levels, (first, second) = halves(w, granularity)
    assert first.dtype == second.dtype == np.float32
    groups = levels.scale.shape[0]
    total = binarize(jnp.asarray(first), groups) + binarize(jnp.asarray(second), groups)
    np.testing.assert_allclose(total, dequantize(*levels), rtol=0, atol=1e-6 * float(jnp.max(levels.scale)))
    np.testing.assert_allclose(first + second, w, rtol=1e-6, atol=1e-7 * np.abs(w).max())
    for half in (first, second):
        np.testing.assert_allclose(np.abs(half).reshape(groups, -1).mean(1), levels.scale / 2, rtol=1e-6)


def test_numbers():
    # mean |w| = 2, so the threshold is 1.4: Z = {1, -1}, alpha = 3, b = (12 - 8) / 4 = 1, a = (6 + 3 - 3) / 12
    _, (first, second) = halves(np.array([[3.0, 1.0, -1.0, -3.0]], np.float32))
    assert first.tolist() == [[1.5, 2.0, 1.0, -1.5]]
    assert second.tolist() == [[1.5, -1.0, -2.0, -1.5]]
    assert binarize(jnp.asarray(first), 1).tolist() == [[1.5, 1.5, 1.5, -1.5]]
    assert binarize(jnp.asarray(second), 1).tolist() == [[1.5, -1.5, -1.5, -1.5]]


def test_latent_zeros_split_into_opposite_halves(rng):
    w = rng.normal(size=(4, 16)).astype(np.float32)
    w[:, ::3] = 0
    levels, (first, second) = halves(w, "row")
    np.testing.assert_array_equal(first[:, ::3], -second[:, ::3])
    assert np.all(first[:, ::3] > 0)
    total = binarize(jnp.asarray(first), 4) + binarize(jnp.asarray(second), 4)
    np.testing.assert_allclose(total, dequantize(*levels), rtol=0, atol=1e-6)


def test_an_all_zero_row_splits_into_zeros_and_leaves_the_others_alone(rng):
    w = rng.normal(size=(3, 16)).astype(np.float32)
    w[1] = 0
    _, (first, second) = halves(w, "row")
    assert not np.any(first[1])
    assert not np.any(second[1])
    for row in (0, 2):
        alone = halves(w[row : row + 1])[1]
        np.testing.assert_allclose([first[row], second[row]], [alone[0][0], alone[1][0]], rtol=1e-6)


def test_a_group_without_ternary_zeros_splits_into_equal_halves():
    w = np.array([[1.0, -1.25, 1.5, -1.0]], np.float32)
    levels, (first, second) = halves(w)
    assert np.all(levels.codes != 0)
    np.testing.assert_array_equal(first, w / 2)
    np.testing.assert_array_equal(second, w / 2)


@each_scale
def test_a_clipped_ternary_weight_is_split_as_it_is_clipped(rng, granularity):
    w = (2 * rng.normal(size=(4, 32))).astype(np.float32)
    assert np.abs(w).max() > 2.5
    spec = WeightSpec(2, granularity, "ternary_clipped")
    made = split({"weight": jnp.asarray(w)}, QuantRules((("weight", spec),)))["weight"]
    levels = weight_levels(jnp.asarray(w), spec)
    total = sum(binarize(jnp.asarray(made[half]), levels.scale.shape[0]) for half in ("first", "second"))
    np.testing.assert_allclose(total, dequantize(*levels), rtol=0, atol=3e-6)
    np.testing.assert_allclose(made["first"] + made["second"], np.clip(w, -2.5, 2.5), rtol=1e-6, atol=1e-6)


# One weight of 20 lifts the threshold to 1.03: what lies below it sums to 39, and a = (20 - 39) / 40.
UNLIKE = np.array([[20.0] + [1.0] * 39], np.float32)


@pytest.mark.parametrize("w", [UNLIKE, -UNLIKE])
def test_a_group_that_has_no_solution_is_refused(w):
    with pytest.raises(ValueError, match=r"^a group cannot be split: its weights are too unlike a ternary one$"):
        halves(w)


def test_a_weight_that_cannot_be_split_is_refused_by_name():
    params = {"good": {"weight": jnp.eye(4)}, "odd": {"weight": jnp.asarray(UNLIKE)}}
    with pytest.raises(UserError, match=r"^odd/weight: a group cannot be split"):
        split(params, QuantRules((("weight", WeightSpec(2, "row")),)))


CONFIG = toy.shape(layers=1)
PARAMS = toy.params(CONFIG)
BATCH = [jnp.asarray(np.random.default_rng(5).integers(0, high, (6, 12)), jnp.int32) for high in (CONFIG.vocab_size, 2)]


@jax.jit
def logits(params):
    return apply(CONFIG, params, *BATCH, jnp.ones((6, 12), jnp.int32)).logits


@pytest.mark.parametrize(
    ("name", "activation", "options"),
    [
        ("deepspeed", 8, {}),
        ("paper-50x", 8, {}),
        ("deepspeed", 4, {"granularity": "row"}),
        ("deepspeed", None, {"granularity": 16}),
    ],
)
def test_a_split_bert_computes_at_one_bit_what_it_computed_at_two(name, activation, options):
    two, one = (named_rules(name, bits, activation, **options) for bits in (2, 1))
    before = logits(fake_quantize(PARAMS, two))
    after = logits(fake_quantize(split(PARAMS, two), one))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
    assert float(jnp.std(before)) > 0.01


def test_exactly_the_ternary_weights_are_split_and_all_else_is_as_it_was():
    rules = with_extra_rules(named_rules("deepspeed", 2), ["query/weight=1", "key/weight=32"])
    before, after = named_leaves(PARAMS), named_leaves(split(PARAMS, rules))
    halved = {path.rpartition("/")[0] for path in after if path.endswith(("/first", "/second"))}
    assert "embeddings/word_embeddings/weight" in halved
    assert len(halved) == 1 + 4
    assert {path for path in halved if "query" in path or "key" in path} == set()
    for path in before.keys() - halved:
        np.testing.assert_array_equal(after[path], before[path])
    assert all(after[f"{path}/{half}"].shape == before[path].shape for path in halved for half in ("first", "second"))


def test_split_weights_can_be_split_no_further_but_are_quantized_by_the_rule_of_the_whole():
    made = split(PARAMS, named_rules("deepspeed", 2))
    quantized = fake_quantize(made, named_rules("deepspeed", 1))
    words = quantized["embeddings"]["word_embeddings"]["weight"]
    assert {half: len(np.unique(np.abs(words[half][5]))) for half in words} == {"first": 1, "second": 1}
