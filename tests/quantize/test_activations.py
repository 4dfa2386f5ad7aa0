"""The input of a Linear: per token, per tensor, or on a running range that comes back as a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xtc_jax.quantize import RANGES, ActivationSpec, activation_levels, quantize_activations

tokens = arrays(np.int32, (4, 16), elements=st.integers(-(10**6), 10**6)).map(lambda x: (x / 1000).astype(np.float32))
few = settings(deadline=None, max_examples=20)
STATIC = ActivationSpec(8, "static")
SPECS = [ActivationSpec(bits, kind, symmetric) for bits in (8, 4) for kind in RANGES for symmetric in (True, False)]
every = pytest.mark.parametrize("spec", SPECS, ids=str)
quantize = jax.jit(quantize_activations, static_argnums=(1, 3))


def held(spec, low=-1.5, high=2.0):
    return jnp.array([low, high]) if spec.range == "static" else None


@every
def test_codes_and_scales_are_whole_numbers_in_range_that_stand_for_the_values(rng, spec):
    x = jnp.asarray(rng.normal(size=(2, 5, 16)), jnp.float32)
    codes, scale, zero = activation_levels(x, spec, held(spec))
    assert scale.shape == ((2, 5, 1) if spec.range == "token" else (1, 1, 1))
    low = -(2 ** (spec.bits - 1)) if spec.symmetric else 0
    assert (float(jnp.min(codes)) >= low, float(jnp.max(codes)) < low + 2**spec.bits) == (True, True)
    np.testing.assert_array_equal(codes, np.round(codes))
    assert (zero is None) == spec.symmetric
    value = (codes if zero is None else codes + zero) * scale
    np.testing.assert_allclose(quantize(x, spec, held(spec)), value, rtol=1e-6)


def test_numbers_of_every_range():
    x = jnp.array([[-1.0, 0.5, 1.0], [4.0, -2.0, 0.0]])
    assert quantize(x, ActivationSpec(8)).tolist() == [[-1.0, 0.5, 127 / 128], [127 / 32, -2.0, 0.0]]
    assert quantize(x, ActivationSpec(8, "tensor")).tolist() == [[-1.0, 0.5, 1.0], [127 / 32, -2.0, 0.0]]
    assert quantize(x, ActivationSpec(4, "tensor", symmetric=False)).tolist() == [[-1.125, 0.375, 1.125], [3.75, -1.875, 0.0]]
    # A static grid ends where it ends: 4 is cut to 2 - 2/128.
    assert quantize(x, STATIC, jnp.array([-1.0, 2.0])).tolist() == [[-1.0, 0.5, 1.0], [127 / 64, -2.0, 0.0]]
    asymmetric = ActivationSpec(8, "static", symmetric=False)
    assert quantize(x, asymmetric, jnp.array([0.0, 2.0])).tolist() == [[0.0, 0.5, 1.0], [255 / 128, 0.0, 0.0]]


@pytest.mark.parametrize("symmetric", [True, False])
@few
@given(x=tokens, bits=st.sampled_from([4, 8]))
def test_a_token_is_quantized_as_if_it_were_alone(symmetric, x, bits):
    spec = ActivationSpec(bits, "token", symmetric)
    np.testing.assert_array_equal(quantize(x, spec)[2], quantize(x[2:3], spec)[0])


def test_a_tensor_range_lets_one_token_change_another_and_a_static_one_does_not(rng):
    x = jnp.asarray(rng.normal(size=(4, 16)), jnp.float32)
    louder = x.at[0].multiply(100)
    for kind, changes in (("token", False), ("tensor", True), ("static", False)):
        spec = ActivationSpec(8, kind)
        assert np.any(quantize(x, spec, held(spec))[1:] != quantize(louder, spec, held(spec))[1:]) == changes


@few
@given(tokens)
def test_quantizing_twice_is_quantizing_once_where_the_extreme_is_negative(x):
    x = np.concatenate([x, -np.abs(x).max(1, keepdims=True)], axis=1)
    once = quantize(x, ActivationSpec(8))
    np.testing.assert_array_equal(quantize(once, ActivationSpec(8)), once)


@few
@given(tokens)
def test_quantizing_twice_on_one_static_range_is_quantizing_once(x):
    for symmetric in (True, False):
        spec, kept = ActivationSpec(8, "static", symmetric), jnp.array([-512.0, 256.0])
        once = quantize(x, spec, kept)
        np.testing.assert_array_equal(quantize(once, spec, kept), once)


@every
def test_the_gradient_is_the_cotangent_whatever_is_clipped(rng, spec):
    x, ct = (jnp.asarray(3 * rng.normal(size=(2, 3, 8)), jnp.float32) for _ in range(2))
    _, vjp = jax.vjp(lambda x: quantize(x, spec, held(spec)), x)
    np.testing.assert_array_equal(vjp(ct)[0], ct)


@pytest.mark.parametrize("spec", SPECS[: len(SPECS) // 2], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("odd", [[0.0] * 4, [0.5] * 4, [np.inf, 1, 2, -np.inf]], ids=["zeros", "constant", "infinities"])
def test_zeros_constants_and_infinities_give_no_nan_and_the_dtype_is_kept(spec, dtype, odd):
    x = jnp.asarray([odd], dtype)
    value, vjp = jax.vjp(lambda x: quantize(x, spec, held(spec), True), x)
    gradient = vjp(jnp.ones_like(x))[0]
    assert value.dtype == gradient.dtype == dtype
    assert not np.any(np.isnan(value))
    assert np.any(value) == any(odd)
    np.testing.assert_array_equal(gradient, np.ones(x.shape))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_zero_token_has_scale_zero_and_codes_zero_without_an_intermediate_nan(rng, bits):
    x = jnp.asarray(rng.normal(size=(2, 3, 8)), jnp.float32).at[1, 1].set(0)
    with jax.debug_nans(True):
        codes, scale, _ = activation_levels(x, ActivationSpec(bits))
    assert (codes[1, 1].tolist(), scale[1, 1].tolist()) == ([0.0] * 8, [0.0])
    assert np.all(np.any(np.asarray(codes.at[1, 1].set(1)), axis=-1))


def run(x, running, spec=STATIC, training=True):
    """Value, and what comes back as the gradient of the range."""
    value, vjp = jax.vjp(lambda running: quantize(x, spec, running, training), running)
    return value, vjp(jnp.full_like(x, 7.0))[0]


def test_the_first_batch_sets_the_range():
    x = jnp.array([[-1.0, 0.25], [3.0, 2.0]])
    value, moved = run(x, jnp.zeros(2))
    np.testing.assert_allclose(moved, [-1, 3], rtol=1e-6)
    np.testing.assert_allclose(value, quantize(x, STATIC, jnp.array([-1.0, 3.0])), rtol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_later_batch_moves_the_range_by_a_twentieth_before_it_is_used(symmetric):
    spec = ActivationSpec(8, "static", symmetric)
    x = jnp.array([[-9.0, 1.0], [11.0, 2.0]])
    value, moved = run(x, jnp.array([-1.0, 3.0]), spec)
    np.testing.assert_allclose(moved, [0.95 * -1 + 0.05 * -9, 0.95 * 3 + 0.05 * 11], rtol=1e-6)
    np.testing.assert_array_equal(value, quantize(x, spec, moved))
    assert np.any(value != quantize(x, spec, jnp.array([-1.0, 3.0])))


def test_batches_in_a_row_give_the_exponential_mean_of_their_extremes(rng):
    batches = [rng.normal(size=(4, 8)).astype(np.float32) for _ in range(6)]
    running = jnp.zeros(2)
    low, high = float(batches[0].min()), float(batches[0].max())
    for batch in batches:
        _, running = run(jnp.asarray(batch), running)
        low, high = 0.95 * low + 0.05 * float(batch.min()), 0.95 * high + 0.05 * float(batch.max())
        np.testing.assert_allclose(running, [low, high], rtol=1e-6)


def test_evaluation_neither_moves_the_range_nor_returns_one(rng):
    x, running = jnp.asarray(5 * rng.normal(size=(4, 8)), jnp.float32), jnp.array([-1.0, 2.0])
    value, gradient = run(x, running, training=False)
    assert gradient.tolist() == [0.0, 0.0]
    np.testing.assert_array_equal(value, quantize(x, STATIC, running))


@pytest.mark.parametrize("kind", ["token", "tensor"])
def test_a_dynamic_range_neither_reads_nor_moves_one_that_is_passed(rng, kind):
    x, running, spec = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32), jnp.array([-0.1, 0.1]), ActivationSpec(8, kind)
    value, gradient = run(x, running, spec)
    np.testing.assert_array_equal(value, quantize(x, spec))
    assert gradient.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_range_that_no_batch_has_set_gives_zeros_and_not_nans(rng, symmetric):
    x = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    with jax.debug_nans(True):
        value, _ = run(x, jnp.zeros(2), ActivationSpec(8, "static", symmetric), training=False)
    assert not np.any(value)


def test_a_static_range_that_is_not_there_is_an_error_of_the_program():
    with pytest.raises(AssertionError, match="a static range has been asked for and none is there"):
        quantize_activations(jnp.ones((1, 2)), STATIC)
