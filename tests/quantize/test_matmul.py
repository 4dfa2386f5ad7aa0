"""The Linear of a student: exact integers forward, straight-through gradients backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.kernels import pack_tensor, packed_matmul
from xtc_jax.quantize import (
    ActivationSpec,
    FakeQuantized,
    QuantRules,
    WeightSpec,
    activation_levels,
    dequantize,
    fake_quantize,
    quantize_activations,
    quantized_matmul,
    weight_levels,
)

DYNAMIC, TENSOR, STATIC = ActivationSpec(8), ActivationSpec(4, "tensor"), ActivationSpec(8, "static")
ASYMMETRIC = ActivationSpec(8, "token", symmetric=False)
SPECS = [WeightSpec(bits, granularity, activation=DYNAMIC) for bits in (1, 2) for granularity in ("tensor", "row")]
SPECS += [
    WeightSpec(1, "row", "binary_centred", TENSOR),
    WeightSpec(2, quantizer="ternary_clipped", activation=STATIC),
    WeightSpec(3, "row", activation=STATIC),
    WeightSpec(4, activation=DYNAMIC),
    WeightSpec(8, "row", activation=TENSOR),
]
FLOATS = [
    WeightSpec(1, 64, activation=DYNAMIC),
    WeightSpec(2, 64, activation=STATIC),
    WeightSpec(1, 768, activation=DYNAMIC),
    WeightSpec(4, "row", "asymmetric", TENSOR),
    WeightSpec(1, activation=ASYMMETRIC),
    WeightSpec(8, 32, "asymmetric", ActivationSpec(4, "static", symmetric=False)),
]
integers = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.bits} {spec.granularity} {spec.activation.range}")
floats = pytest.mark.parametrize("spec", FLOATS, ids=lambda spec: f"{spec.bits} {spec.granularity} {spec.activation.range}")


def case(rng, spec, k=384, n=6):
    """Activations of 2 x 5 tokens, their range, and a weight ``(n, k)`` with the student's Linear that holds it."""
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 5, k), (n, k)))
    held = jnp.array([-1.5, 2.0]) if spec.activation.range == "static" else None
    return x, held, w, fake_quantize({"weight": w}, QuantRules((("weight", spec),)))["weight"]


@integers
def test_the_student_computes_what_its_packed_weight_computes_to_the_bit(rng, spec):
    x, held, w, student = case(rng, spec)
    levels = weight_levels(w, spec)
    packed = pack_tensor(levels.codes, levels.scale, spec.bits, spec.activation)
    codes, scale, _ = activation_levels(x, spec.activation, held)
    product = packed_matmul(codes.astype(jnp.int8), packed, x_scale=scale)
    np.testing.assert_array_equal(student.linear(x, held), product)
    np.testing.assert_array_equal(jax.jit(FakeQuantized.linear)(student, x, held), product)


@integers
def test_the_result_is_the_int64_product_times_both_scales(rng, spec):
    x, held, _, student = case(rng, spec, k=512)
    codes, x_scale, _ = (np.asarray(part) for part in activation_levels(x, spec.activation, held))
    whole = codes.astype(np.int64) @ np.asarray(student.codes, np.int64).T
    result = quantized_matmul(x, student.value, student.codes, student.scale, held, spec.activation)
    np.testing.assert_array_equal(result, whole.astype(np.float32) * (x_scale * np.asarray(student.scale)))


@integers
def test_the_result_is_the_float_product_of_the_fake_quantized_values(rng, spec):
    x, held, _, student = case(rng, spec)
    quantized = np.asarray(quantize_activations(x, spec.activation, held), np.float64)
    expected = quantized @ np.asarray(student.value, np.float64).T
    np.testing.assert_allclose(student.linear(x, held), expected, rtol=3e-6, atol=3e-7 * np.abs(expected).max())


@floats
def test_what_cannot_be_summed_as_integers_multiplies_as_floats(rng, spec):
    x, held, w, student = case(rng, spec)
    assert student.codes is None
    assert student.scale is None
    value = np.asarray(dequantize(*weight_levels(w, spec)), np.float64)
    expected = np.asarray(quantize_activations(x, spec.activation, held), np.float64) @ value.T
    np.testing.assert_allclose(student.linear(x, held), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("spec", [*SPECS, *FLOATS], ids=str)
def test_gradients_are_those_of_the_product_of_the_quantized_values_with_the_quantizers_left_out(rng, spec):
    x, held, w, _ = case(rng, spec)
    g = rng.normal(size=(2, 5, 6)).astype(np.float32)

    def product(x, w):
        return fake_quantize({"weight": w}, QuantRules((("weight", spec),)))["weight"].linear(x, held)

    _, vjp = jax.vjp(product, x, w)
    dx, dw = vjp(jnp.asarray(g))
    quantized = np.asarray(quantize_activations(x, spec.activation, held), np.float64)
    inside = np.abs(w) < 2.5 if spec.quantizer == "ternary_clipped" else 1
    np.testing.assert_allclose(dx, g @ np.asarray(dequantize(*weight_levels(w, spec)), np.float64), rtol=2e-6, atol=4e-6)
    np.testing.assert_allclose(dw, np.einsum("abn,abk->nk", g, quantized) * inside, rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize(
    "spec", [WeightSpec(1, activation=STATIC), WeightSpec(1, 64, activation=STATIC)], ids=["whole", "groups"]
)
@pytest.mark.parametrize("training", [False, True])
def test_the_range_moves_before_it_is_used_and_comes_back_as_its_gradient(rng, spec, training):
    x, held, w, _ = case(rng, spec)
    student = fake_quantize({"weight": w}, QuantRules((("weight", spec),)), training=training)["weight"]
    value, vjp = jax.vjp(lambda held: student.linear(x, held), held)
    extremes = jnp.stack([jnp.min(x), jnp.max(x)])
    moved = 0.95 * held + 0.05 * extremes if training else held
    np.testing.assert_allclose(vjp(jnp.ones_like(value))[0], moved if training else jnp.zeros(2), rtol=1e-6)
    still = fake_quantize({"weight": w}, QuantRules((("weight", spec),)))["weight"]
    np.testing.assert_allclose(value, still.linear(x, moved), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[3], WeightSpec(8, activation=DYNAMIC)], ids=["1", "2 row", "8"])
def test_bfloat16_inputs_give_the_same_integers_exactly(rng, spec):
    x, _, _, student = case(rng, spec)
    x = x.astype(jnp.bfloat16)
    result = student.linear(x)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, student.linear(x.astype(jnp.float32)))
    dx = jax.grad(lambda x: jnp.sum(student.linear(x)))(x)
    assert dx.dtype == jnp.bfloat16


@pytest.mark.parametrize("spec", [SPECS[0], FLOATS[0]], ids=["whole", "groups"])
def test_a_zero_token_gives_zeros_and_finite_gradients(rng, spec):
    x, _, _, student = case(rng, spec)
    x = x.at[0, 3].set(0)
    assert not np.any(student.linear(x)[0, 3])
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(jnp.square(student.linear(x))))(x)))
