"""Fake quantization of a whole tree: what changes, what stays, and what the gradient sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xtc_jax.errors import UserError
from xtc_jax.quantize import (
    QUANTIZERS,
    ActivationSpec,
    FakeQuantized,
    FakeQuantizedTable,
    QuantRules,
    WeightSpec,
    binarize,
    dequantize,
    fake_quantize,
    quantize_weight,
    ternarize,
    weight_levels,
    with_input_ranges,
)

A8, STATIC = ActivationSpec(8), ActivationSpec(8, "static")
LINEAR = ("linear/weight", WeightSpec(1, activation=A8))
HALF = QuantRules((LINEAR, ("table/weight", WeightSpec(2, "row"))), rest="float16")
FULL = QuantRules(HALF.rules)
EVERY = [
    WeightSpec(bits, granularity, name) for name, widths in QUANTIZERS.items() for bits in widths for granularity in ("row", 4)
]


@pytest.fixture
def params(rng):
    shapes = {"linear": {"bias": (4,), "weight": (4, 8)}, "table": {"weight": (6, 8)}, "norm": {"weight": (8,)}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes, is_leaf=lambda x: type(x) is tuple
    )


def values(tree):
    """The float arrays a student computes with, in the order of the params."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, FakeQuantized))
    return [leaf.value if isinstance(leaf, FakeQuantized) else leaf for leaf in leaves]


def test_quantized_weights_lie_on_their_grid_and_the_rest_is_untouched(params):
    quantized = fake_quantize(params, FULL)
    linear = quantized["linear"]["weight"]
    assert isinstance(linear, FakeQuantized)
    assert (linear.activation, linear.training) == (A8, False)
    np.testing.assert_array_equal(linear.value, binarize(params["linear"]["weight"], 1))
    np.testing.assert_array_equal(linear.codes * linear.scale, linear.value)
    assert set(np.unique(linear.codes)) == {-1.0, 1.0}
    np.testing.assert_array_equal(quantized["table"]["weight"], ternarize(params["table"]["weight"], 6))
    np.testing.assert_array_equal(quantized["linear"]["bias"], params["linear"]["bias"])
    np.testing.assert_array_equal(quantized["norm"]["weight"], params["norm"]["weight"])


def test_the_arrays_of_the_result_are_those_of_the_params_one_for_one(params):
    before, after = jax.tree.leaves(params), values(fake_quantize(params, HALF))
    assert [(x.shape, x.dtype) for x in before] == [(x.shape, x.dtype) for x in after]


@pytest.mark.parametrize("rules", [FULL, HALF])
@pytest.mark.parametrize("jit", [False, True])
def test_the_gradient_reaches_every_latent_weight_unchanged(rng, params, rules, jit):
    cotangents = [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in jax.tree.leaves(params)]

    def inner_product(params):
        return sum(jnp.vdot(q, c) for q, c in zip(values(fake_quantize(params, rules)), cotangents, strict=True))

    gradient = (jax.jit if jit else lambda f: f)(jax.grad(inner_product))(params)
    for g, c in zip(jax.tree.leaves(gradient), cotangents, strict=True):
        np.testing.assert_array_equal(g, c)


normal_halves = st.floats(2.0**-14, 65504, width=32) | st.floats(-65504, -(2.0**-14), width=32) | st.just(0.0)


@pytest.mark.parametrize("jit", [False, True])
@settings(deadline=None, max_examples=15)
@given(norm=arrays(np.float32, (16,), elements=normal_halves))
def test_the_rest_is_rounded_as_numpy_rounds_to_float16(jit, norm):
    rules = QuantRules((("weight", WeightSpec(1)),), rest="float16")

    def rest(x):
        return fake_quantize({"norm": x, "weight": jnp.ones((2, 2))}, rules)["norm"]

    rounded = (jax.jit(rest) if jit else rest)(jnp.asarray(norm))
    assert rounded.dtype == jnp.float32
    np.testing.assert_array_equal(rounded, norm.astype(np.float16).astype(np.float32))


