"""Activations: symmetric integers, one scale per token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xtc_jax.quantize import quantize_activations, quantize_symmetric

tokens = arrays(np.int32, (4, 16), elements=st.integers(-(10**6), 10**6)).map(lambda x: (x / 1000).astype(np.float32))
few = settings(deadline=None, max_examples=25)


@pytest.mark.shared
@pytest.mark.parametrize("groups", [1, 24, 8, 64])
@pytest.mark.parametrize("bits", [8, 4, 3])
def test_values_and_gradients_are_those_of_deepspeed(golden, bits, groups):
    x, y, ct, gx = (array.reshape(groups, -1) for array in golden("sym", bits, groups))
    value, vjp = jax.vjp(lambda x: quantize_activations(x, bits), x)
    np.testing.assert_allclose(value, y, rtol=0, atol=1e-6 * float(jnp.max(jnp.abs(y))))
    np.testing.assert_array_equal(vjp(ct)[0], gx)


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -128, 127), (4, -8, 7), (3, -4, 3)])
def test_the_negative_maximum_is_exact_and_the_positive_one_clips_one_step_below_itself(bits, low, high):
    codes, scale = quantize_symmetric(jnp.array([[-6.0, 6.0, 0.0]]), bits)
    assert codes.tolist() == [[low, high, 0]]
    assert scale.tolist() == [[6.0 / 2 ** (bits - 1)]]


def test_halves_round_to_even():
    codes, scale = quantize_symmetric(jnp.array([-128.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]), 8)
    assert scale.tolist() == [1.0]
    assert codes.tolist() == [-128, 0, 2, 2, 0, -2, -2]


@few
@given(tokens, st.sampled_from([3, 4, 8]))
def test_the_error_is_at_most_half_a_step_except_where_the_positive_maximum_clips(x, bits):
    step = np.abs(x).max(1, keepdims=True).astype(np.float64) / 2 ** (bits - 1)
    top = step * (2 ** (bits - 1) - 1)
    error = np.abs(np.asarray(quantize_activations(jnp.asarray(x), bits), np.float64) - np.minimum(x, top))
    assert np.all(error <= step / 2 * (1 + 1e-4))


@few
@given(tokens, st.sampled_from([4, 8]))
def test_a_token_is_quantized_as_if_it_were_alone(x, bits):
    together = quantize_activations(jnp.asarray(x), bits)
    np.testing.assert_array_equal(together[2], quantize_activations(jnp.asarray(x[2]), bits))


@few
@given(tokens)
def test_quantizing_twice_is_quantizing_once_where_the_extreme_is_negative(x):
    x = np.concatenate([x, -np.abs(x).max(1, keepdims=True)], axis=1)
    once = quantize_activations(jnp.asarray(x), 8)
    np.testing.assert_array_equal(quantize_activations(once, 8), once)


@few
@given(arrays(np.int16, (4, 16), elements=st.integers(-1000, 1000)), st.integers(-20, 20))
def test_scaling_by_a_power_of_two_scales_the_result_exactly(x, exponent):
    x, factor = jnp.asarray(x, jnp.float32), 2.0**exponent
    np.testing.assert_array_equal(quantize_activations(x * factor, 8), quantize_activations(x, 8) * factor)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_zero_token_has_scale_zero_codes_zero_and_the_identity_gradient(rng, bits):
    x = jnp.asarray(rng.normal(size=(2, 3, 8)), jnp.float32).at[1, 1].set(0)
    ct = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    with jax.debug_nans(True):
        codes, scale = quantize_symmetric(x, bits)
    assert codes.dtype == jnp.int8
    assert codes[1, 1].tolist() == [0] * 8
    assert scale[1, 1].tolist() == [0.0]
    value, vjp = jax.vjp(lambda x: quantize_activations(x, bits), x)
    assert value[1, 1].tolist() == [0.0] * 8
    assert float(jnp.min(jnp.max(jnp.abs(value.at[1, 1].set(1)), axis=-1))) > 0
    np.testing.assert_array_equal(vjp(ct)[0], ct)


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1.2e-38, 1e-30, 1e30])
def test_tokens_of_any_size_stay_finite_and_no_larger_than_they_were(size):
    x = jnp.array([[-size, size / 3, size]], jnp.float32)
    value = np.asarray(quantize_activations(x, 8))
    assert np.all(np.abs(value) <= np.float32(size))
