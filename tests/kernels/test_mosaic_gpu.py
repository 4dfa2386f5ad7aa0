"""The Hopper backend: the reference's integers in interpret mode, and a program that lowers for an H100."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from tiers import sweep

from xtc_jax.kernels import PackedTensor, pack_tensor
from xtc_jax.kernels.packed_matmul import gpu_tiles, mosaic_gpu, reference
from xtc_jax.kernels.packed_matmul.gpu_tiles import Blocks

H100 = "NVIDIA H100 80GB HBM3"
mosaic = pytest.mark.skipif(jax.__version_info__ < (0, 11, 2), reason="Mosaic GPU needs JAX 0.11.2")
quantizer = pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="the quantizing kernel needs JAX 0.12")
BASE, LARGE, MINILM = (768, 3072), (1024, 4096), (384, 1536)


def packed(rng, n, k, bits, groups=1):
    """Random weights; row 0 is all -1, row 1 (if there is one) all +1."""
    values = rng.choice([-1, 1] if bits == 1 else [-1, 0, 1], size=(n, k))
    values[0], values[1:2] = -1, 1
    scale = jnp.asarray(rng.uniform(0.5, 2, groups), jnp.float32)
    return pack_tensor(jnp.asarray(values, jnp.int8), scale, bits)


def codes(rng, m, k):
    """Random activations; token 0 is all -128, token 1 (if there is one) all 127."""
    x = rng.integers(-128, 128, size=(m, k))
    x[0], x[1:2] = -128, 127
    return jnp.asarray(x, jnp.int8)


def interpreted(x, weights, *args, **kwargs):
    return mosaic_gpu.matmul(x, mosaic_gpu.prepare(weights, H100), *args, interpret=True, **kwargs)


def lowered_for_h100(f, *shapes, axis="x", size=1):
    """The StableHLO of ``f`` for an H100 that is not here. JAX offers no public way to name such a device."""
    from jax._src import mesh as mesh_lib

    device = mesh_lib.AbstractDevice(H100, 132, "cuda")
    mesh = mesh_lib.AbstractMesh((size,), (axis,), (AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(f).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


def blank(n, k, bits):
    """A prepared weight whose bytes do not matter."""
    bytes_ = jnp.zeros((n + -n % 128, (k + -k % 256) * bits // 8), jnp.int8)
    return PackedTensor(bytes_, jnp.ones(1), (n, k), bits, None, mosaic_gpu.LAYOUT, None, H100)


@mosaic
@pytest.mark.parametrize(
    ("bits", "m", "n", "k", "blocks"),
    sweep(
        [
            (1, 20, 130, 300, Blocks(128, 8, 2)),  # several tiles for each SM, two warpgroups, everything padded
            (2, 20, 130, 300, Blocks(128, 8, 2)),
            (1, 5, 70, 1100, Blocks(64, 16, 3)),  # more blocks of K than stages of the ring
            (2, 130, 64, 256, Blocks(64, 128, 2)),  # a result in two pieces
            (1, 1, 1, 1, Blocks(64, 8, 2)),
        ],
        fast=3,
    ),
)
def test_the_sums_are_those_of_the_reference_bit_for_bit(rng, bits, m, n, k, blocks):
    x, weights = codes(rng, m, k), packed(rng, n, k, bits)
    sums = interpreted(x, weights, dtype=jnp.int32, blocks=blocks)
    assert (sums.dtype, sums.shape) == (jnp.int32, (m, n))
    np.testing.assert_array_equal(sums, reference.integer_matmul(x, weights))


@pytest.mark.slow
@mosaic
def test_neither_kernel_has_a_race(rng):
    from jax.experimental.pallas import mosaic_gpu as plgpu

    weights = packed(rng, 200, 700, 2)
    x = jnp.asarray(rng.normal(size=(20, 700)), jnp.float32)
    sums = mosaic_gpu.matmul(
        x,
        mosaic_gpu.prepare(weights, H100),
        dtype=jnp.int32,
        blocks=Blocks(128, 8, 2),
        interpret=plgpu.InterpretGPUParams(detect_races=True),
    )
    np.testing.assert_array_equal(sums, reference.integer_matmul(reference.quantize_tokens(x)[0], weights))


@mosaic
@pytest.mark.parametrize(
    ("bits", "groups", "bias", "activation", "dtype"),
    [
        (1, 1, False, "", jnp.float32),
        (2, 70, True, "gelu", jnp.float32),
        (2, 1, True, "gelu_new", jnp.bfloat16),
        (1, 70, True, "relu", jnp.float16),
    ],
)
def test_the_epilogue_is_that_of_the_reference(rng, bits, groups, bias, activation, dtype):
    x, weights = codes(rng, 9, 130), packed(rng, 70, 130, bits, groups)
    x_scale = jnp.asarray(rng.uniform(0.001, 0.02, (9, 1)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=70), jnp.float32) if bias else None
    y = interpreted(x, weights, x_scale, bias, activation=activation, dtype=dtype, blocks=Blocks(64, 16, 2))
    expected = reference.epilogue(reference.integer_matmul(x, weights), x_scale, weights.scale, bias, activation, dtype)
    assert y.dtype == dtype
    # The gelu of Abramowitz and Stegun is 1e-7 |y| off; a 16-bit result may then round to its neighbour.
    step = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(jnp.float32), expected.astype(jnp.float32), rtol=step, atol=2e-6)


@mosaic
def test_gelu_without_erf_is_gelu(rng):
    from xtc_jax.kernels.packed_matmul.mosaic_gpu_kernel import ACTIVATIONS, gelu

    y = jnp.concatenate([jnp.linspace(-12, 12, 9999), jnp.asarray([-1e30, 1e30, 0.0])])
    error = jnp.abs(gelu(y) - jax.nn.gelu(y, approximate=False)) / jnp.maximum(1, jnp.abs(y))
    assert error.max() < 2.5e-7
    assert ACTIVATIONS.keys() == reference.ACTIVATIONS.keys()


@quantizer
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_quantizing_kernel_gives_the_codes_scales_and_sums_of_the_reference(rng, dtype):
    from xtc_jax.kernels.packed_matmul.mosaic_gpu_quantize import quantize

    x = rng.normal(size=(10, 384)) * 10.0 ** rng.integers(-30, 30, size=(10, 1))
    x[2], x[3, 7], x[4], x[5, 0] = 0, np.inf, 1e-45, -np.inf
    x = jnp.asarray(x, dtype)
    levels, scales, sums = quantize(x, 16, interpret=True)
    expected, scale = reference.quantize_tokens(x)
    assert (levels.shape, scales.shape, sums.shape) == ((16, 384), (16,), (16,))
    np.testing.assert_array_equal(levels[:10], expected)
    np.testing.assert_array_equal(scales[:10], scale[:, 0])
    np.testing.assert_array_equal(sums[:10], np.asarray(expected, np.int64).sum(1))


@mosaic
@pytest.mark.parametrize("largest", [4096, 128])
def test_float_activations_are_quantized_by_the_kernel_or_by_xla_where_k_is_too_large(rng, monkeypatch, largest):
    from xtc_jax.kernels.packed_matmul import mosaic_gpu_quantize

    monkeypatch.setattr(mosaic_gpu_quantize, "LARGEST_K", largest)
    x, weights = jnp.asarray(rng.normal(size=(3, 130)), jnp.float32), packed(rng, 64, 130, 2)
    levels, x_scale = reference.quantize_tokens(x)
    expected = reference.epilogue(reference.integer_matmul(levels, weights), x_scale, weights.scale)
    np.testing.assert_allclose(interpreted(x, weights, blocks=Blocks(64, 8, 2)), expected, rtol=1e-6)


@mosaic
def test_a_batch_under_vmap_is_another_axis_of_the_grid(rng):
    x, weights = codes(rng, 16, 256).reshape(2, 8, 256), packed(rng, 64, 256, 2)
    f = functools.partial(interpreted, weights=weights, dtype=jnp.int32, blocks=Blocks(64, 8, 2))
    np.testing.assert_array_equal(jax.jit(jax.vmap(f))(x), reference.integer_matmul(x, weights))


@mosaic
@pytest.mark.parametrize(
    ("m", "n", "k", "bits", "dtype"),
    sweep(
        [
            (8, *BASE, 1, jnp.float32),
            (32, *BASE, 2, jnp.bfloat16),
            (128, *MINILM, 2, jnp.float32),
            (512, *BASE[::-1], 2, jnp.bfloat16),
            (512, *LARGE, 1, jnp.float16),
            (4096, *MINILM[::-1], 1, jnp.float32),
            (4096, *LARGE[::-1], 2, jnp.float32),
            (16384, *BASE[::-1], 1, jnp.bfloat16),
            (77, 2, 768, 2, jnp.float32),
        ],
        fast=3,
    ),
)
def test_both_kernels_lower_for_an_h100(m, n, k, bits, dtype):
    x, bias = jax.ShapeDtypeStruct((m, k), dtype), jax.ShapeDtypeStruct((n,), jnp.float32)
    f = functools.partial(mosaic_gpu.matmul, activation="gelu", dtype=dtype)
    weights = blank(n, k, bits)
    text = lowered_for_h100(lambda x, bias: f(x, weights, bias=bias), x, bias)
    assert text.count("@mosaic_gpu_v2") == (2 if jax.__version_info__ >= (0, 12) else 1)


@mosaic
@pytest.mark.parametrize("split", ["n", "k"])
def test_weights_split_over_n_or_k_lower_under_shard_map(split):
    whole = {"n": (4 * 256, 768), "k": (256, 4 * 768)}[split]
    local = blank(256, 768, 2)
    split_x = PartitionSpec(None, "m") if split == "k" else PartitionSpec()
    split_w = PartitionSpec("m") if split == "n" else PartitionSpec(None, "m")

    def part(x, packed):
        sums = mosaic_gpu.matmul(x, dataclasses.replace(local, codes=packed), dtype=jnp.int32)
        return jax.lax.psum(sums, "m") if split == "k" else sums

    def f(x, packed):
        out = PartitionSpec() if split == "k" else PartitionSpec(None, "m")
        return jax.shard_map(part, in_specs=(split_x, split_w), out_specs=out)(x, packed)

    shapes = jax.ShapeDtypeStruct((64, whole[1]), jnp.int8), jax.ShapeDtypeStruct((whole[0], whole[1] // 4), jnp.int8)
    assert "@mosaic_gpu_v2" in lowered_for_h100(f, *shapes, axis="m", size=4)


@mosaic
def test_a_program_can_be_exported(rng):
    from jax import export

    local = blank(768, 768, 2)
    unchecked = [export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
    f = jax.jit(lambda x, c, s: mosaic_gpu.matmul(x, dataclasses.replace(local, codes=c, scale=s)))
    x = jax.ShapeDtypeStruct((64, 768), jnp.float32)
    exported = export.export(f, platforms=["cuda"], disabled_checks=unchecked)(x, local.codes, local.scale)
    again = export.deserialize(exported.serialize())
    assert (again.platforms, again.out_avals[0].shape) == (("cuda",), (64, 768))


@mosaic
@pytest.mark.parametrize(("bits", "dtype"), [(1, jnp.float32), (2, jnp.bfloat16)])
def test_shared_memory_is_what_mosaic_counts(bits, dtype):
    # Mosaic GPU says what a kernel needs only when that is too much.
    from xtc_jax.kernels.packed_matmul.mosaic_gpu_kernel import Kernel

    blocks = Blocks(128, 256, 6)
    weights, needed = blank(128, 256 * 6, bits), gpu_tiles.shared_memory(blocks, bits, dtype)
    kernel = Kernel(bits, blocks, "", jnp.dtype(dtype), False, ("row_sum", "token_scale", "scale"))
    vectors = [jax.ShapeDtypeStruct((size,), kind) for size, kind in ((256, jnp.int32), (256, jnp.float32), (1, jnp.float32))]
    with pytest.raises(ValueError, match=rf"smem_bytes={needed} > max_smem_bytes={gpu_tiles.SHARED_MEMORY}$"):
        lowered_for_h100(kernel, weights.codes, jax.ShapeDtypeStruct((256, 256 * 6), jnp.int8), *vectors)


def test_candidates_fit_an_sm_and_few_tokens_get_small_tiles():
    for m, bits, dtype in [(1, 1, jnp.float32), (32, 2, jnp.bfloat16), (4096, 2, jnp.float32)]:
        candidates = gpu_tiles.candidates(m, bits, dtype)
        assert max(gpu_tiles.shared_memory(blocks, bits, dtype) for blocks in candidates) <= 227 * 1024
        assert max(blocks.tokens for blocks in candidates) <= max(8, 2 * m - 1)
    assert Blocks(128, 256, 2) in candidates
    assert Blocks(128, 256, 3) not in candidates
    assert not gpu_tiles.fits(Blocks(128, 256, 3), 2, jnp.float32)


@pytest.mark.parametrize(
    ("m", "n", "tile"), [(8, 768, (64, 8)), (32, 3072, (64, 16)), (4096, 768, (128, 256)), (16384, 3072, (128, 256))]
)
def test_untuned_tiles_keep_the_sms_busy_in_the_fewest_rounds(m, n, tile):
    blocks = gpu_tiles.default_blocks(m, n, 2, jnp.bfloat16)
    assert (blocks.rows, blocks.tokens) == tile


@mosaic
@pytest.mark.parametrize(("n", "k", "shape"), [(768, 768, (768, 192)), (70, 384, (128, 128)), (2, 1, (128, 64))])
def test_a_prepared_weight_is_padded_to_whole_tiles_and_keeps_its_logical_shape(rng, n, k, shape):
    weights = packed(rng, n, k, 2)
    prepared = mosaic_gpu.prepare(weights, H100)
    assert (prepared.codes.shape, prepared.codes.dtype) == (shape, jnp.int8)
    assert (prepared.shape, prepared.layout, prepared.device) == ((n, k), "gpu_planes256.v1", H100)
    if k % 256 == 0:
        np.testing.assert_array_equal(prepared.codes[:n].view(jnp.uint8), weights.codes)


@pytest.mark.skipif(jax.__version_info__ >= (0, 11, 2), reason="this JAX has Mosaic GPU")
def test_an_old_jax_is_refused(rng):
    for call in (lambda w: mosaic_gpu.prepare(w, H100), lambda w: mosaic_gpu.matmul(codes(rng, 8, 256), w)):
        with pytest.raises(NotImplementedError, match=r"^Mosaic GPU needs JAX 0\.11\.2 or newer; this is 0\.1"):
            call(packed(rng, 64, 256, 2))


@mosaic
@pytest.mark.parametrize("kind", ["NVIDIA A100-SXM4-80GB", "NVIDIA B200", "TPU v5 lite", "cpu", "NVIDIA RTX 2000"])
def test_other_devices_are_refused(rng, kind):
    with pytest.raises(NotImplementedError, match=rf"^{kind}: the kernel is for Hopper GPUs \(sm_90\)$"):
        mosaic_gpu.prepare(packed(rng, 64, 256, 2), kind)


@mosaic
@pytest.mark.parametrize("kind", [H100, "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA GH200 480GB", "NVIDIA H20"])
def test_every_hopper_gpu_is_served(rng, kind):
    assert mosaic_gpu.prepare(packed(rng, 64, 256, 2), kind).device == kind


@mosaic
def test_weights_that_the_kernel_cannot_multiply_are_refused(rng):
    values = jnp.asarray(rng.integers(-8, 8, size=(4, 256)), jnp.int8)
    with pytest.raises(NotImplementedError, match=r"^bits=4: the kernel is for 1 and 2$"):
        mosaic_gpu.prepare(pack_tensor(values, jnp.ones(1), 4), H100)
    with pytest.raises(NotImplementedError, match=r"^zero points or scales inside a row"):
        mosaic_gpu.prepare(packed(rng, 4, 256, 2, groups=8), H100)
    with pytest.raises(ValueError, match=r"^prepare takes weights in layout planes256\.v1, not int8$"):
        mosaic_gpu.prepare(packed(rng, 4, 256, 2).unpacked(), H100)


@mosaic
def test_shapes_that_do_not_belong_together_are_refused(rng):
    x, weights = codes(rng, 8, 256), packed(rng, 64, 256, 2)
    with pytest.raises(ValueError, match=r"^matmul takes weights in layout gpu_planes256\.v1, not planes256\.v1$"):
        mosaic_gpu.matmul(x, weights, interpret=True)
    with pytest.raises(ValueError, match=r"^x has K=256, the weights have K=512$"):
        interpreted(x, packed(rng, 64, 512, 2))
    with pytest.raises(ValueError, match=r"^x is int8 and has no x_scale$"):
        interpreted(x, weights)
    with pytest.raises(NotImplementedError, match=r"^Blocks\(rows=128, tokens=256, stages=6\): an SM has 232448 bytes"):
        interpreted(x, weights, dtype=jnp.int32, blocks=Blocks(128, 256, 6))


def test_a_tile_that_wgmma_has_not_is_refused():
    with pytest.raises(ValueError, match=r"^Blocks\(rows=64, tokens=12, stages=2\): rows are of \(64, 128\), tokens of"):
        Blocks(64, 12, 2)
