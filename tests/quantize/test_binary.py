"""1-bit weights: one scale, the mean magnitude, and the sign, of the weight or of its distance from the mean."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xtc_jax.quantize import binarize, binarize_centred, quantize_binary

integers = arrays(np.int16, (4, 16), elements=st.integers(-100, 100)).map(lambda w: w.astype(np.float32))


@settings(deadline=None, max_examples=25)
@given(integers, st.sampled_from([1, 2, 4, 8]))
def test_the_scale_is_the_mean_magnitude_and_the_code_the_sign_with_zero_positive(w, groups):
    codes, scale = quantize_binary(jnp.asarray(w), groups)
    assert (codes.dtype, scale.dtype, scale.shape) == (jnp.int8, jnp.float32, (groups,))
    np.testing.assert_array_equal(scale, np.abs(w).reshape(groups, -1).mean(1, dtype=np.float64))
    np.testing.assert_array_equal(codes, np.where(w < 0, -1, 1))


def test_zero_of_either_sign_is_plus_m():
    assert binarize(jnp.array([[0.0, -0.0, 2.0, -2.0]]), 1).tolist() == [[1.0, 1.0, 1.0, -1.0]]


def test_the_scale_of_normal_weights_is_0_798_standard_deviations(rng):
    _, scale = quantize_binary(jnp.asarray(rng.normal(size=(1000, 1000)), jnp.float32))
    assert float(scale[0]) == pytest.approx(0.798, abs=1e-3)


@pytest.mark.parametrize("groups", [1, 6, 12])
def test_the_centred_sign_is_that_of_bit_the_mean_over_all_and_the_scale_per_group_of_the_uncentred(rng, groups):
    w = (rng.normal(size=(6, 16)) + np.arange(6)[:, None]).astype(np.float32)
    scale = np.repeat(np.abs(w).reshape(groups, -1).mean(1), 96 // groups).reshape(6, 16)
    expected = np.where(w >= w.mean(), 1, -1) * scale
    np.testing.assert_allclose(binarize_centred(jnp.asarray(w), groups), expected, rtol=1e-6)


def test_the_mean_itself_is_positive_and_rows_far_from_it_have_one_sign():
    assert binarize_centred(jnp.array([[1.0, 2.0, 3.0]]), 1).tolist() == [[-2.0, 2.0, 2.0]]
    assert binarize_centred(jnp.array([[5.0, 7.0], [-5.0, -7.0]]), 2).tolist() == [[6.0, 6.0], [-6.0, -6.0]]


def test_centring_changes_nothing_where_the_mean_is_zero():
    w = jnp.array([[1.0, -3.0, 0.5, 1.5]])
    np.testing.assert_array_equal(binarize_centred(w, 1), binarize(w, 1))
