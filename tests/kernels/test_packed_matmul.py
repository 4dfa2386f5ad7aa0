"""int8 activations times packed weights: exact integers, then two scales."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from xtc_jax.kernels import BASE3, choose, integer_matmul, pack_tensor, packed_matmul, prepare, unpack_codes
from xtc_jax.kernels.packed_matmul import cpu
from xtc_jax.kernels.packed_matmul.reference import quantize_tokens
from xtc_jax.quantize import ActivationSpec, activation_levels

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
    result = packed_matmul(jnp.asarray(x, jnp.int8), packed(w, bits, scale), x_scale=jnp.asarray(x_scale))
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, (x @ w.T).astype(np.float32) * (x_scale * scale))


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), ()])
def test_one_scale_may_serve_many_tokens(rng, bits, shape):
    x, w = case(rng, (2, 3), 5, 40, bits)
    x, x_scale = jnp.asarray(x, jnp.int8), jnp.asarray(rng.uniform(0.5, 2, shape), jnp.float32)
    each = jnp.broadcast_to(x_scale, (2, 3, 1))
    np.testing.assert_array_equal(
        packed_matmul(x, packed(w, bits), x_scale=x_scale), packed_matmul(x, packed(w, bits), x_scale=each)
    )


@pytest.mark.parametrize("bits", LEVELS)
def test_a_weight_in_layout_int8_gives_the_same_bits(rng, bits):
    x, w = case(rng, (4,), 6, 300, bits)
    x, x_scale, weights = jnp.asarray(x, jnp.int8), jnp.full((4, 1), 0.1), packed(w, bits, 0.3)
    np.testing.assert_array_equal(
        packed_matmul(x, weights.unpacked(), x_scale=x_scale), packed_matmul(x, weights, x_scale=x_scale)
    )


@pytest.mark.parametrize("bits", [1, 2])
def test_jit_gives_the_same_bits(rng, bits):
    x, w = case(rng, (4,), 6, 300, bits)
    x, x_scale, weights = jnp.asarray(x, jnp.int8), jnp.full((4, 1), 0.1), packed(w, bits, 0.3)
    np.testing.assert_array_equal(
        jax.jit(packed_matmul)(x, weights, x_scale=x_scale), packed_matmul(x, weights, x_scale=x_scale)
    )


@pytest.mark.parametrize(("bits", "factor"), [(1, 2), (2, 1)])
@pytest.mark.parametrize(("batch", "n", "k"), SHAPES)
def test_unsigned_codes_need_one_subtraction_of_the_row_sum_and_binary_ones_doubling(rng, batch, n, k, bits, factor):
    x, w = case(rng, batch, n, k, bits)
    codes = np.asarray(jax.jit(unpack_codes, static_argnums=(1, 2))(packed(w, bits).codes, bits, k), np.int64)
    np.testing.assert_array_equal(factor * (x @ codes.T) - x.sum(-1, keepdims=True), x @ w.T)


def test_float_activations_are_quantized_per_token_as_in_training_to_the_bit(rng):
    x = jnp.asarray(rng.normal(size=(5, 384)), jnp.float32).at[2].set(0).at[3, 7].set(jnp.inf)
    codes, scale = jax.jit(quantize_tokens)(x)
    trained = activation_levels(x, ActivationSpec(8))
    np.testing.assert_array_equal(codes, trained.codes.astype(jnp.int8))
    np.testing.assert_array_equal(scale, trained.scale)
    weights = packed(case(rng, (), 6, 384, 2)[1], 2, 0.3)
    np.testing.assert_array_equal(packed_matmul(x, weights), packed_matmul(codes, weights, x_scale=scale))


@pytest.mark.parametrize("activation", ["", "gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bias_and_activation_follow_the_scaled_sum(rng, activation, dtype):
    x, w = case(rng, (4,), 6, 40, 2)
    x_scale, bias = jnp.full((4, 1), 0.01), jnp.asarray(rng.normal(size=6), jnp.float32)
    y = jnp.asarray((x @ w.T).astype(np.float32)) * (0.01 * 0.3) + bias
    function = {"": lambda y: y, "gelu": lambda y: 0.5 * y * (1 + jax.lax.erf(y / np.float32(2**0.5))), "relu": jax.nn.relu,
                "gelu_new": functools.partial(jax.nn.gelu, approximate=True)}[activation]  # fmt: skip
    weights = packed(w, 2, 0.3)
    result = packed_matmul(jnp.asarray(x, jnp.int8), weights, x_scale=x_scale, bias=bias, activation=activation, dtype=dtype)
    assert result.dtype == dtype
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(result.astype(jnp.float32), function(y), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("split", ["rows", "columns"])
@pytest.mark.parametrize("bits", [1, 2])
def test_under_shard_map_the_integers_of_a_split_weight_are_those_of_the_whole(rng, bits, split):
    x, w = case(rng, (3,), 8, 1024, bits)
    mesh = jax.make_mesh((2,), ("tensor",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    weights, x = packed(w, bits, rng.uniform(0.5, 2, 8)), jnp.asarray(x, jnp.int8)

    def local(x, codes, scale):
        mine = dataclasses.replace(weights, codes=codes, scale=scale)
        if split == "rows":
            return integer_matmul(x, mine.shard(rows=2))
        return jax.lax.psum(integer_matmul(x, mine.shard(columns=2)), "tensor")

    rows = P(None, None), P("tensor", None), P("tensor")
    columns = P(None, "tensor"), P(None, "tensor"), P(None)
    specs, out = (rows, P(None, "tensor")) if split == "rows" else (columns, P(None, None))
    sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out))
    np.testing.assert_array_equal(sharded(x, weights.codes, weights.scale), np.asarray(x, np.int64) @ w.T)


@pytest.mark.parametrize("axis", [None, 0])
def test_vmap_multiplies_each_batch_by_one_weight_or_by_its_own(rng, axis):
    x, w = (rng.integers(-128, 128, size=(3, 4, 40)), rng.choice(LEVELS[2], size=(3, 5, 40)))
    many = [packed(each, 2) for each in w]
    codes = many[0].codes if axis is None else jnp.stack([each.codes for each in many])
    multiply = jax.vmap(lambda x, codes: integer_matmul(x, dataclasses.replace(many[0], codes=codes)), in_axes=(0, axis))
    result = multiply(jnp.asarray(x, jnp.int8), codes)
    np.testing.assert_array_equal(result, x @ (w[:1] if axis is None else w).swapaxes(1, 2))


def test_an_exported_program_is_read_back_and_gives_the_same_bits(rng):
    x, w = case(rng, (4,), 6, 300, 2)
    weights, x = packed(w, 2, 0.3).unpacked(), jnp.asarray(x, jnp.int8)
    arguments = x, weights.codes, weights.scale

    def program(x, codes, scale):
        return packed_matmul(x, dataclasses.replace(weights, codes=codes, scale=scale), x_scale=jnp.float32(0.1))

    exported = jax.export.export(jax.jit(program), platforms=("cpu", "cuda", "tpu"))(*arguments)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_array_equal(again.call(*arguments), program(*arguments))


def test_a_cpu_without_the_native_library_multiplies_weights_that_were_unpacked_once_and_says_why(rng, monkeypatch):
    monkeypatch.setattr(cpu, "library", lambda: "the native library is not built")
    weights = packed(case(rng, (), 6, 300, 2)[1], 2)
    choice = choose(weights, "cpu")
    assert choice.backend == "xla"
    assert choice.why == "int8, unpacked once; the native library is not built"
    assert prepare(weights, "cpu").layout == "int8"
    assert prepare(weights, "cpu", "reference").layout == "planes256.v1"
    assert choose(weights, "cpu", "reference").why == "as asked"


def test_a_weight_that_a_backend_cannot_serve_goes_to_the_next_and_the_reason_is_told(rng, monkeypatch):
    monkeypatch.setattr(cpu, "library", lambda: "the native library is not built")
    weights = packed(case(rng, (), 6, 300, 2)[1], 2, np.ones(12))
    choice = choose(weights, "cpu")
    assert choice.backend == "reference"
    assert choice.why == "the next that serves it; xla: zero points, or groups inside a row: no integer product"
    with pytest.raises(ValueError, match=r"no backend multiplies this weight on cpu: xla: zero points"):
        choose(weights, "cpu", "xla")
    with pytest.raises(ValueError, match=r"backend 'cuda' is not known; use one of .*xla, reference"):
        choose(weights, "cpu", "cuda")


def wrong(**changes):
    """A call of ``packed_matmul`` with something that does not fit."""
    codes = np.ones((6, 300))
    call = {"x": jnp.ones((4, 300)), "weights": packed(codes, 2), "x_scale": None, "bias": None}
    return call | changes


@pytest.mark.parametrize(("changes", "error", "complaint"), [
    ({"x": jnp.ones((4, 299))}, ValueError, r"x of shape \(4, 299\) does not fit .*\(6, 300\): its last axis must be 300"),
    ({"x": jnp.ones((4, 300), jnp.int8)}, TypeError, r"x is int8 without x_scale"),
    ({"x_scale": jnp.ones((4, 1))}, TypeError, r"x is float32 with x_scale"),
    ({"bias": jnp.ones(5)}, ValueError, r"bias of shape \(5,\) does not fit .*must be \(6,\)"),
    ({"activation": "tanh"}, ValueError, r"activation 'tanh' is not known; use one of gelu, gelu_new, relu or ''"),
    ({"dtype": jnp.int32}, TypeError, r"returns floats, not int32; integer_matmul returns the int32 sums"),
])  # fmt: skip
def test_operands_that_do_not_fit_are_refused(changes, error, complaint):
    call = wrong(**changes)
    with pytest.raises(error, match=complaint):
        packed_matmul(call.pop("x"), call.pop("weights"), **call)


@pytest.mark.parametrize(("changes", "complaint"), [
    ({"layout": "planes256.v2"}, r"a weight in layout 'planes256\.v2', which is not known here .*is xtc_jax too old\?"),
    ({"layout": BASE3}, r"codes of shape \(6, 75\) are not those of a weight of shape \(6, 300\): \(6, 60\)"),
    ({"shape": (6, 301)}, r"its last axis must be 301"),
    ({"shape": (5, 300)}, r"codes of shape \(6, 75\) are not those of a weight of shape \(5, 300\): \(5, 75\)"),
    ({"zero": np.zeros(1, np.float32)}, r"a weight with zero points or groups inside its rows has no integer product"),
])  # fmt: skip
def test_a_weight_that_is_not_what_it_says_is_refused(changes, complaint):
    weights = dataclasses.replace(wrong()["weights"], **changes)
    with pytest.raises(ValueError, match=complaint):
        packed_matmul(jnp.ones((4, 300)), weights)


def test_codes_of_activations_are_those_of_the_reciprocal_and_beside_a_half_the_next_to_those_of_the_division():
    """As the docstring has it; student and packed model do the same, which is what the equality of their logits needs."""
    x = np.random.default_rng(0).normal(size=(4096, 768)).astype(np.float32)
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(128)
    codes, found = jax.jit(quantize_tokens)(x)
    np.testing.assert_array_equal(found, scale)
    np.testing.assert_array_equal(codes, np.clip(np.round(x * (np.float32(1) / scale)), -128, 127))
    np.testing.assert_array_equal(codes, jax.jit(lambda x: activation_levels(x, ActivationSpec(8)).codes)(x))
    quotient = x / scale
    differ = np.asarray(codes) != np.clip(np.round(quotient), -128, 127)
    assert differ.sum() == 5
    np.testing.assert_allclose(np.abs(quotient[differ]) % 1, 0.5, atol=2e-5)
