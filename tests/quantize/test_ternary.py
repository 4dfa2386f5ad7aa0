"""2-bit weights: a strict threshold, one scale, the mean magnitude above it; TernaryBERT's clip."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xtc_jax.quantize import WeightSpec, quantize_ternary, quantize_weight, ternarize, ternarize_clipped

integers = arrays(np.int16, (4, 16), elements=st.integers(-100, 100)).map(lambda w: w.astype(np.float32))


@settings(deadline=None, max_examples=25)
@given(integers, st.sampled_from([1, 2, 4, 8]))
def test_alpha_is_the_mean_magnitude_above_the_threshold(w, groups):
    codes, scale = quantize_ternary(jnp.asarray(w), groups)
    assert (codes.dtype, scale.dtype, scale.shape) == (jnp.int8, jnp.float32, (groups,))
    for group, code, alpha in zip(w.reshape(groups, -1), np.asarray(codes).reshape(groups, -1), scale, strict=True):
        magnitude = np.abs(group)
        above = magnitude > np.float32(0.7) * magnitude.mean()
        np.testing.assert_array_equal(code, np.sign(group) * above)
        assert float(alpha) == pytest.approx(magnitude[above].mean(dtype=np.float64) if above.any() else 0.0, rel=1e-7)


def test_a_weight_exactly_at_the_threshold_becomes_zero():
    codes, scale = quantize_ternary(jnp.array([[7.0, -13.0, 20.0, 0.0]]))
    assert codes.tolist() == [[0, -1, 1, 0]]
    assert scale.tolist() == [16.5]


def test_an_all_zero_group_has_scale_zero_and_not_the_nan_of_0_by_0():
    codes, scale = quantize_ternary(jnp.array([[0.0, 0.0], [1.0, -3.0]]), 2)
    assert codes.tolist() == [[0, 0], [0, -1]]
    assert scale.tolist() == [0.0, 3.0]


def test_normal_weights_give_42_percent_zeros_and_alpha_1_185_standard_deviations(rng):
    codes, scale = quantize_ternary(jnp.asarray(rng.normal(size=(1000, 1000)), jnp.float32))
    assert float(np.mean(np.asarray(codes) == 0)) == pytest.approx(0.423, abs=1e-3)
    assert float(scale[0]) == pytest.approx(1.185, abs=2e-3)


@pytest.mark.parametrize("groups", [1, 4])
def test_ternarybert_quantizes_the_clipped_weight(rng, groups):
    w = jnp.asarray(2 * rng.normal(size=(4, 16)), jnp.float32)
    assert float(jnp.max(jnp.abs(w))) > 2.5
    expected = ternarize(jnp.clip(w, -2.5, 2.5), groups)
    np.testing.assert_array_equal(ternarize_clipped(w, groups), expected)
    np.testing.assert_array_equal(quantize_weight(w, WeightSpec(2, 64 // groups, "ternary_clipped"))[0], expected)


def test_within_its_clip_ternarybert_is_the_plain_ternary(rng):
    w = jnp.asarray(0.05 * rng.normal(size=(4, 16)), jnp.float32)
    np.testing.assert_array_equal(ternarize_clipped(w, 4), ternarize(w, 4))
