"""``packed_matmul`` on TPU, interpreted: the same integers as the reference, bit for bit, and its epilogue up to rounding."""

import dataclasses
import math

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tiers import sweep

from xtc_jax.devices import chip
from xtc_jax.kernels import pack_codes, pack_tensor, packed_matmul
from xtc_jax.kernels.packed_matmul import reference
from xtc_jax.kernels.packed_matmul.mosaic_tpu import _gelu, matmul, matmul_bfloat16, prepare
from xtc_jax.kernels.packed_matmul.tpu_tiles import Blocks
from xtc_jax.kernels.packed_matmul.tpu_words import LAYOUT

V5E, V5P, V7 = "TPU v5 lite", "TPU v5p", "TPU7x"
LEVELS = {1: [-1, 1], 2: [-1, 0, 1], 3: range(-4, 4), 4: range(-8, 8), 8: range(-128, 128)}
SHAPES = [(5, 384, 130), (130, 300, 256), (1, 21, 3), (3, 640, 384)]
"""(M, K, N): MiniLM's short block, a ragged last tile of M, a toy; each N in tiles of 128."""
interpreted = jax.jit(matmul, static_argnames=("activation", "dtype", "blocks", "interpret"))
preparing = jax.jit(prepare, static_argnums=1)


def weight(rng, n, k, bits, groups=1, device=V5E):
    """Integers, the packed tensor of them, and that laid out for a TPU."""
    values = rng.choice(LEVELS[bits], size=(n, k))
    scale = jnp.asarray(rng.uniform(0.5, 2, size=groups), jnp.float32)
    packed = jax.jit(pack_tensor, static_argnums=2)(jnp.asarray(values, jnp.int8), scale, bits)
    return values, packed, preparing(packed, device)


def tile(m):
    return Blocks(min(m, 128), 128)


def sums(x, prepared, **options):
    return interpreted(jnp.asarray(x), prepared, dtype=jnp.int32, interpret=True, **options)


@pytest.mark.parametrize(
    ("bits", "m", "k", "n"),
    sweep([(bits, *shape) for bits in LEVELS for shape in (SHAPES if bits < 3 else SHAPES[1:3])], fast=6),
)
def test_sums_of_random_and_of_extreme_integers_are_those_of_an_int64_matmul_bit_for_bit(rng, bits, m, k, n):
    values, packed, prepared = weight(rng, n, k, bits)
    for x in [rng.integers(-128, 128, (m, k)), *(np.full((m, k), level) for level in (-128, 127, 1))]:
        np.testing.assert_array_equal(sums(x.astype(np.int8), prepared, blocks=tile(m)), x @ values.T)
    for level in (min(LEVELS[bits]), max(LEVELS[bits])):
        extreme = preparing(pack_tensor(jnp.full((n, k), level, jnp.int8), packed.scale, bits), V5E)
        np.testing.assert_array_equal(sums(np.full((m, k), -128, np.int8), extreme, blocks=tile(m)), -128 * level * k)


@pytest.mark.parametrize("given", ["float", "int8"])
def test_weights_unpacked_once_serve_every_block_of_tokens(rng, given):
    _, packed, prepared = weight(rng, 256, 384, 2)
    x = jnp.asarray(rng.normal(size=(300, 384)), jnp.float32)
    codes, _ = reference.quantize_tokens(x)
    result = sums(x if given == "float" else codes, prepared, blocks=Blocks(128, 256))
    np.testing.assert_array_equal(result, reference.integer_matmul(codes, packed))


@pytest.mark.parametrize("bits", [1, 2])
def test_the_simulated_memory_of_a_tpu_holds_the_same_sums(rng, bits):
    values, _, prepared = weight(rng, 256, 384, bits)
    x = rng.integers(-128, 128, (5, 384)).astype(np.int8)
    result = matmul(jnp.asarray(x), prepared, dtype=jnp.int32, blocks=Blocks(5, 128), interpret=pltpu.InterpretParams())
    np.testing.assert_array_equal(result, x.astype(np.int64) @ values.T)


def tokens(rng, m, k, dtype):
    """Among ordinary tokens: zeros, infinities, the smallest floats, and levels that lie halfway."""
    x = rng.normal(size=(m, k))
    x[0] = 0
    x[1, :2] = np.inf, -np.inf
    x[2] *= 1e-40
    x[3] = np.arange(k) % 256 / 2 - 64
    return jnp.asarray(x, dtype)


@pytest.mark.parametrize("device", [V5E, V5P, V7])
@pytest.mark.parametrize("n", [128, 384])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_tokens_are_quantized_in_the_kernel_as_the_reference_quantizes_them(rng, device, n, dtype):
    _, packed, prepared = weight(rng, n, 384, 2, device=device)
    x = tokens(rng, 5, 384, dtype)
    codes, _ = reference.quantize_tokens(x)
    np.testing.assert_array_equal(sums(x, prepared, blocks=Blocks(5, 128)), reference.integer_matmul(codes, packed))


