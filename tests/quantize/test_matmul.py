"""The Linear of a student: exact integers forward, straight-through gradients backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.kernels import pack_tensor, packed_matmul
from xtc_jax.quantize import (
    QuantRules,
    WeightSpec,
    dequantize,
    fake_quantize,
    quantize_activations,
    quantize_symmetric,
    quantize_weight,
    quantized_matmul,
)

SPECS = [WeightSpec(bits, granularity, 8) for bits in (1, 2) for granularity in ("tensor", "row")]


def case(rng, spec, k=384):
    """Activations of 2 x 5 tokens, and a weight ``(7, k)`` as a student's Linear holds it."""
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 5, k), (7, k)))
    return x, w, fake_quantize({"weight": w}, QuantRules((("weight", spec),)))["weight"]


@pytest.mark.parametrize("spec", SPECS)
def test_the_student_computes_what_its_packed_weight_computes_to_the_bit(rng, spec):
    x, w, student = case(rng, spec)
    packed = pack_tensor(*quantize_weight(w, spec), spec.bits, spec.activation_bits)
    product = packed_matmul(*quantize_symmetric(x, 8), packed)
    np.testing.assert_array_equal(student.linear(x), product)
    np.testing.assert_array_equal(jax.jit(lambda student, x: student.linear(x))(student, x), product)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("bits", [8, 4])
def test_the_result_is_the_int64_product_times_both_scales(rng, spec, bits):
    x, _, student = case(rng, spec, k=3072)
    codes, x_scale = (np.asarray(part) for part in quantize_symmetric(x, bits))
    integers = codes.astype(np.int64) @ np.asarray(student.codes, np.int64).T
    result = quantized_matmul(x, student.value, student.codes, student.scale, bits)
    np.testing.assert_array_equal(result, integers.astype(np.float32) * (x_scale * np.asarray(student.scale)))


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_those_of_the_product_of_the_quantized_values_with_the_quantizers_left_out(rng, spec):
    x, _, student = case(rng, spec)
    g = rng.normal(size=(2, 5, 7)).astype(np.float32)
    quantized = np.asarray(quantize_activations(x, 8), np.float64)
    _, vjp = jax.vjp(lambda x, value: quantized_matmul(x, value, student.codes, student.scale, 8), x, student.value)
    dx, dvalue = vjp(jnp.asarray(g))
    np.testing.assert_allclose(dx, g @ np.asarray(student.value, np.float64), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dvalue, np.einsum("abn,abk->nk", g, quantized), rtol=1e-5, atol=1e-5)


def test_a_zero_token_gives_zeros_and_finite_gradients(rng):
    x, _, student = case(rng, SPECS[0])
    x = x.at[0, 3].set(0)
    assert not np.any(student.linear(x)[0, 3])
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(jnp.square(student.linear(x))))(x)))


@pytest.mark.parametrize("bits", [1, 2])
def test_groups_that_split_a_row_multiply_as_floats(rng, bits):
    spec = WeightSpec(bits, 64, 8)
    x, w, student = case(rng, spec)
    value = np.asarray(dequantize(*quantize_weight(w, spec)), np.float64)
    expected = np.asarray(quantize_activations(x, 8), np.float64) @ value.T
    np.testing.assert_allclose(student.linear(x), expected, rtol=1e-5, atol=2e-5)
