import jax
import jax.numpy as jnp
import pytest

from xtc_jax.aot.bound import Bound, lower_bound, product_rates
from xtc_jax.aot.collectives import Collective
from xtc_jax.aot.flops import matmul_operations
from xtc_jax.aot.topology import corner_links
from xtc_jax.devices import Peaks

PEAKS = Peaks({"int8": 400.0, "bfloat16": 200.0, "float32": 50.0}, 10.0, "")
RATES = product_rates(PEAKS, "tpu")
GATHER = Collective("all-gather", 4, 1, 40)  # sends 30


def bound(operations, traffic, collectives=(), links=0.0):
    return lower_bound(RATES, PEAKS.bandwidth, links, operations, traffic, collectives)


def test_products_of_each_dtype_take_their_own_time():
    assert bound({"int8": 400.0, "bfloat16": 100.0}, 0).compute == 1.5


def test_a_product_of_float32_is_one_pass_of_bfloat16_on_a_tpu_and_tf32_on_a_gpu():
    assert (RATES["float32"], product_rates(PEAKS, "cuda")["float32"]) == (200.0, 100.0)


@pytest.mark.parametrize(
    ("operations", "traffic", "links", "seconds", "binding"),
    [(800.0, 10, 30.0, 2.0, "compute"), (400.0, 50, 30.0, 5.0, "hbm"), (400.0, 10, 5.0, 6.0, "interconnect")],
)
def test_the_longest_of_the_three_times_binds(operations, traffic, links, seconds, binding):
    found = bound({"int8": operations}, traffic, (GATHER,), links)
    assert (found.seconds, found.binding) == (seconds, binding)


def test_links_that_are_not_known_bound_nothing():
    assert bound({"int8": 400.0}, 0, (GATHER,), 0.0) == Bound(1.0, 0.0, None)
    assert bound({"int8": 400.0}, 0, (), 0.0) == Bound(1.0, 0.0, 0.0)


def operations(function, *shapes):
    return matmul_operations(jax.jit(function).trace(*(jax.ShapeDtypeStruct(*shape) for shape in shapes)).jaxpr)


def test_a_product_counts_multiplications_and_additions_by_dtype():
    def wide(x, w):
        return jax.lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)

    assert operations(wide, ((2, 3), jnp.int8), ((5, 3), jnp.int8)) == {"int8": 2 * 2 * 3 * 5}
    assert operations(jnp.matmul, ((4, 2, 3), jnp.bfloat16), ((4, 3, 5), jnp.bfloat16)) == {"bfloat16": 4 * 2 * 2 * 3 * 5}


def test_a_product_in_a_loop_counts_every_time():
    def power(x):
        return jax.lax.scan(lambda y, _: (y @ x, None), x, None, length=7)[0]

    assert operations(power, ((3, 3), jnp.float32)) == {"float32": 7 * 2 * 27}


def test_a_product_that_no_result_depends_on_does_not_count():
    def unused(x):
        return jax.lax.map(lambda row: ((row[None] @ x)[0], row)[1], x)

    assert operations(unused, ((3, 3), jnp.float32)) == {}


def test_the_backward_pass_has_two_products_for_one():
    def loss(w, x):
        return jnp.sum((x @ w) ** 2)

    assert operations(jax.grad(loss, (0, 1)), ((3, 5), jnp.float32), ((4, 3), jnp.float32)) == {"float32": 3 * 2 * 3 * 4 * 5}


@pytest.mark.parametrize(
    ("sides", "ring", "links"),
    [
        ([1, 1], 16, 0),
        ([2, 2], 16, 2),
        ([4, 8], 16, 2),
        ([8, 16], 16, 3),
        ([16, 16], 16, 4),
        ([2, 2, 1], 4, 2),
        ([4, 4, 8], 4, 6),
    ],
)
def test_a_corner_has_two_links_along_a_ring_and_one_along_a_line(sides, ring, links):
    assert corner_links(sides, ring) == links
