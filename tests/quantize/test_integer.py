"""Integers of 3 to 8 bits: their grids, and stochastic rounding onto them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xtc_jax.quantize import WeightSpec, quantize_asymmetric, quantize_symmetric, weight_levels

weights = arrays(np.int32, (4, 16), elements=st.integers(-(10**6), 10**6)).map(lambda x: (x / 1000).astype(np.float32))
few = settings(deadline=None, max_examples=20)
widths = pytest.mark.parametrize("bits", range(3, 9))
QUANTIZERS = {"symmetric": quantize_symmetric, "asymmetric": quantize_asymmetric}
each = pytest.mark.parametrize("name", QUANTIZERS)


def symmetric(w, bits, granularity="tensor"):
    return weight_levels(jnp.asarray(w, jnp.float32), WeightSpec(bits, granularity, "symmetric"))


def asymmetric(w, bits, granularity="tensor"):
    return weight_levels(jnp.asarray(w, jnp.float32), WeightSpec(bits, granularity, "asymmetric"))


@widths
def test_the_negative_maximum_is_exact_and_the_positive_one_clips_one_step_below_itself(bits):
    codes, scale, zero = symmetric([[-6.0, 6.0, 0.0]], bits)
    assert codes.tolist() == [[-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0]]
    assert scale.tolist() == [6.0 / 2 ** (bits - 1)]
    assert zero is None


@widths
def test_the_minimum_is_exact_and_the_maximum_clips_one_step_below_itself(bits):
    codes, scale, zero = asymmetric([[-2.0, 6.0, 0.0, 3.0]], bits)
    assert codes.tolist() == [[0, 2**bits - 1, 2**bits // 4, 2**bits * 5 // 8]]
    assert scale.tolist() == [8 / 2**bits]
    assert zero.tolist() == [-(2**bits) / 4]


def test_the_zero_point_is_a_whole_number_so_that_zero_is_a_level(rng):
    _, scale, zero = asymmetric(rng.normal(size=(8, 16)) + 0.3, 4, "row")
    np.testing.assert_array_equal(zero, np.round(zero))
    assert scale.shape == zero.shape == (8,)
    values = np.asarray(asymmetric([[-1.0, 0.0, 0.4, 2.0]], 3).codes) + float(asymmetric([[-1.0, 0.0, 0.4, 2.0]], 3).zero[0])
    assert values[0, 1] == 0


def test_halves_round_to_even():
    codes, scale, _ = symmetric([[-128.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], 8)
    assert scale.tolist() == [1.0]
    assert codes.tolist() == [[-128, 0, 2, 2, 0, -2, -2]]
    codes, scale, zero = asymmetric([[0.0, 0.5, 1.5, 2.5, 256.0]], 8)
    assert (scale.tolist(), zero.tolist()) == ([1.0], [0.0])
    assert codes.tolist() == [[0, 0, 2, 2, 255]]


@pytest.mark.parametrize("bits", [3, 4, 8])
@few
@given(weights)
def test_the_symmetric_error_is_at_most_half_a_step_except_where_the_positive_maximum_clips(bits, w):
    step = np.abs(w).max(1, keepdims=True).astype(np.float64) / 2 ** (bits - 1)
    top = step * (2 ** (bits - 1) - 1)
    error = np.abs(np.asarray(quantize_symmetric(jnp.asarray(w), 4, bits), np.float64) - np.minimum(w, top))
    assert np.all(error <= step / 2 * (1 + 1e-4))


@pytest.mark.parametrize("bits", [3, 4, 8])
@few
@given(weights)
def test_the_asymmetric_error_is_at_most_half_a_step_and_at_the_ends_one_and_a_half(bits, w):
    # The zero point rounds: the grid begins up to half a step off the minimum, and ends one step before its own end.
    low, high = w.min(1, keepdims=True).astype(np.float64), w.max(1, keepdims=True).astype(np.float64)
    step = (high - low) / 2**bits
    error = np.abs(np.asarray(quantize_asymmetric(jnp.asarray(w), 4, bits), np.float64) - w)
    slack = 1e-4 * step + 2e-7 * np.abs(w).max()
    assert np.all(error <= 1.5 * step + slack)
    inside = (w > low + step / 2) & (w < high - 1.5 * step)
    assert np.all((error <= step / 2 + slack)[inside])


@each
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1.2e-38, 1e-30, 1e30])
def test_weights_of_any_size_stay_finite_and_no_larger_than_they_were(name, size):
    value = np.asarray(QUANTIZERS[name](jnp.array([[-size, size / 3, size]], jnp.float32), 1, 8))
    assert np.all(np.abs(value) <= np.float32(size) * (1 + 1e-6))


@pytest.mark.parametrize("value", [0.0, 3.3, -7.7e-3, 1e20])
def test_a_constant_group_is_exact_on_the_asymmetric_grid(value):
    codes, scale, zero = asymmetric([[value] * 3], 4)
    assert codes.tolist() == [[0, 0, 0]]
    assert (zero.tolist(), scale.tolist()) == ([np.sign(value)], [abs(np.float32(value))])


def test_weights_that_differ_in_their_last_bit_only_are_exact_to_that_bit():
    w = np.float32(1) + np.array([[0, 1, 1, 0]], np.float32) * np.finfo(np.float32).eps
    np.testing.assert_allclose(quantize_asymmetric(jnp.asarray(w), 1, 8), w, rtol=np.finfo(np.float32).eps)


KEYS = jax.random.split(jax.random.key(3), 1024)


@each
@pytest.mark.parametrize("bits", [3, 8])
def test_stochastic_rounding_is_right_on_average_where_the_grid_does_not_end(rng, name, bits):
    w = np.concatenate([[-1.0, 1.0], rng.uniform(-0.7, 0.7, 30)]).astype(np.float32)[None]
    draws = jax.jit(jax.vmap(lambda key: QUANTIZERS[name](jnp.asarray(w), 1, bits, key)))(KEYS)
    step = 2.0 / 2**bits
    # A draw has a standard deviation of at most half a step; five standard errors of the mean.
    error = np.abs(np.asarray(draws, np.float64).mean(0) - w)[0, 2:]
    assert np.all(error < 5 * step / 2 / np.sqrt(len(KEYS)))
    assert np.any(np.abs(np.asarray(QUANTIZERS[name](jnp.asarray(w), 1, bits)) - w)[0, 2:] > 0.3 * step)


@each
@pytest.mark.parametrize("bits", [3, 8])
def test_every_draw_is_one_of_the_two_neighbours_and_both_occur(rng, name, bits):
    w = np.concatenate([[-1.0, 1.0], rng.uniform(-0.7, 0.7, 30)]).astype(np.float32)[None]
    draws = np.asarray(jax.jit(jax.vmap(lambda key: QUANTIZERS[name](jnp.asarray(w), 1, bits, key)))(KEYS))[:, 0, 2:]
    step = np.float32(2.0 / 2**bits)
    below = np.floor(w[0, 2:] / step) * step
    assert np.all((draws == below) | (draws == below + step))
    assert np.mean(np.ptp(draws, axis=0) > 0) > 0.9


@each
def test_a_weight_on_the_grid_stays_where_it_is(name):
    w = jnp.array([[-8.0, 7.0, 3.0, 0.0, -5.0, 8.0]])
    draws = np.asarray(jax.jit(jax.vmap(lambda key: QUANTIZERS[name](w, 1, 4, key)))(KEYS))
    np.testing.assert_array_equal(np.unique(draws, axis=0), [[[-8.0, 7.0, 3.0, 0.0, -5.0, 7.0]]])


@each
def test_a_draw_depends_on_its_key_alone_and_without_one_rounding_is_to_the_nearest(rng, name):
    w = jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)
    draw = jax.jit(lambda key: QUANTIZERS[name](w, 8, 4, key))
    np.testing.assert_array_equal(draw(KEYS[0]), draw(KEYS[0]))
    assert np.any(draw(KEYS[0]) != draw(KEYS[1]))
    spec = WeightSpec(4, "row", name, stochastic=True)
    nearest = weight_levels(w, WeightSpec(4, "row", name)).codes
    np.testing.assert_array_equal(weight_levels(w, spec).codes, nearest)
    assert np.any(weight_levels(w, spec, KEYS[0]).codes != nearest)
    np.testing.assert_array_equal(weight_levels(w, WeightSpec(4, "row", name), KEYS[0]).codes, nearest)


@each
def test_the_gradient_passes_a_stochastic_rounding_unchanged(rng, name):
    w, ct = (jnp.asarray(rng.normal(size=(4, 8)), jnp.float32) for _ in range(2))
    _, vjp = jax.vjp(lambda w: QUANTIZERS[name](w, 4, 3, KEYS[0]), w)
    np.testing.assert_array_equal(vjp(ct)[0], ct)