def test_rest_values_below_the_smallest_normal_half_become_zero():
    rules = QuantRules((("weight", WeightSpec(1)),), rest="float16")
    params = {"bias": jnp.array([2.0**-14, 2.0**-15, -(2.0**-24)]), "weight": jnp.ones((2, 2))}
    assert fake_quantize(params, rules)["bias"].tolist() == [2.0**-14, 0.0, 0.0]


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: f"{spec.quantizer} {spec.bits} {spec.granularity}")
def test_codes_scale_and_zero_point_of_a_spec_stand_for_the_fake_quantized_values(rng, spec):
    w = jnp.asarray(2 * rng.normal(size=(6, 8)), jnp.float32)
    value, levels = quantize_weight(w, spec)
    np.testing.assert_array_equal(dequantize(*levels), value)
    np.testing.assert_array_equal(fake_quantize({"weight": w}, QuantRules((("weight", spec),)))["weight"], value)
    assert levels.codes.shape == (6, 8)
    assert levels.scale.shape == (6 if spec.granularity == "row" else 12,)
    assert (levels.zero is not None) == (spec.quantizer == "asymmetric")


@pytest.mark.parametrize(("bits", "quantizer"), [(1, "binary"), (2, "ternary"), (3, "symmetric"), (8, "symmetric")])
def test_a_spec_that_names_no_quantizer_means_the_default_of_its_width(rng, bits, quantizer):
    w = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    named, unnamed = weight_levels(w, WeightSpec(bits, quantizer=quantizer)), weight_levels(w, WeightSpec(bits))
    np.testing.assert_array_equal(unnamed.codes, named.codes)


@pytest.mark.parametrize(
    ("spec", "whole"),
    [
        (WeightSpec(1, activation=A8), True),
        (WeightSpec(8, "row", activation=STATIC), True),
        (WeightSpec(1, 8, activation=A8), True),  # a group of 8 is a row here
        (WeightSpec(1, 4, activation=A8), False),
        (WeightSpec(2, 16, activation=A8), False),
        (WeightSpec(4, quantizer="asymmetric", activation=A8), False),
        (WeightSpec(1, activation=ActivationSpec(8, symmetric=False)), False),
    ],
)
def test_codes_travel_with_a_weight_exactly_where_integers_can_be_summed_before_they_are_scaled(params, spec, whole):
    linear = fake_quantize(params, QuantRules((("linear/weight", spec),)))["linear"]["weight"]
    assert ((linear.codes is not None), (linear.scale is not None)) == (whole, whole)


def test_a_rule_on_a_vector_is_refused(params):
    with pytest.raises(UserError, match=r"matches norm/weight, shape \(8,\): only matrices are quantized"):
        fake_quantize(params, QuantRules((("norm", WeightSpec(1)),)))


def test_a_rule_that_matches_no_parameter_is_refused(params):
    with pytest.raises(UserError, match="'pooler' matches no parameter"):
        fake_quantize(params, QuantRules((("pooler", WeightSpec(1)),)))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_and_scale_are_constants_to_the_gradient(params, bits):
    rules = QuantRules((("linear/weight", WeightSpec(bits, "row", activation=A8)),))

    def constants(params):
        linear = fake_quantize(params, rules)["linear"]["weight"]
        return jnp.sum(linear.codes) + jnp.sum(linear.scale)

    assert not np.any(jax.grad(constants)(params)["linear"]["weight"])


def test_how_the_input_is_quantized_is_static_so_that_a_jitted_student_knows_it(params):
    passed = jax.jit(lambda params: params)(fake_quantize(params, FULL, training=True))
    assert (passed["linear"]["weight"].activation, passed["linear"]["weight"].training) == (A8, True)


def test_each_weight_rounds_by_its_own_draw_and_only_where_its_rule_says_so(params):
    twins = {**params, "twin": params["linear"]}
    noisy, plain = WeightSpec(4, stochastic=True), WeightSpec(4)
    rules = QuantRules((("linear/weight", noisy), ("twin/weight", noisy), ("table/weight", plain)))
    nearest, drawn = fake_quantize(twins, rules), fake_quantize(twins, rules, key=jax.random.key(1))
    assert np.any(drawn["linear"]["weight"] != nearest["linear"]["weight"])
    assert np.any(drawn["linear"]["weight"] != drawn["twin"]["weight"])
    np.testing.assert_array_equal(drawn["table"]["weight"], nearest["table"]["weight"])
    again = fake_quantize(twins, rules, key=jax.random.key(1))
    np.testing.assert_array_equal(again["linear"]["weight"], drawn["linear"]["weight"])
    another = fake_quantize(twins, rules, key=jax.random.key(2))
    assert np.any(another["linear"]["weight"] != drawn["linear"]["weight"])


