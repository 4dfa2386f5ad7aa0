"""What holds for every quantizer of weights: levels, groups, scales, gradients, and arrays that are hard to quantize."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xtc_jax.quantize import binarize, binarize_centred, quantize_asymmetric, quantize_symmetric, ternarize, ternarize_clipped


def integer(quantizer, bits):
    return lambda w, groups: quantizer(w, groups, bits)


QUANTIZERS = {
    "binary": (binarize, 2),
    "binary_centred": (binarize_centred, 2),
    "ternary": (ternarize, 3),
    "ternary_clipped": (ternarize_clipped, 3),
    **{f"symmetric {bits}": (integer(quantize_symmetric, bits), 2**bits) for bits in (3, 8)},
    **{f"asymmetric {bits}": (integer(quantize_asymmetric, bits), 2**bits) for bits in (3, 8)},
}
every = pytest.mark.parametrize("name", QUANTIZERS)
# The scale of TernaryBERT's clip is absolute, so these claims are not for it.
unclipped = pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "ternary_clipped"])
# A centred weight takes the sign from the mean of the whole tensor, so its groups are not alone.
by_group = pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "binary_centred"])
integers = arrays(np.int16, (4, 16), elements=st.integers(-100, 100)).map(lambda w: w.astype(np.float32))
group_counts = st.sampled_from([1, 4, 8])
few = settings(deadline=None, max_examples=20)
# Compiled once for each count of groups; the four-by-sixteen weights of the properties are all alike.
compiled = {name: jax.jit(quantizer, static_argnums=1) for name, (quantizer, _) in QUANTIZERS.items()}


@every
@few
@given(integers, group_counts)
def test_a_group_has_at_most_its_levels(name, w, groups):
    value = np.asarray(compiled[name](w, groups))
    assert max(len(np.unique(group)) for group in value.reshape(groups, -1)) <= QUANTIZERS[name][1]


@pytest.mark.parametrize("name", ["binary", "binary_centred", "ternary", "ternary_clipped"])
@pytest.mark.parametrize("groups", [1, 12, 36])
def test_a_group_of_many_normal_weights_has_two_levels_or_three_exactly_symmetric_about_0(rng, name, groups):
    value = np.asarray(compiled[name](jnp.asarray(rng.normal(size=(12, 768)), jnp.float32), groups))
    for group in value.reshape(groups, -1):
        low, *middle, high = np.unique(group)
        assert low == -high < 0
        assert middle == ([0] if name.startswith("ternary") else [])


def test_a_large_matrix_keeps_exactly_two_values_through_the_straight_through_estimator(rng):
    # w + stop_gradient(q - w) would have six: it is not exactly q in float32.
    assert np.unique(compiled["binary"](rng.normal(size=(768, 768)).astype(np.float32), 1)).size == 2


@unclipped
@few
@given(integers, group_counts, st.integers(-20, 20))
def test_scaling_a_weight_by_a_power_of_two_scales_the_result_exactly(name, w, groups, exponent):
    factor = np.float32(2.0**exponent)
    np.testing.assert_array_equal(compiled[name](w * factor, groups), compiled[name](w, groups) * factor)


@unclipped
@pytest.mark.parametrize("factor", [0.1, 3.0, 77.7])
def test_scaling_a_weight_scales_the_result(rng, name, factor):
    w = rng.normal(size=(4, 16)).astype(np.float32)
    np.testing.assert_allclose(compiled[name](w * np.float32(factor), 4), compiled[name](w, 4) * factor, rtol=2e-6, atol=2e-7)


def test_the_clip_of_ternarybert_is_the_one_scale_that_is_absolute():
    w = jnp.array([[1.0, -1.0, 1.0, 0.1]])
    assert ternarize_clipped(w, 1).tolist() == [[1.0, -1.0, 1.0, 0.0]]
    assert ternarize_clipped(w * 4, 1).tolist() == [[2.5, -2.5, 2.5, 0.0]]


@pytest.mark.parametrize("name", ["binary", "ternary", "ternary_clipped"])
@few
@given(integers, group_counts)
def test_quantizing_twice_is_quantizing_once_at_one_and_two_bits(name, w, groups):
    once = compiled[name](w, groups)
    twice = compiled[name](once, groups)
    np.testing.assert_array_equal(np.sign(twice), np.sign(once))
    np.testing.assert_allclose(twice, once, rtol=1e-6)
    if name == "binary":
        np.testing.assert_array_equal(twice, once)


@pytest.mark.parametrize("bits", [3, 8])
@few
@given(integers, group_counts)
def test_quantizing_twice_is_quantizing_once_on_a_symmetric_grid_whose_extreme_is_negative(bits, w, groups):
    w = w.reshape(groups, -1).copy()
    w[:, 0] = -np.abs(w).max(1)
    once = compiled[f"symmetric {bits}"](w, groups)
    np.testing.assert_array_equal(compiled[f"symmetric {bits}"](once, groups), once)


def test_a_symmetric_grid_whose_extreme_is_positive_shrinks_every_time():
    # +1 clips to 127/128, which is the next maximum: 1/2 is then 64.504 of its steps, which is 65.
    once = quantize_symmetric(jnp.array([[1.0, 0.5]]), 1, 8)
    assert once.tolist() == [[127 / 128, 0.5]]
    np.testing.assert_allclose(quantize_symmetric(once, 1, 8), [[(127 / 128) ** 2, 65 * 127 / 128**2]], rtol=1e-6)


def test_an_asymmetric_grid_shrinks_every_time():
    # 8 clips to the top level, 7; the next grid ends at 7 * 7/8.
    once = quantize_asymmetric(jnp.array([[0.0, 1.1, 8.0]]), 1, 3)
    assert once.tolist() == [[0.0, 1.0, 7.0]]
    assert quantize_asymmetric(once, 1, 3).tolist() == [[0.0, 0.875, 6.125]]


@by_group
@pytest.mark.parametrize("groups", [1, 2, 6, 12])
def test_a_group_is_a_contiguous_run_in_torch_order_quantized_by_itself(rng, name, groups):
    w = rng.normal(size=(6, 16)).astype(np.float32)
    alone = [compiled[name](chunk[None], 1)[0] for chunk in w.reshape(groups, -1)]
    np.testing.assert_allclose(compiled[name](w, groups).reshape(groups, -1), np.stack(alone), rtol=1e-6)


@every
@pytest.mark.parametrize(("shape", "groups"), [((1, 1), 1), ((7,), 7), ((3, 5), 5), ((3, 5, 7), 21)])
def test_any_shape_is_kept(rng, name, shape, groups):
    w = rng.normal(size=shape).astype(np.float32)
    value = compiled[name](w, groups)
    assert (value.shape, value.dtype) == (shape, jnp.float32)
    assert np.all(np.isfinite(value))


@every
def test_zeros_stay_zeros_and_leave_their_neighbour_alone(name):
    value = compiled[name](np.array([[0.0, 0.0], [1.0, -3.0]], np.float32), 2)
    assert value[0].tolist() == [0.0, 0.0]
    assert float(value[1, 1]) < 0


@pytest.mark.parametrize("constant", [0.375, -0.375])
@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("binary", {}),
        ("binary_centred", {-0.375: -1}),
        ("ternary", {}),
        ("ternary_clipped", {}),
        ("symmetric 3", {0.375: 3 / 4}),
        ("symmetric 8", {0.375: 127 / 128}),
        ("asymmetric 3", {}),
        ("asymmetric 8", {}),
    ],
)
def test_a_constant_group_is_reproduced_except_where_the_grid_lacks_its_maximum(name, ratio, constant):
    # A centred weight has sign(0) = +1 everywhere.
    value = compiled[name](np.full((2, 4), constant, np.float32), 2)
    np.testing.assert_array_equal(value, np.full((2, 4), constant * ratio.get(constant, 1)))


ODD = {
    "zeros": np.zeros((4, 8)),
    "ones": np.ones((4, 8)),
    "minus ones": -np.ones((4, 8)),
    "a zero row": np.arange(32.0).reshape(4, 8) * (np.arange(4) > 0)[:, None],
    "an infinity": np.where(np.arange(32) == 9, np.inf, np.arange(32) - 16).reshape(4, 8),
    "a negative infinity": np.where(np.arange(32) == 9, -np.inf, 1).reshape(4, 8),
    "tiny": np.full((4, 8), 1e-38) * np.arange(32).reshape(4, 8),
    "huge": 3e38 * np.linspace(-1, 1, 32).reshape(4, 8),
}


@every
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("groups", [1, 4])
def test_no_weight_gives_a_nan_and_the_gradient_is_the_cotangent(rng, name, odd, groups):
    w, ct = jnp.asarray(ODD[odd], jnp.float32), jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    value, vjp = jax.vjp(lambda w: compiled[name](w, groups), w)
    assert not np.any(np.isnan(value))
    gate = np.abs(ODD[odd]) < 2.5 if name == "ternary_clipped" else True
    np.testing.assert_array_equal(vjp(ct)[0], np.where(gate, ct, 0))


@every
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("odd", ["a zero row", "an infinity"])
def test_sixteen_bits_stay_sixteen_bits_without_a_nan_in_value_or_gradient(name, dtype, odd):
    w, ct = jnp.asarray(ODD[odd], dtype), jnp.full((4, 8), 0.3, dtype)
    value, vjp = jax.vjp(lambda w: compiled[name](w, 4), w)
    gradient = vjp(ct)[0]
    assert value.dtype == gradient.dtype == dtype
    assert not np.any(np.isnan(value))
    np.testing.assert_array_equal(gradient, jnp.where((jnp.abs(w) < 2.5) | (name != "ternary_clipped"), ct, 0))


@every
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_scale_of_sixteen_bit_weights_is_summed_in_float32(rng, name, dtype):
    # 65,536 terms near 0.3: their sum does not fit float16, nor do bfloat16's eight bits count so far.
    w = jnp.asarray(0.3 + 0.01 * rng.random((256, 256)), dtype) * jnp.asarray(rng.choice([-1, 1], (256, 256)), dtype)
    wide = compiled[name](w.astype(jnp.float32), 1)
    np.testing.assert_array_equal(compiled[name](w, 1), wide.astype(dtype))


@every
def test_nothing_leaks_through_the_scale_nor_through_the_clip(rng, name):
    w, c = (jnp.asarray(rng.normal(size=(4, 8)), jnp.float32) for _ in range(2))
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(QUANTIZERS[name][0](w, 1) * c)))(w)
    np.testing.assert_array_equal(gradient, c)


def test_the_gradient_of_the_clipped_quantizer_is_0_from_2_5_on():
    w, ct = jnp.array([[2.5, -2.5, 2.4999998, -2.4999998, 0.0, 9.0]]), jnp.arange(1.0, 7.0)[None]
    _, vjp = jax.vjp(lambda w: ternarize_clipped(w, 1), w)
    assert vjp(ct)[0].tolist() == [[0.0, 0.0, 3.0, 4.0, 5.0, 0.0]]
