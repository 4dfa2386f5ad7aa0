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
    FakeQuantized,
    QuantRules,
    WeightSpec,
    binarize,
    dequantize,
    fake_quantize,
    quantize_weight,
    ternarize,
)

HALF = QuantRules((("linear/weight", WeightSpec(1, "tensor", 8)), ("table/weight", WeightSpec(2, "row"))), rest="float16")
FULL = QuantRules(HALF.rules)


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
    assert linear.activation_bits == 8
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
@settings(deadline=None, max_examples=25)
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


@pytest.mark.parametrize("spec", [WeightSpec(1), WeightSpec(2), WeightSpec(1, "row"), WeightSpec(2, "row"), WeightSpec(2, 4)])
def test_the_codes_and_scales_of_a_spec_are_the_fake_quantized_values(rng, spec):
    w = jnp.asarray(rng.normal(size=(6, 8)), jnp.float32)
    value = fake_quantize({"weight": w}, QuantRules((("weight", spec),)))["weight"]
    np.testing.assert_array_equal(dequantize(*quantize_weight(w, spec)), value)


def test_a_rule_on_a_vector_is_refused(params):
    with pytest.raises(UserError, match=r"matches norm/weight, shape \(8,\): only matrices are quantized"):
        fake_quantize(params, QuantRules((("norm", WeightSpec(1)),)))


def test_a_rule_that_matches_no_parameter_is_refused(params):
    with pytest.raises(UserError, match="'pooler' matches no parameter"):
        fake_quantize(params, QuantRules((("pooler", WeightSpec(1)),)))


@pytest.mark.parametrize("bits", [1, 2])
def test_codes_and_scale_are_constants_to_the_gradient(params, bits):
    rules = QuantRules((("linear/weight", WeightSpec(bits, "row", 8)),))

    def constants(params):
        linear = fake_quantize(params, rules)["linear"]["weight"]
        return jnp.sum(linear.codes) + jnp.sum(linear.scale)

    assert not np.any(jax.grad(constants)(params)["linear"]["weight"])


def test_activation_bits_are_static_so_that_a_jitted_student_knows_them(params):
    passed = jax.jit(lambda params: params)(fake_quantize(params, FULL))
    assert passed["linear"]["weight"].activation_bits == 8
