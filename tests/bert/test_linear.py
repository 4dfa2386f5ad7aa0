"""Linear, embedding and LayerNorm, for every kind of leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import sweep

from xtc_jax.bert.linear import Embedding, LayerNorm, Linear, embed, linear
from xtc_jax.kernels import pack_tensor
from xtc_jax.quantize import (
    ActivationSpec,
    FakeQuantized,
    QuantRules,
    WeightSpec,
    binarize,
    fake_quantize,
    quantize_activations,
    weight_levels,
)

A8 = ActivationSpec(8)

X = jnp.array([[-1.0, 0.5, 1.0], [4.0, -2.0, 0.0]])
BIAS = jnp.array([10.0, 20.0])
TERNARY = jnp.array([[1, 0, -1], [1, 1, 1]], jnp.int8)
BINARY = jnp.array([[1, -1, -1], [1, 1, -1]], jnp.int8)


def test_a_float_weight_is_multiplied_in_torch_order():
    weight = jnp.array([[1.0, 0.0, -1.0], [2.0, 2.0, 2.0]])
    np.testing.assert_array_equal(linear(X, weight, BIAS), [[8, 21], [14, 24]])


def fake(codes, scale, activation=A8, training=False):
    """The fake-quantized weight of these integers, with 8-bit inputs; as floats where scales are inside rows."""
    codes, scale = jnp.asarray(codes, jnp.float32), jnp.asarray(scale, jnp.float32)
    value = (codes.reshape(scale.shape[0], -1) * scale[:, None]).reshape(codes.shape)
    whole = scale.shape[0] in (1, codes.shape[0])
    return FakeQuantized(value, codes if whole else None, scale if whole else None, activation, training)


@pytest.mark.parametrize("scale", [[1.0], [1.0] * 2, [1.0] * 6], ids=["matrix", "row", "group"])
def test_a_fake_quantized_weight_also_quantizes_its_input(scale):
    # +1 clips to 127/128; the second row's scale is 8/256, its 4 clips to 127/32.
    weight = fake([[0, 0, 1], [1, 0, 0]], scale)
    np.testing.assert_array_equal(linear(X, weight, BIAS), [[10.9921875, 19], [10, 23.96875]])


def test_a_packed_weight_without_activation_bits_leaves_the_input_float():
    weight = pack_tensor(TERNARY, jnp.array([0.5]), bits=2)
    np.testing.assert_array_equal(linear(X, weight, BIAS), [[9, 20.25], [12, 21]])


def test_a_packed_weight_with_activation_bits_multiplies_integers():
    weight = pack_tensor(TERNARY, jnp.array([0.5, 2.0]), bits=2, activation=A8)
    # (-128 - 127) / 128 / 2 and (-128 + 64 + 127) / 128 * 2; then 127 / 32 / 2 and (127 - 64) / 32 * 2
    expected = [[10 - 255 / 256, 20 + 63 / 64], [10 + 127 / 64, 20 + 63 / 16]]
    np.testing.assert_array_equal(linear(X, weight, BIAS), expected)


@pytest.mark.parametrize(("values", "bits"), [(BINARY, 1), (TERNARY, 2)])
@pytest.mark.parametrize("scale", [[0.75], [0.75, 0.25]])
@pytest.mark.parametrize("activation", [None, A8, ActivationSpec(4, "tensor"), ActivationSpec(8, symmetric=False)])
def test_the_int8_layout_multiplies_to_the_same_bits(values, bits, scale, activation):
    weight = pack_tensor(values, jnp.array(scale), bits, activation)
    np.testing.assert_array_equal(linear(X, weight.unpacked(), BIAS), linear(X, weight, BIAS))


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("k", [3, 256, 300])
@pytest.mark.parametrize("scales", [1, 5])
def test_a_packed_weight_computes_its_fake_quantized_twin_to_the_bit(rng, bits, k, scales):
    values = rng.choice([-1, 1] if bits == 1 else [-1, 0, 1], (5, k)).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, scales).astype(np.float32)
    packed = pack_tensor(jnp.asarray(values), jnp.asarray(scale), bits, activation=A8)
    x, bias = jnp.asarray(rng.normal(size=(2, 7, k)), jnp.float32), jnp.asarray(rng.normal(size=5), jnp.float32)
    np.testing.assert_array_equal(linear(x, packed, bias), linear(x, fake(values, scale), bias))


CASES = [
    WeightSpec(1, activation=ActivationSpec(8, "static")),
    WeightSpec(2, "row", activation=ActivationSpec(4, "tensor")),
    WeightSpec(4, "row", activation=ActivationSpec(8, "static")),
    WeightSpec(1, 10, activation=A8),
    WeightSpec(8, "row", "asymmetric", ActivationSpec(8, "static")),
    WeightSpec(2, activation=ActivationSpec(8, "static", symmetric=False)),
    WeightSpec(3, 10, "asymmetric", ActivationSpec(4, symmetric=False)),
]


@pytest.mark.parametrize("spec", sweep(CASES, fast=3), ids=str)
def test_every_kind_of_grid_multiplies_alike_in_training_and_packed(rng, spec):
    w, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((6, 20), (2, 3, 20)))
    bias, held = jnp.asarray(rng.normal(size=6), jnp.float32), jnp.array([-1.5, 2.0])
    levels = weight_levels(w, spec)
    packed = pack_tensor(levels.codes, levels.scale, spec.bits, spec.activation, levels.zero)
    student = fake_quantize({"weight": w}, QuantRules((("weight", spec),)))["weight"]
    np.testing.assert_array_equal(linear(x, packed, bias, held), linear(x, student, bias, held))
    expected = quantize_activations(x, spec.activation, held) @ packed.dequantize().T + bias
    np.testing.assert_allclose(linear(x, packed, bias, held), expected, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_result_has_the_dtype_of_the_input(dtype):
    halves = {"first": fake(BINARY, [0.5]), "second": jnp.ones((2, 3))}
    for weight in (jnp.ones((2, 3)), fake(BINARY, [0.5]), fake(BINARY, [0.5] * 6), halves):
        assert linear(X.astype(dtype), weight, BIAS).dtype == dtype


def test_a_split_weight_is_the_sum_of_its_halves_and_has_one_bias():
    first, second = jnp.array([[1.0, 0.0, -1.0], [2.0, 2.0, 2.0]]), jnp.array([[0.0, 1.0, 0.0], [-1.0, 0.5, 0.0]])
    np.testing.assert_array_equal(linear(X, {"first": first, "second": second}, BIAS), linear(X, first + second, BIAS))


@pytest.mark.parametrize("kind", ["fake", "packed", "int8"])
def test_the_halves_of_a_split_weight_may_be_of_any_kind(kind):
    make = {
        "fake": fake,
        "packed": lambda values, scale: pack_tensor(values, jnp.array(scale), 1, A8),
        "int8": lambda values, scale: pack_tensor(values, jnp.array(scale), 1, A8).unpacked(),
    }[kind]
    halves = {"first": make(BINARY, [0.5]), "second": make(-BINARY[::-1], [0.25, 2.0])}
    parts = [linear(X, half, jnp.zeros(2)) for half in halves.values()]
    np.testing.assert_allclose(linear(X, halves, BIAS), parts[0] + parts[1] + BIAS, rtol=1e-6)


def test_a_split_table_is_the_sum_of_its_halves():
    halves = {"first": jnp.ones((2, 3)), "second": pack_tensor(BINARY, jnp.array([0.5, 2.0]), bits=1)}
    np.testing.assert_array_equal(embed(jnp.array([[1, 0]]), halves), [[[3, 3, -1], [1.5, 0.5, 0.5]]])


STATIC = ActivationSpec(8, "static")
HELD = jnp.array([-1.0, 3.0])


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_static_range_moves_once_also_for_a_weight_in_halves_and_comes_back_as_its_gradient(split, training):
    weight = fake(BINARY, [0.5], STATIC, training)
    weight = {"first": weight, "second": fake(BINARY[::-1], [0.25], STATIC, training)} if split else weight
    value, vjp = jax.vjp(lambda held: linear(X, weight, BIAS, held), HELD)
    moved = [0.95 * -1 + 0.05 * -2, 0.95 * 3 + 0.05 * 4]
    np.testing.assert_allclose(vjp(jnp.full_like(value, 5))[0], moved if training else [0, 0], rtol=1e-6)
    still = jax.tree.map(
        lambda w: FakeQuantized(w.value, w.codes, w.scale, STATIC, False),
        weight,
        is_leaf=lambda w: isinstance(w, FakeQuantized),
    )
    used = jnp.array(moved) if training else HELD
    np.testing.assert_allclose(value, linear(X, still, BIAS, used), rtol=1e-6)


def test_gradients_of_a_split_weight_reach_both_halves_straight_through(rng):
    first, second = (jnp.asarray(rng.normal(size=(2, 3)), jnp.float32) for _ in range(2))

    def loss(first, second):
        return jnp.sum(linear(X, {"first": binarize(first, 1), "second": binarize(second, 1)}, BIAS))

    for gradient in jax.grad(loss, (0, 1))(first, second):
        np.testing.assert_array_equal(gradient, jnp.broadcast_to(jnp.sum(X, 0), (2, 3)))


def test_a_linear_reads_the_range_that_stands_beside_its_weight():
    weight = pack_tensor(TERNARY, jnp.array([0.5]), bits=2, activation=STATIC)
    output = Linear(2, 0.02).apply({"params": {"weight": weight, "bias": BIAS, "input_range": HELD}}, X)
    np.testing.assert_array_equal(output, linear(X, weight, BIAS, HELD))
    assert np.any(output != linear(X, weight, BIAS, 4 * HELD))


def test_a_table_whose_input_would_be_quantized_is_an_error_of_the_program():
    with pytest.raises(AssertionError, match="an embedding has no input to quantize"):
        embed(jnp.array([0]), fake(BINARY, [0.5]))


def test_a_linear_without_params_makes_weight_and_bias_in_torch_order():
    params = Linear(4, 0.02).init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    assert {name: value.shape for name, value in params.items()} == {"weight": (4, 3), "bias": (4,)}
    np.testing.assert_array_equal(params["bias"], np.zeros(4))


def test_a_linear_uses_the_leaf_that_stands_in_its_params():
    weight = pack_tensor(TERNARY, jnp.array([0.5]), bits=2, activation=A8)
    output = Linear(2, 0.02).apply({"params": {"weight": weight, "bias": BIAS}}, X)
    np.testing.assert_array_equal(output, linear(X, weight, BIAS))


@pytest.mark.parametrize("scale", [[0.5], [1.0, 2.0, 3.0]])
def test_looking_up_a_packed_table_gives_the_rows_of_its_float_matrix(scale):
    values = jnp.array([[1, 0, -1], [-1, -1, -1], [0, 1, 1]], jnp.int8)
    table, ids = pack_tensor(values, jnp.array(scale), bits=2), jnp.array([[2, 0], [1, 2]])
    expected = (np.asarray(values) * np.asarray(scale, np.float32)[:, None])[np.asarray(ids)]
    np.testing.assert_array_equal(embed(ids, table), expected)
    np.testing.assert_array_equal(embed(ids, table.dequantize()), expected)


def test_an_embedding_uses_the_leaf_that_stands_in_its_params():
    table = pack_tensor(BINARY, jnp.array([0.5, 2.0]), bits=1)
    output = Embedding(2, 3, 0.02).apply({"params": {"weight": table}}, jnp.array([1]))
    np.testing.assert_array_equal(output, [[2, 2, -2]])


def _layer_norm(x, eps=1e-12, weight=1.0, bias=0.0):
    size = x.shape[-1]
    return LayerNorm(eps).apply({"params": {"weight": jnp.full(size, weight), "bias": jnp.full(size, bias)}}, x)


def test_layer_norm_gives_mean_zero_and_variance_one():
    y = _layer_norm(jnp.asarray(np.random.default_rng(0).normal(3, 5, (6, 64)), jnp.float32))
    np.testing.assert_allclose(np.mean(y, axis=-1), np.zeros(6), atol=1e-6)
    np.testing.assert_allclose(np.var(y, axis=-1), np.ones(6), rtol=0, atol=2e-6)


def test_layer_norm_divides_by_the_biased_variance_plus_epsilon():
    # mean 2, variance 2, so sqrt(2 + 2) = 2
    np.testing.assert_allclose(_layer_norm(jnp.array([[0.0, 2.0, 4.0, 2.0]]), 2.0, 3.0, 1.0), [[-2, 1, 4, 1]], atol=1e-6)


def test_layer_norm_of_a_constant_vector_is_its_bias():
    np.testing.assert_array_equal(_layer_norm(jnp.full((1, 8), 7.0), bias=0.25), np.full((1, 8), 0.25))


def test_layer_norm_keeps_the_variance_of_numbers_far_from_zero():
    x = 4096 + jnp.array([[-1.0, 1.0, -1.0, 1.0]])  # E[x^2] - E[x]^2 would lose it in float32
    np.testing.assert_array_equal(_layer_norm(x, 0.0), [[-1, 1, -1, 1]])


def test_layer_norm_of_half_precision_is_computed_in_float32():
    x = jnp.array([[-300.0, 300.0]], jnp.float16)  # the square overflows float16
    y = _layer_norm(x)
    assert y.dtype == jnp.float16
    np.testing.assert_array_equal(y, [[-1, 1]])
