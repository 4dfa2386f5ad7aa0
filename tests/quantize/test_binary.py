"""1-bit weights: two levels per group, one scale, a gradient that passes straight through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xtc_jax.quantize import binarize, quantize_binary

integers = arrays(np.int16, (4, 16), elements=st.integers(-100, 100)).map(lambda w: w.astype(np.float32))
groups_of_a_power_of_two = st.sampled_from([1, 2, 4, 8])
few = settings(deadline=None, max_examples=25)


@pytest.mark.shared
@pytest.mark.parametrize("groups", [1, 24, 8, 64])
def test_values_and_gradients_are_those_of_deepspeed(golden, groups):
    x, y, ct, gx = golden("binary", 1, groups)
    value, vjp = jax.vjp(lambda w: binarize(w, groups), x)
    np.testing.assert_allclose(value, y, rtol=0, atol=1e-6 * float(jnp.max(jnp.abs(y))))
    np.testing.assert_array_equal(vjp(ct)[0], gx)


@few
@given(integers, groups_of_a_power_of_two)
def test_the_scale_is_the_mean_magnitude_and_the_code_the_sign_with_zero_positive(w, groups):
    codes, scale = quantize_binary(jnp.asarray(w), groups)
    assert codes.dtype == jnp.int8
    np.testing.assert_array_equal(scale, np.abs(w).reshape(groups, -1).mean(1, dtype=np.float64))
    np.testing.assert_array_equal(codes, np.where(w < 0, -1, 1))


@few
@given(integers, groups_of_a_power_of_two)
def test_binarizing_twice_is_binarizing_once(w, groups):
    once = binarize(jnp.asarray(w), groups)
    np.testing.assert_array_equal(binarize(once, groups), once)


@few
@given(integers, st.sampled_from([1, 4, 64]), st.integers(-20, 20))
def test_scaling_a_weight_by_a_power_of_two_scales_the_result_exactly(w, groups, exponent):
    factor = 2.0**exponent
    np.testing.assert_array_equal(binarize(jnp.asarray(w * factor), groups), binarize(jnp.asarray(w), groups) * factor)


def test_zero_of_either_sign_is_plus_m():
    assert binarize(jnp.array([[0.0, -0.0, 2.0, -2.0]]), 1).tolist() == [[1.0, 1.0, 1.0, -1.0]]


@pytest.mark.parametrize("groups", [1, 12, 36])
def test_every_group_has_exactly_two_levels_of_equal_magnitude(rng, groups):
    values = np.asarray(binarize(jnp.asarray(rng.normal(size=(12, 768)), jnp.float32), groups))
    for group in values.reshape(groups, -1):
        low, high = np.unique(group)
        assert low == -high < 0


def test_an_all_zero_group_stays_zero_and_leaves_its_neighbour_alone():
    assert binarize(jnp.array([[0.0, 0.0], [1.0, -3.0]]), 2).tolist() == [[0.0, 0.0], [2.0, -2.0]]


@pytest.mark.parametrize("groups", [2, 6, 12])
def test_a_group_is_a_contiguous_run_in_torch_order_quantized_by_itself(rng, groups):
    w = jnp.asarray(rng.normal(size=(6, 16)), jnp.float32)
    alone = [binarize(chunk, 1) for chunk in w.reshape(groups, -1)]
    np.testing.assert_allclose(binarize(w, groups).reshape(groups, -1), jnp.stack(alone), rtol=2e-7)


@pytest.mark.parametrize("w", [np.zeros((4, 8)), np.ones((4, 8)), -np.ones((4, 8)), np.arange(32.0).reshape(4, 8) - 16])
def test_the_gradient_is_the_cotangent_itself(rng, w):
    ct = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    _, vjp = jax.vjp(lambda w: binarize(w, 4), jnp.asarray(w, jnp.float32))
    np.testing.assert_array_equal(vjp(ct)[0], ct)


def test_the_scale_of_normal_weights_is_0_798_standard_deviations(rng):
    _, scale = quantize_binary(jnp.asarray(rng.normal(size=(1000, 1000)), jnp.float32))
    assert float(scale[0]) == pytest.approx(0.798, abs=1e-3)
