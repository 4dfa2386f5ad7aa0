"""Linear, embedding and LayerNorm, for every kind of leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.bert.linear import Embedding, LayerNorm, Linear, embed, linear
from xtc_jax.kernels import pack_tensor
from xtc_jax.quantize import FakeQuantized

X = jnp.array([[-1.0, 0.5, 1.0], [4.0, -2.0, 0.0]])
BIAS = jnp.array([10.0, 20.0])
TERNARY = jnp.array([[1, 0, -1], [1, 1, 1]], jnp.int8)
BINARY = jnp.array([[1, -1, -1], [1, 1, -1]], jnp.int8)


def test_a_float_weight_is_multiplied_in_torch_order():
    weight = jnp.array([[1.0, 0.0, -1.0], [2.0, 2.0, 2.0]])
    np.testing.assert_array_equal(linear(X, weight, BIAS), [[8, 21], [14, 24]])


def fake(codes, scale):
    """The fake-quantized weight of these integers, with 8-bit inputs."""
    codes, scale = jnp.asarray(codes, jnp.float32), jnp.asarray(scale, jnp.float32)
    value = (codes.reshape(scale.shape[0], -1) * scale[:, None]).reshape(codes.shape)
    return FakeQuantized(value=value, codes=codes, scale=scale, activation_bits=8)


@pytest.mark.parametrize("scale", [[1.0], [1.0] * 2, [1.0] * 6], ids=["matrix", "row", "group"])
def test_a_fake_quantized_weight_also_quantizes_its_input(scale):
    # +1 clips to 127/128; the second row's scale is 8/256, its 4 clips to 127/32.
    weight = fake([[0, 0, 1], [1, 0, 0]], scale)
    np.testing.assert_array_equal(linear(X, weight, BIAS), [[10.9921875, 19], [10, 23.96875]])


def test_a_packed_weight_without_activation_bits_leaves_the_input_float():
    weight = pack_tensor(TERNARY, jnp.array([0.5]), bits=2)
    np.testing.assert_array_equal(linear(X, weight, BIAS), [[9, 20.25], [12, 21]])


def test_a_packed_weight_with_activation_bits_multiplies_integers():
    weight = pack_tensor(TERNARY, jnp.array([0.5, 2.0]), bits=2, activation_bits=8)
    # (-128 - 127) / 128 / 2 and (-128 + 64 + 127) / 128 * 2; then 127 / 32 / 2 and (127 - 64) / 32 * 2
    expected = [[10 - 255 / 256, 20 + 63 / 64], [10 + 127 / 64, 20 + 63 / 16]]
    np.testing.assert_array_equal(linear(X, weight, BIAS), expected)


@pytest.mark.parametrize(("values", "bits"), [(BINARY, 1), (TERNARY, 2)])
@pytest.mark.parametrize("scale", [[0.75], [0.75, 0.25]])
@pytest.mark.parametrize("activation_bits", [None, 8])
def test_the_int8_layout_multiplies_to_the_same_bits(values, bits, scale, activation_bits):
    weight = pack_tensor(values, jnp.array(scale), bits, activation_bits)
    np.testing.assert_array_equal(linear(X, weight.unpacked(), BIAS), linear(X, weight, BIAS))


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("k", [3, 256, 300])
@pytest.mark.parametrize("scales", [1, 5])
def test_a_packed_weight_computes_its_fake_quantized_twin_to_the_bit(rng, bits, k, scales):
    values = rng.choice([-1, 1] if bits == 1 else [-1, 0, 1], (5, k)).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, scales).astype(np.float32)
    packed = pack_tensor(jnp.asarray(values), jnp.asarray(scale), bits, activation_bits=8)
    x, bias = jnp.asarray(rng.normal(size=(2, 7, k)), jnp.float32), jnp.asarray(rng.normal(size=5), jnp.float32)
    np.testing.assert_array_equal(linear(x, packed, bias), linear(x, fake(values, scale), bias))


def test_a_linear_without_params_makes_weight_and_bias_in_torch_order():
    params = Linear(4, 0.02).init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    assert {name: value.shape for name, value in params.items()} == {"weight": (4, 3), "bias": (4,)}
    np.testing.assert_array_equal(params["bias"], np.zeros(4))


def test_a_linear_uses_the_leaf_that_stands_in_its_params():
    weight = pack_tensor(TERNARY, jnp.array([0.5]), bits=2, activation_bits=8)
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
    np.testing.assert_allclose(np.var(y, axis=-1), np.ones(6), atol=1e-5)


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