@pytest.mark.parametrize("ids", [[1, 4], [[5, 0], [5, 2]], list(range(6)) * 2], ids=["few", "repeated", "more than rows"])
@pytest.mark.parametrize("spec", [WeightSpec(1, "row"), WeightSpec(2, "row"), WeightSpec(8, "row")], ids="{0.bits}".format)
def test_a_table_in_training_quantizes_the_rows_it_looks_up_as_the_whole_would_be(params, spec, ids):
    rules = QuantRules((("table/weight", spec),))
    ids, weigh = jnp.asarray(ids), jnp.arange(8.0)
    table = fake_quantize(params, rules, training=True)["table"]["weight"]
    assert isinstance(table, FakeQuantizedTable)
    whole = fake_quantize(params, rules)["table"]["weight"]
    np.testing.assert_array_equal(table.rows(ids), whole[ids])
    np.testing.assert_array_equal(table.values(), whole)

    def looked_up(params, training):
        table = fake_quantize(params, rules, training=training)["table"]["weight"]
        return jnp.sum((table.rows(ids) if training else table[ids]) * weigh)

    of_rows, of_whole = (jax.grad(looked_up)(params, training)["table"]["weight"] for training in (True, False))
    np.testing.assert_array_equal(of_rows, of_whole)


def test_a_static_rule_puts_an_untouched_range_beside_its_weight_and_nowhere_else(params):
    rules = QuantRules((("linear/weight", WeightSpec(1, activation=STATIC)), ("table/weight", WeightSpec(2, "row"))))
    ranged = with_input_ranges(params, rules)
    assert ranged["linear"]["input_range"].tolist() == [0.0, 0.0]
    assert ranged["linear"]["input_range"].dtype == jnp.float32
    without = {**ranged, "linear": {name: leaf for name, leaf in ranged["linear"].items() if name != "input_range"}}
    assert jax.tree.structure(without) == jax.tree.structure(params)


def test_a_range_that_is_there_is_kept_and_one_that_no_rule_asks_for_is_taken_away(params):
    static, dynamic = (QuantRules((("linear/weight", WeightSpec(1, activation=a)),)) for a in (STATIC, A8))
    ranged = with_input_ranges(params, static)
    ranged["linear"]["input_range"] = jnp.array([-1.0, 2.0])
    assert with_input_ranges(ranged, static)["linear"]["input_range"].tolist() == [-1.0, 2.0]
    for rules in (dynamic, None):
        assert jax.tree.structure(with_input_ranges(ranged, rules)) == jax.tree.structure(params)


def test_two_halves_share_the_range_of_their_linear(params):
    split = {**params, "linear": {"weight": {"first": params["linear"]["weight"], "second": params["linear"]["weight"]}}}
    ranged = with_input_ranges(split, QuantRules((("linear/weight$", WeightSpec(1, activation=STATIC)),)))
    assert set(ranged["linear"]) == {"weight", "input_range"}
    assert set(ranged["linear"]["weight"]) == {"first", "second"}


def test_a_range_is_never_rounded_to_float16(params):
    rules = QuantRules((("linear/weight", WeightSpec(1, activation=STATIC)),), rest="float16")
    ranged = with_input_ranges(params, rules)
    ranged["linear"]["input_range"] = jnp.array([-0.1, 1e5])
    assert fake_quantize(ranged, rules)["linear"]["input_range"].tolist() == ranged["linear"]["input_range"].tolist()


@pytest.mark.parametrize(
    ("spec", "local"), [(spec, spec.quantizer != "binary_centred") for spec in EVERY if spec.granularity == "row"]
)
def test_a_table_trains_on_the_quantization_that_is_evaluated_and_packed_whatever_the_quantizer(params, spec, local):
    """A row of ``binary_centred`` depends on the mean of the whole table: quantized where it is read it has other signs."""
    rules, ids = QuantRules((("table/weight", spec),)), jnp.asarray([1, 4])
    params["table"]["weight"] += jnp.arange(6.0)[:, None] - 2.0
    table = fake_quantize(params, rules, training=True)["table"]["weight"]
    assert isinstance(table, FakeQuantizedTable) == local
    np.testing.assert_array_equal(
        table.rows(ids) if local else table[ids], fake_quantize(params, rules)["table"]["weight"][ids]
    )
