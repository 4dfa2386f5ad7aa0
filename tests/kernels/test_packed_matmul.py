"""int8 activations times packed weights: exact integers, then two scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.kernels import pack_tensor, packed_matmul, unpack_codes
from xtc_jax.kernels.packed_matmul.reference import integer_matmul

LEVELS = {1: [-1, 1], 2: [-1, 0, 1], 3: range(-4, 4), 4: range(-8, 8), 8: range(-128, 128)}
SHAPES = [((4,), 8, 256), ((2, 3), 5, 768), ((3,), 7, 21), ((1,), 1, 1), ((), 3, 384), ((2,), 4, 3072)]
ACTIVATIONS = ["random", -128, 127]


def case(rng, batch, n, k, bits, activations="random"):
    x = rng.integers(-128, 128, size=(*batch, k)) if activations == "random" else np.full((*batch, k), activations)
    return x, rng.choice(LEVELS[bits], size=(n, k))


def packed(w, bits, scale=1.0):
    pack = jax.jit(pack_tensor, static_argnums=2)
    return pack(jnp.asarray(w, jnp.int8), jnp.asarray(np.atleast_1d(scale), jnp.float32), bits)


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize(("batch", "n", "k"), SHAPES)
@pytest.mark.parametrize("bits", LEVELS)
def test_the_integer_part_is_that_of_an_int64_matmul_bit_for_bit(rng, batch, n, k, bits, activations):
    x, w = case(rng, batch, n, k, bits, activations)
    product = jax.jit(integer_matmul)(jnp.asarray(x, jnp.int8), packed(w, bits))
    assert product.dtype == jnp.int32
    np.testing.assert_array_equal(product, x.astype(np.int64) @ w.T.astype(np.int64))


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_the_result_is_the_integer_part_times_the_product_of_both_scales(rng, bits, row_wise):
    x, w = case(rng, (2, 3), 5, 384, bits)
    scale = rng.uniform(0.5, 2, size=5 if row_wise else 1).astype(np.float32)
    x_scale = rng.uniform(0.5, 2, size=(2, 3, 1)).astype(np.float32)
    result = packed_matmul(jnp.asarray(x, jnp.int8), jnp.asarray(x_scale), packed(w, bits, scale))
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, (x @ w.T).astype(np.float32) * (x_scale * scale))


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), ()])
def test_one_scale_may_serve_many_tokens(rng, bits, shape):
    x, w = case(rng, (2, 3), 5, 40, bits)
    x, x_scale = jnp.asarray(x, jnp.int8), jnp.asarray(rng.uniform(0.5, 2, shape), jnp.float32)
    each = jnp.broadcast_to(x_scale, (2, 3, 1))
    np.testing.assert_array_equal(packed_matmul(x, x_scale, packed(w, bits)), packed_matmul(x, each, packed(w, bits)))


@pytest.mark.parametrize("bits", LEVELS)
def test_a_weight_in_layout_int8_gives_the_same_bits(rng, bits):
    x, w = case(rng, (4,), 6, 300, bits)
    x, x_scale, weights = jnp.asarray(x, jnp.int8), jnp.full((4, 1), 0.1), packed(w, bits, 0.3)
    np.testing.assert_array_equal(packed_matmul(x, x_scale, weights.unpacked()), packed_matmul(x, x_scale, weights))


@pytest.mark.parametrize("bits", [1, 2])
def test_jit_gives_the_same_bits(rng, bits):
    x, w = case(rng, (4,), 6, 300, bits)
    x, x_scale, weights = jnp.asarray(x, jnp.int8), jnp.full((4, 1), 0.1), packed(w, bits, 0.3)
    np.testing.assert_array_equal(jax.jit(packed_matmul)(x, x_scale, weights), packed_matmul(x, x_scale, weights))


@pytest.mark.parametrize(("bits", "factor"), [(1, 2), (2, 1)])
@pytest.mark.parametrize(("batch", "n", "k"), SHAPES)
def test_unsigned_codes_need_one_subtraction_of_the_row_sum_and_binary_ones_doubling(rng, batch, n, k, bits, factor):
    x, w = case(rng, batch, n, k, bits)
    codes = np.asarray(jax.jit(unpack_codes, static_argnums=(1, 2))(packed(w, bits).codes, bits, k), np.int64)
    np.testing.assert_array_equal(factor * (x @ codes.T) - x.sum(-1, keepdims=True), x @ w.T)
