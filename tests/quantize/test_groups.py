"""Groups of a weight, and the straight-through gradient all quantizers share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.quantize import binarize, dequantize, group_count, straight_through


@pytest.mark.parametrize(
    ("granularity", "count"),
    [("tensor", 1), ("row", 30522), (768, 30522), (64, 30522 * 12), (30522 * 768, 1), (1, 30522 * 768)],
)
def test_a_granularity_divides_a_weight_into_so_many_groups(granularity, count):
    assert group_count((30522, 768), granularity) == count


@pytest.mark.parametrize("granularity", [0, -4, 7, 64, "column"])
def test_a_group_size_that_does_not_divide_the_weight_is_refused(granularity):
    with pytest.raises(ValueError, match=rf"groups of {granularity} do not divide a weight of shape \(4, 12\)"):
        group_count((4, 12), granularity)


def test_dequantize_multiplies_each_run_of_codes_by_its_scale():
    codes = jnp.array([[1, -1, 0, 1], [-1, -1, 1, 0]], jnp.int8)
    values = dequantize(codes, jnp.array([0.5, 2.0, 3.0, 4.0]))
    assert values.tolist() == [[0.5, -0.5, 0.0, 2.0], [-3.0, -3.0, 4.0, 0.0]]
    assert values.dtype == jnp.float32


def test_dequantize_adds_the_zero_point_of_a_run_before_it_scales():
    values = dequantize(jnp.array([[0.0, 3.0], [1.0, 2.0]]), jnp.array([0.5, 2.0]), jnp.array([-2.0, 1.0]))
    assert values.tolist() == [[-1.0, 0.5], [4.0, 6.0]]


def test_the_gradient_of_a_straight_through_function_is_the_identity_whatever_the_function():
    cube = straight_through(lambda x, n: x**n * jnp.mean(jnp.abs(x)))
    x, ct = jnp.array([1.0, -2.0, 3.0]), jnp.array([0.25, -4.0, 7.0])
    value, vjp = jax.vjp(lambda x: cube(x, 3), x)
    assert value.tolist() == [2.0, -16.0, 54.0]
    assert vjp(ct)[0].tolist() == ct.tolist()


def test_a_straight_through_function_keeps_the_dtype_of_its_input():
    wide = straight_through(lambda x: x.astype(jnp.float32))
    value, vjp = jax.vjp(wide, jnp.ones(2, jnp.bfloat16))
    assert value.dtype == vjp(value)[0].dtype == jnp.bfloat16


def test_the_gradient_stays_the_identity_under_jit_and_inside_a_larger_function(rng):
    w, c = (jnp.asarray(rng.normal(size=(4, 8)), jnp.float32) for _ in range(2))
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(binarize(w, 1) * c)))(w)
    np.testing.assert_array_equal(gradient, c)


def test_a_straight_through_function_keeps_its_name_and_docstring():
    assert binarize.__name__ == "binarize"
    assert binarize.__doc__.startswith("Fake-quantize")
