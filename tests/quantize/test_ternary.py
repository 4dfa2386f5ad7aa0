"""2-bit weights: at most three levels per group, a strict threshold, a gradient that passes straight through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xtc_jax.quantize import quantize_ternary, ternarize

integers = arrays(np.int16, (4, 16), elements=st.integers(-100, 100)).map(lambda w: w.astype(np.float32))
groups_of_a_power_of_two = st.sampled_from([1, 2, 4, 8])
few = settings(deadline=None, max_examples=25)


@pytest.mark.shared
@pytest.mark.parametrize("groups", [1, 24, 8, 64])
def test_values_and_gradients_are_those_of_deepspeed(golden, groups):
    x, y, ct, gx = golden("ternary", 2, groups)
    value, vjp = jax.vjp(lambda w: ternarize(w, groups), x)
    np.testing.assert_allclose(value, y, rtol=0, atol=1e-6 * float(jnp.max(jnp.abs(y))))
    np.testing.assert_array_equal(vjp(ct)[0], gx)


@few
@given(integers, groups_of_a_power_of_two)
def test_alpha_is_the_mean_magnitude_above_the_threshold(w, groups):
    codes, scale = quantize_ternary(jnp.asarray(w), groups)
    assert codes.dtype == jnp.int8
    for group, code, alpha in zip(w.reshape(groups, -1), np.asarray(codes).reshape(groups, -1), scale, strict=True):
        magnitude = np.abs(group)
        above = magnitude > np.float32(0.7) * magnitude.mean()
        np.testing.assert_array_equal(code, np.sign(group) * above)
        assert float(alpha) == pytest.approx(magnitude[above].mean(dtype=np.float64) if above.any() else 0.0, rel=1e-7)


def test_a_weight_exactly_at_the_threshold_becomes_zero():
    codes, scale = quantize_ternary(jnp.array([[7.0, -13.0, 20.0, 0.0]]))
    assert codes.tolist() == [[0, -1, 1, 0]]
    assert scale.tolist() == [16.5]


@few
@given(integers, groups_of_a_power_of_two)
def test_ternarizing_twice_is_ternarizing_once(w, groups):
    codes, _ = quantize_ternary(jnp.asarray(w), groups)
    once = ternarize(jnp.asarray(w), groups)
    np.testing.assert_array_equal(quantize_ternary(once, groups)[0], codes)
    np.testing.assert_allclose(ternarize(once, groups), once, rtol=1e-6)


@few
@given(integers, st.sampled_from([1, 4, 64]), st.integers(-20, 20))
def test_scaling_a_weight_by_a_power_of_two_scales_the_result_exactly(w, groups, exponent):
    factor = 2.0**exponent
    np.testing.assert_array_equal(ternarize(jnp.asarray(w * factor), groups), ternarize(jnp.asarray(w), groups) * factor)


@pytest.mark.parametrize("groups", [1, 12, 36])
def test_every_group_has_exactly_three_levels_minus_alpha_zero_and_alpha(rng, groups):
    values = np.asarray(ternarize(jnp.asarray(rng.normal(size=(12, 768)), jnp.float32), groups))
    for group in values.reshape(groups, -1):
        low, middle, high = np.unique(group)
        assert low == -high < middle == 0


def test_an_all_zero_group_stays_zero_and_leaves_its_neighbour_alone():
    assert ternarize(jnp.array([[0.0, 0.0], [1.0, -3.0]]), 2).tolist() == [[0.0, 0.0], [0.0, -3.0]]


def test_a_constant_group_is_reproduced():
    assert ternarize(jnp.full((2, 4), -0.25), 2).tolist() == [[-0.25] * 4] * 2


@pytest.mark.parametrize("groups", [2, 6, 12])
def test_a_group_is_a_contiguous_run_in_torch_order_quantized_by_itself(rng, groups):
    w = jnp.asarray(rng.normal(size=(6, 16)), jnp.float32)
    alone = [ternarize(chunk, 1) for chunk in w.reshape(groups, -1)]
    np.testing.assert_allclose(ternarize(w, groups).reshape(groups, -1), jnp.stack(alone), rtol=2e-7)


@pytest.mark.parametrize("w", [np.zeros((4, 8)), np.ones((4, 8)), -np.ones((4, 8)), np.arange(32.0).reshape(4, 8) - 16])
def test_the_gradient_is_the_cotangent_itself(rng, w):
    ct = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    _, vjp = jax.vjp(lambda w: ternarize(w, 4), jnp.asarray(w, jnp.float32))
    np.testing.assert_array_equal(vjp(ct)[0], ct)


def test_normal_weights_give_42_percent_zeros_and_alpha_1_185_standard_deviations(rng):
    codes, scale = quantize_ternary(jnp.asarray(rng.normal(size=(1000, 1000)), jnp.float32))
    assert float(np.mean(np.asarray(codes) == 0)) == pytest.approx(0.423, abs=1e-3)
    assert float(scale[0]) == pytest.approx(1.185, abs=2e-3)
