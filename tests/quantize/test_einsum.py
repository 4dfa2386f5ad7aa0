"""The product of floats: narrow factors, float32 sums, in the backward pass too, on every backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.quantize import einsum, matmul

ATTENTION = [("bqhd,bkhd->bhqk", (3, 7, 2, 5), (3, 9, 2, 5)), ("bhqk,bkhd->bqhd", (3, 2, 7, 9), (3, 9, 2, 5))]
LINEAR = ("abk,nk->abn", (3, 7, 5), (4, 5))


def operands(rng, case, *dtypes):
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape, dtype in zip(case[1:], dtypes, strict=True)]


@pytest.mark.parametrize("case", [*ATTENTION, LINEAR], ids=lambda case: case[0])
def test_in_float32_value_and_gradients_are_those_of_jax(rng, case):
    given = operands(rng, case, jnp.float32, jnp.float32)
    found, expected = (
        jax.jit(jax.value_and_grad(lambda a, b, f=f: jnp.sum(jnp.sin(f(case[0], a, b))), (0, 1)))(*given)
        for f in (einsum, jnp.einsum)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


@pytest.mark.parametrize("case", [*ATTENTION, LINEAR], ids=lambda case: case[0])
def test_in_bfloat16_sums_are_float32_and_gradients_have_the_dtype_of_what_they_are_of(rng, case):
    """The weight of a Linear is latent, float32, and so is its gradient."""
    dtypes = jnp.bfloat16, jnp.float32 if case is LINEAR else jnp.bfloat16
    a, b = operands(rng, case, *dtypes)
    value, pull = jax.vjp(lambda a, b: einsum(case[0], a, b), a, b)
    assert value.dtype == jnp.float32
    wide = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in (a, b)]
    exact, pull_exact = jax.vjp(lambda a, b: jnp.einsum(case[0], a, b), *wide)
    np.testing.assert_allclose(value, exact, rtol=0, atol=1e-6)
    cotangent = jnp.asarray(rng.normal(size=value.shape), jnp.bfloat16).astype(jnp.float32)
    gradients = jax.jit(pull)(cotangent)
    assert tuple(g.dtype for g in gradients) == dtypes
    for found, expected in zip(gradients, pull_exact(cotangent), strict=True):
        rounding = 1e-5 if found.dtype == jnp.float32 else 2**-7
        np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_a_product_with_a_weight_in_torch_order(rng, shape):
    x, weight = (jnp.asarray(rng.integers(-4, 5, size), jnp.float32) for size in (shape, (4, 5)))
    np.testing.assert_array_equal(matmul(x, weight), x @ weight.T)