def test_an_mxu_without_int8_gives_the_same_sums_from_bfloat16(rng):
    values, _, prepared = weight(rng, 128, 3072, 4, device=V7)  # beyond 2^24, where a float32 sum of odd numbers would round
    for x in (rng.integers(-128, 128, (3, 3072)), np.full((3, 3072), -128)):
        np.testing.assert_array_equal(sums(x.astype(np.int8), prepared), x @ values.T)


def close(result, expected):
    """Up to a few roundings of numbers of this size."""
    dtype, expected = result.dtype, np.asarray(expected, np.float64)
    step = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=2 * step, atol=4 * step * np.abs(expected).max())


@pytest.mark.parametrize(
    ("given", "activation", "groups", "dtype", "blocks"),
    [
        ("float", "", 200, jnp.float32, Blocks(128, 128)),
        ("float", "gelu", 1, jnp.float32, Blocks(128, 128)),
        ("float", "gelu_new", 200, jnp.bfloat16, None),
        ("int8", "gelu", 200, jnp.bfloat16, Blocks(128, 128)),
        ("int8", "relu", 1, jnp.float32, Blocks(130, 128)),
        ("int8", "", 1, jnp.bfloat16, None),
    ],
)
def test_scales_bias_and_activation_are_applied_in_the_kernel(rng, given, activation, groups, dtype, blocks):
    _, packed, prepared = weight(rng, 200, 384, 2, groups)
    x = jnp.asarray(rng.normal(size=(130, 384)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=200) * 9, jnp.float32) if activation else None
    inputs = (x, prepared)
    if given == "int8":
        codes, scale = reference.quantize_tokens(x)
        inputs = (codes, prepared, scale)
    result = interpreted(*inputs, bias=bias, activation=activation, dtype=dtype, blocks=blocks, interpret=True)
    assert result.dtype == dtype
    close(result, packed_matmul(x, packed, bias=bias, activation=activation))


def test_gelu_without_an_erf_instruction_is_no_further_from_the_truth_than_the_one_of_jax():
    y = np.concatenate([np.linspace(-12, 12, 200_001), -np.geomspace(1e-30, 1e30, 10_000)]).astype(np.float32)
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in y.astype(float)])
    errors = [
        np.abs(np.asarray(gelu(y), np.float64) - exact).max()
        for gelu in (jax.jit(lambda y: _gelu(y, chip(V5E))), jax.jit(lambda y: jax.nn.gelu(y, approximate=False)))
    ]
    assert errors[0] < 3.2e-7
    assert errors[0] < errors[1]


@pytest.mark.parametrize(("bits", "field"), [(1, lambda v: v < 0), (2, lambda v: v & 3), (4, lambda v: v & 15)])
def test_whole_blocks_lie_in_the_byte_order_of_files_as_little_endian_words(rng, bits, field):
    values, _, prepared = weight(rng, 128, 768, bits)
    assert (prepared.layout, prepared.device, prepared.shape) == (LAYOUT, V5E, (128, 768))
    in_bytes = np.ascontiguousarray(np.asarray(prepared.codes).T).view(np.uint8)
    np.testing.assert_array_equal(in_bytes, pack_codes(jnp.asarray(field(values), jnp.uint8), bits))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize(("k", "n"), [(768, 768), (768, 3072), (3072, 768), (1024, 4096), (384, 1536), (1536, 384)])
def test_a_weight_takes_its_bits_and_no_more(k, n, bits):
    laid_out = lambda v: prepare(pack_tensor(v, jnp.ones(1), bits), V5E).codes  # noqa: E731
    codes = jax.eval_shape(laid_out, jax.ShapeDtypeStruct((n, k), jnp.int8))
    stored = 512 if bits == 1 and k == 384 else k  # 128 weights of 1 bit fill half of the eight rows of words they take
    assert codes.size * codes.dtype.itemsize == stored * n * bits // 8


@pytest.mark.parametrize("bits", [1, 2])
def test_a_weight_in_layout_int8_stays_one_byte_a_weight(rng, bits):
    values, packed, _ = weight(rng, 130, 384, bits)
    prepared = preparing(packed.unpacked(), V5E)
    assert (prepared.codes.dtype, prepared.codes.shape) == (jnp.int8, (384, 256))
    x = rng.integers(-128, 128, (5, 384)).astype(np.int8)
    np.testing.assert_array_equal(sums(x, prepared), x.astype(np.int64) @ values.T)


def test_the_bfloat16_baseline_is_a_matmul(rng):
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((5, 384), (384, 256)))
    bias, scale = jnp.asarray(rng.normal(size=256), jnp.float32), jnp.array([0.5])
    result = matmul_bfloat16(x, w, scale, bias, V5E, blocks=Blocks(5, 128), interpret=True)
    np.testing.assert_allclose(result, 0.5 * (np.float64(x) @ np.float64(w)) + bias, rtol=3e-6, atol=3e-5)


