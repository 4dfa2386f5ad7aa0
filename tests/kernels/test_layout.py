"""The packed layout: which bit of which byte is which weight, and the tensor that lives in it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import sweep

from xtc_jax.kernels import (
    BASE3,
    INT8,
    PLANES256,
    PackedTensor,
    code_width,
    has_illegal_code,
    integer_matmul,
    pack_base3,
    pack_codes,
    pack_tensor,
    packed_width,
    stored_bits,
    unpack_base3,
    unpack_codes,
)

few = settings(deadline=None, max_examples=20)
bits_of_a_code = st.sampled_from([1, 2, 4, 8])
LEVELS = {1: [-1, 1], 2: [-1, 0, 1], **{bits: range(-(2 ** (bits - 1)), 2 ** (bits - 1)) for bits in range(3, 9)}}
every_width = pytest.mark.parametrize("bits", sweep([1, 2, 3, 8, 4, 5, 6, 7], fast=4))
jitted_pack = jax.jit(pack_tensor, static_argnums=(2, 3))


def packed_by_definition(codes, bits):
    """docs/kernels.md, section 1, code by code: code ``j*S + i`` of a block is bits ``bits*j`` upward of its byte ``i``."""
    n, k = codes.shape
    planes, blocks = 8 // bits, []
    for start in range(0, k, 256):
        block = codes[:, start : start + 256]
        size = -(-block.shape[1] // planes)
        packed = np.zeros((n, size), np.uint8)
        for number in range(block.shape[1]):
            j, i = divmod(number, size)
            packed[:, i] |= block[:, number].astype(np.uint8) << (bits * j)
        blocks.append(packed)
    return np.concatenate(blocks, axis=1)


def random_tensor(rng, shape, bits, groups=1, activation=None):
    """Integers, scales and the packed tensor of a symmetric grid."""
    values = jnp.asarray(rng.choice(LEVELS[bits], size=shape), jnp.int8)
    scale = jnp.asarray(rng.uniform(0.5, 2, size=groups), jnp.float32)
    return values, scale, jitted_pack(values, scale, bits, activation)


def asymmetric_tensor(rng, shape, bits, groups=1):
    """The float matrix that an asymmetric grid stands for, and its packed tensor."""
    codes = rng.integers(0, 2**bits, size=shape)
    scale = rng.uniform(0.5, 2, size=groups).astype(np.float32)
    zero = rng.integers(-300, 300, size=groups).astype(np.float32)
    values = ((codes.reshape(groups, -1) + zero[:, None]) * scale[:, None]).reshape(shape).astype(np.float32)
    return values, jitted_pack(jnp.asarray(codes, jnp.float32), jnp.asarray(scale), bits, None, jnp.asarray(zero))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("k", [256, 768, 384, 3])
def test_every_byte_is_the_one_the_format_defines(rng, k, bits):
    codes = rng.integers(0, 2**bits, size=(3, k)).astype(np.uint8)
    np.testing.assert_array_equal(pack_codes(jnp.asarray(codes), bits), packed_by_definition(codes, bits))


@few
@given(st.integers(1, 5), st.integers(1, 600), bits_of_a_code, st.randoms(use_true_random=False))
def test_unpacking_returns_every_code_whatever_the_width(n, k, bits, random):
    codes = np.array([[random.randrange(2**bits) for _ in range(k)] for _ in range(n)], np.uint8)
    packed = jax.jit(pack_codes, static_argnums=1)(codes, bits)
    assert packed.shape == (n, packed_width(k, bits))
    assert packed.dtype == jnp.uint8
    np.testing.assert_array_equal(jax.jit(unpack_codes, static_argnums=(1, 2))(packed, bits, k), codes)


@pytest.mark.parametrize(
    ("k", "bits", "width"),
    [
        (256, 1, 32),
        (256, 2, 64),
        (768, 1, 96),
        (768, 2, 192),
        (384, 1, 48),
        (384, 2, 96),
        (257, 1, 33),
        (9, 1, 2),
        (9, 2, 3),
        (256, 4, 128),
        (384, 4, 192),
        (9, 4, 5),
        (256, 8, 256),
        (9, 8, 9),
    ],
)
def test_a_row_takes_its_bits_rounded_up_to_a_byte(k, bits, width):
    assert packed_width(k, bits) == width


@few
@given(st.integers(1, 4000), bits_of_a_code)
def test_no_row_takes_more_than_one_byte_beyond_its_bits(k, bits):
    assert 0 <= 8 * packed_width(k, bits) - k * bits < 8


def test_3_bits_take_4_and_5_to_7_take_8_so_that_planes_stay_whole():
    assert [stored_bits(bits) for bits in range(1, 9)] == [1, 2, 4, 4, 8, 8, 8, 8]


@pytest.mark.parametrize(
    ("bits", "values", "codes"),
    [
        (1, [-1, 1, 1, -1], [0, 1, 1, 0]),
        (2, [-1, 0, 1, 0], [0, 1, 2, 1]),
        (3, [-4, 0, 3, -1], [0, 4, 7, 3]),
        (4, [-8, 0, 7, -1], [0, 8, 15, 7]),
        (5, [-16, 0, 15, -1], [0, 16, 31, 15]),
        (8, [-128, 0, 127, -1], [0, 128, 255, 127]),
    ],
)
def test_integers_are_stored_from_zero_up(bits, values, codes):
    packed = pack_tensor(jnp.array([values], jnp.int8), jnp.ones(1), bits)
    assert unpack_codes(packed.codes, stored_bits(bits), 4).tolist() == [codes]


def test_integers_of_an_asymmetric_grid_are_stored_as_they_are():
    packed = pack_tensor(jnp.array([[0.0, 255.0, 7.0]]), jnp.array([0.5]), 8, None, jnp.array([-8.0]))
    assert packed.codes.tolist() == [[0, 255, 7]]
    assert packed.dequantize().tolist() == [[-4.0, 123.5, -0.5]]


def test_five_ternary_codes_are_the_digits_of_one_byte():
    assert pack_base3(jnp.array([[2, 0, 1, 0, 2, 1, 2]], jnp.uint8)).tolist() == [[2 + 9 + 2 * 81, 1 + 2 * 3]]


@few
@given(st.integers(1, 4), st.integers(1, 40), st.randoms(use_true_random=False))
def test_base_3_returns_every_code_whatever_the_width_and_takes_a_byte_for_five(n, k, random):
    codes = np.array([[random.randrange(3) for _ in range(k)] for _ in range(n)], np.uint8)
    packed = jax.jit(pack_base3)(codes)
    assert packed.shape == (n, code_width(k, 2, BASE3)) == (n, (k + 4) // 5)
    assert int(packed.max()) <= 242
    np.testing.assert_array_equal(jax.jit(unpack_base3, static_argnums=1)(packed, k), codes)


@pytest.mark.parametrize("k", [3, 256, 384, 768])
def test_a_ternary_tensor_in_base_3_is_the_same_tensor_in_fewer_bytes(rng, k):
    values, _, packed = random_tensor(rng, (4, k), 2, groups=4)
    small = packed.stored(BASE3)
    assert (small.layout, small.stored_bits, packed.stored_bits) == (BASE3, 1.6, 2)
    assert small.codes.nbytes == 4 * ((k + 4) // 5)
    np.testing.assert_array_equal(small.values(), values)
    np.testing.assert_array_equal(small.dequantize(), packed.dequantize())
    np.testing.assert_array_equal(small.rows(jnp.array([2, 0])), packed.rows(jnp.array([2, 0])))
    np.testing.assert_array_equal(small.stored(PLANES256).codes, packed.codes)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_base_3_leaves_other_widths_in_planes(rng, bits):
    _, _, packed = random_tensor(rng, (3, 40), bits)
    assert packed.stored(BASE3) is packed


def test_a_layout_that_files_do_not_have_is_refused_with_those_they_have(rng):
    with pytest.raises(ValueError, match=r"'int8' is no layout of files; use one of planes256\.v1, base3\.v1"):
        random_tensor(rng, (3, 40), 2)[2].stored(INT8)


@pytest.mark.parametrize(("byte", "bits", "layout", "illegal"), [
    (242, 2, BASE3, False), (243, 2, BASE3, True), (0b10_01_00_10, 2, PLANES256, False), (0b11_00_00_00, 2, PLANES256, True),
    (255, 1, PLANES256, False), (0x77, 3, PLANES256, False), (0x80, 3, PLANES256, True), (63, 6, PLANES256, False),
    (64, 6, PLANES256, True), (255, 8, PLANES256, False),
])  # fmt: skip
def test_a_byte_that_no_codes_give_is_seen(byte, bits, layout, illegal):
    assert has_illegal_code(np.array([[0, byte]], np.uint8), bits, layout) == illegal


@pytest.mark.parametrize("layout", [PLANES256, INT8])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_shards_over_rows_and_over_whole_blocks_of_columns_sum_to_the_whole(rng, bits, layout):
    values, _, packed = random_tensor(rng, (6, 1024), bits, groups=6)
    packed = packed.unpacked() if layout == INT8 else packed
    x, half = jnp.asarray(rng.integers(-128, 128, (3, 1024)), jnp.int8), packed.codes.shape[1] // 2
    left, right = (
        dataclasses.replace(packed, codes=codes).shard(columns=2) for codes in (packed.codes[:, :half], packed.codes[:, half:])
    )
    upper = dataclasses.replace(packed, codes=packed.codes[:3], scale=packed.scale[:3]).shard(rows=2)
    whole = np.asarray(x, np.int64) @ np.asarray(values, np.int64).T
    np.testing.assert_array_equal(integer_matmul(x[:, :512], left) + integer_matmul(x[:, 512:], right), whole)
    np.testing.assert_array_equal(integer_matmul(x, upper), whole[:, :3])


@pytest.mark.parametrize(("rows", "columns"), [(4, 1), (1, 4), (1, 3)])
def test_a_shard_that_would_break_a_row_or_a_block_is_refused(rng, rows, columns):
    with pytest.raises(ValueError, match=r"does not split into . x . shards of whole blocks"):
        random_tensor(rng, (6, 512), 2)[2].shard(rows, columns)


SHAPES_AND_GROUPS = [((5, 384), 1), ((5, 384), 5), ((3, 21), 3), ((3, 21), 9), ((3, 20), 6), ((6, 10), 3), ((4, 300), 2)]


@every_width
@pytest.mark.parametrize(("shape", "groups"), SHAPES_AND_GROUPS)
def test_a_packed_tensor_stands_for_its_integers_times_the_scale_of_their_group(rng, shape, groups, bits):
    values, scale, packed = random_tensor(rng, shape, bits, groups)
    np.testing.assert_array_equal(packed.values(), values)
    dequantized = jax.jit(PackedTensor.dequantize)(packed)
    expected = np.asarray(values, np.float32).reshape(groups, -1) * np.asarray(scale)[:, None]
    np.testing.assert_array_equal(dequantized, expected.reshape(shape))
    assert (packed.values().dtype, dequantized.dtype) == (jnp.int8, jnp.float32)
    assert packed.is_integer == (groups in (1, shape[0]))


@pytest.mark.parametrize("bits", sweep(range(3, 9), fast=2))
@pytest.mark.parametrize(("shape", "groups"), SHAPES_AND_GROUPS[1:])
def test_an_asymmetric_tensor_stands_for_its_integers_and_zero_points_times_scales(rng, shape, groups, bits):
    values, packed = asymmetric_tensor(rng, shape, bits, groups)
    np.testing.assert_array_equal(jax.jit(PackedTensor.dequantize)(packed), values)
    assert not packed.is_integer
    with pytest.raises(AssertionError, match="the integers of an asymmetric grid do not fit int8"):
        packed.values()


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("groups", sweep([1, 14, 7, 28], fast=2))
@pytest.mark.parametrize("ids", [[3], [[0, 6, 6], [1, 2, 0]]])
def test_looked_up_rows_are_the_rows_of_the_dequantized_matrix(rng, bits, groups, ids):
    _, _, packed = random_tensor(rng, (7, 40), bits, groups)
    ids, rows = jnp.array(ids), jax.jit(PackedTensor.rows)
    np.testing.assert_array_equal(rows(packed, ids), packed.dequantize()[ids])
    np.testing.assert_array_equal(rows(packed.unpacked(), ids), packed.dequantize()[ids])


@pytest.mark.parametrize("shape_and_groups", [((7, 40), 7), ((6, 10), 3), ((3, 20), 6)])
def test_looked_up_rows_of_groups_over_many_rows_and_of_zero_points_are_those_of_the_matrix(rng, shape_and_groups):
    shape, groups = shape_and_groups
    values, packed = asymmetric_tensor(rng, shape, 4, groups)
    ids = jnp.array([[2, 0], [1, 2]])
    np.testing.assert_array_equal(packed.rows(ids), values[np.asarray(ids)])
    _, _, plain = random_tensor(rng, shape, 2, groups)
    np.testing.assert_array_equal(plain.rows(ids), plain.dequantize()[ids])


@every_width
def test_an_unpacked_tensor_is_the_same_matrix_at_one_byte_per_weight(rng, bits):
    values, _, packed = random_tensor(rng, (4, 24), bits, activation="a8")
    unpacked = packed.unpacked()
    assert (packed.layout, unpacked.layout) == (PLANES256, INT8) == ("planes256.v1", "int8")
    assert (packed.codes.nbytes, unpacked.codes.nbytes) == (4 * 24 * stored_bits(bits) // 8, 4 * 24)
    assert (unpacked.shape, unpacked.bits, unpacked.activation) == ((4, 24), bits, "a8")
    np.testing.assert_array_equal(unpacked.values(), values)
    np.testing.assert_array_equal(unpacked.dequantize(), packed.dequantize())


def test_a_packed_tensor_is_a_pytree_of_codes_scale_and_zero_with_the_rest_static(rng):
    _, _, packed = random_tensor(rng, (4, 24), 2, 4, activation="a8")
    leaves, structure = jax.tree.flatten(packed)
    assert [leaf.shape for leaf in leaves] == [(4, 6), (4,)]
    assert jax.tree.structure(structure.unflatten(leaves)) == structure
    np.testing.assert_array_equal(structure.unflatten(leaves).dequantize(), packed.dequantize())
    assert jax.tree.structure(dataclasses.replace(packed, activation=None)) != structure
    _, asymmetric = asymmetric_tensor(rng, (4, 24), 4, 2)
    assert [leaf.shape for leaf in jax.tree.leaves(asymmetric)] == [(4, 12), (2,), (2,)]


@every_width
def test_packing_and_unpacking_under_jit_give_the_same_bytes_and_values(rng, bits):
    values, scale, jitted = random_tensor(rng, (4, 24), bits, activation="a8")
    packed = pack_tensor(values, scale, bits, "a8")
    assert isinstance(jitted, PackedTensor)
    assert (jitted.shape, jitted.bits, jitted.activation, jitted.layout) == ((4, 24), bits, "a8", PLANES256)
    np.testing.assert_array_equal(jitted.codes, packed.codes)
    np.testing.assert_array_equal(jax.jit(PackedTensor.dequantize)(jitted), packed.dequantize())


def test_scales_that_do_not_divide_the_matrix_are_refused():
    with pytest.raises(ValueError, match=r"^7 scales do not divide a matrix of shape \(4, 16\)$"):
        pack_tensor(jnp.ones((4, 16), jnp.int8), jnp.ones(7), 1)


@pytest.mark.parametrize("bits", [0, 9, -1, 32])
def test_widths_other_than_1_to_8_are_refused(bits):
    with pytest.raises(ValueError, match=f"^bits={bits}: a packed weight has 1 to 8$"):
        pack_tensor(jnp.ones((4, 16), jnp.int8), jnp.ones(1), bits)


def _centred_sum_of_rows(rows, first, second, ids):
    x = rows(first, ids) + rows(second, ids)
    return x - jnp.mean(x, axis=-1, keepdims=True)


def test_rows_are_exact_when_xla_fuses_their_look_up_with_a_reduction(rng):
    # At 4,096 rows XLA:CPU builds one YNNPACK fusion of unpacking, sum and mean.
    first, second = (
        pack_tensor(jnp.asarray(rng.choice([-1, 1], (16, 384)), jnp.int8), jnp.asarray(rng.random(16), jnp.float32), 1)
        for _ in range(2)
    )
    ids = jnp.asarray(rng.integers(0, 16, 4096), jnp.int32)

    def packed(table, ids):
        return table.rows(ids)

    def unpacked(table, ids):
        return table.dequantize()[ids]

    fused = jax.jit(lambda a, b, ids: _centred_sum_of_rows(packed, a, b, ids))(first, second, ids)
    np.testing.assert_allclose(fused, _centred_sum_of_rows(unpacked, first, second, ids), atol=1e-6)


@pytest.mark.xfail(jax.default_backend() == "cpu", reason="XLA:CPU miscompiles int8 sums in YNNPACK fusions", strict=True)
def test_int8_arithmetic_inside_a_fused_reduction_is_correct(rng):
    # The reason for PackedTensor._floats: when this passes, plain int8 arithmetic may come back.
    first, second = (jnp.asarray(rng.integers(0, 2, (4096, 384)), jnp.uint8) for _ in range(2))

    def centred(a, b):
        x = (2 * a.astype(jnp.int8) - 1).astype(jnp.float32) + (2 * b.astype(jnp.int8) - 1).astype(jnp.float32)
        return x - jnp.mean(x, axis=-1, keepdims=True)

    np.testing.assert_allclose(jax.jit(centred)(first, second), centred(first, second), atol=1e-6)