def test_vmap_over_batches_of_tokens_and_over_stacked_weights(rng):
    pairs = [weight(rng, 256, 384, 2, 256)[1:] for _ in range(2)]
    x = jnp.asarray(rng.normal(size=(2, 130, 384)), jnp.float32)

    def product(x, codes, scale):
        prepared = dataclasses.replace(pairs[0][1], codes=codes, scale=scale)
        return matmul(x, prepared, blocks=Blocks(128, 256), interpret=True)  # weights are kept: each stack its own

    codes, scales = (jnp.stack([getattr(prepared, name) for _, prepared in pairs]) for name in ("codes", "scale"))
    close(jax.vmap(product, (0, None, None))(x, codes[0], scales[0]), packed_matmul(x, pairs[0][0]))
    close(jax.vmap(product)(x, codes, scales), [packed_matmul(x[i], pairs[i][0]) for i in range(2)])


def sharded(function, in_specs, out_specs):
    mesh = Mesh(np.array(jax.devices()), ("d",))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False))


def test_shard_map_with_weights_split_over_n(rng):
    _, packed, prepared = weight(rng, 512, 384, 2, 512)
    x, bias = jnp.asarray(rng.normal(size=(5, 384)), jnp.float32), jnp.asarray(rng.normal(size=512), jnp.float32)

    def local(x, codes, scale, bias):
        shard = dataclasses.replace(prepared, codes=codes, scale=scale, shape=(128, 384))
        return matmul(x, shard, None, bias, interpret=True)

    result = sharded(local, (P(), P(None, "d"), P("d"), P("d")), P(None, "d"))(x, prepared.codes, prepared.scale, bias)
    close(result, packed_matmul(x, packed, bias=bias))


def test_shard_map_with_weights_split_over_k_sums_integers(rng):
    _, packed, prepared = weight(rng, 128, 1024, 1, 128)
    x = jnp.asarray(rng.normal(size=(5, 1024)), jnp.float32)
    tokens, scale = reference.quantize_tokens(x)

    def local(x, codes):
        shard = dataclasses.replace(prepared, codes=codes, shape=(128, 256))
        return jax.lax.psum(matmul(x, shard, dtype=jnp.int32, interpret=True), "d")

    result = sharded(local, (P(None, "d"), P("d")), P())(tokens, prepared.codes)
    np.testing.assert_array_equal(result, reference.integer_matmul(tokens, packed))
    close(reference.epilogue(result, scale, packed.scale), packed_matmul(x, packed))


def test_a_program_for_tpu_is_exported_where_there_is_none(rng):
    _, _, prepared = weight(rng, 256, 384, 1)
    product = jax.jit(lambda x, codes: matmul(x, dataclasses.replace(prepared, codes=codes), activation="gelu"))
    allowed = jax.export.DisabledSafetyCheck.custom_call("tpu_custom_call")
    exported = jax.export.export(product, platforms=["tpu"], disabled_checks=[allowed])(jnp.ones((8, 384)), prepared.codes)
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == ("tpu",)
    assert "tpu_custom_call" in again.mlir_module()
    assert [(aval.shape, str(aval.dtype)) for aval in again.out_avals] == [((8, 256), "float32")]


ONES = jnp.ones((4, 384), jnp.int8)
REFUSED = {
    "no TPU kernel for TPU v4": (pack_tensor(ONES, jnp.ones(1), 2), "TPU v4"),
    "no TPU kernel for NVIDIA H100": (pack_tensor(ONES, jnp.ones(1), 2), "NVIDIA H100"),
    "several scales in a row": (pack_tensor(ONES, jnp.ones(8), 2), V5E),
    "asymmetric": (pack_tensor(ONES, jnp.ones(1), 4, None, jnp.ones(1)), V5E),
    f"layout {LAYOUT} are laid out for something else": (prepare(pack_tensor(ONES, jnp.ones(1), 2), V5E), V5E),
    "over K = 1536 may round": (pack_tensor(jnp.ones((4, 1536), jnp.int8), jnp.ones(1), 8), V7),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_the_kernel_does_not_serve_is_refused_with_the_reason(reason):
    with pytest.raises(NotImplementedError, match=reason):
        prepare(*REFUSED[reason])


def test_a_k_whose_smallest_tile_exceeds_vmem_is_refused():
    huge = jax.ShapeDtypeStruct((128, 100_000), jnp.int8)
    with pytest.raises(NotImplementedError, match=r"^K = 100096: no tile .* fits the VMEM of v5e"):
        jax.eval_shape(lambda v: prepare(pack_tensor(v, jnp.ones(1), 1), V5E), huge)


def test_misuse_is_refused_by_name(rng):
    _, packed, prepared = weight(rng, 256, 384, 2)
    x = jnp.ones((5, 384), jnp.int8)
    with pytest.raises(ValueError, match=r"in layout planes256\.v1 are not a prepared weight"):
        matmul(x, packed)
    with pytest.raises(ValueError, match=r"codes \(24, 256\) .* of shape \(512, 384\); a shard needs the shape of the shard$"):
        matmul(x, dataclasses.replace(prepared, shape=(512, 384)))
    with pytest.raises(ValueError, match="int8 activations need their scales"):
        matmul(x, prepared)
    for blocks in (Blocks(4, 128), Blocks(5, 64), Blocks(128, 128), Blocks(5, 512)):
        with pytest.raises(ValueError, match="both must be multiples of 128 within it, or m the whole of M"):
            matmul(x, prepared, dtype=jnp.int32, blocks=blocks, interpret=True)
