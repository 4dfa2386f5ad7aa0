"""Tiles of the TPU kernel: always legal, always within VMEM, and those of the tuning tables where there is one."""

import itertools

import jax.numpy as jnp
import pytest

from xtc_jax.devices import CHIPS, MIB, chip
from xtc_jax.kernels.packed_matmul import tuning
from xtc_jax.kernels.packed_matmul.tpu_tiles import Blocks, Shape, choose, fits, legal, padded, vmem_bytes

FLOAT32, BFLOAT16 = jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)
LAYERS = [(k, n) for h in (768, 1024, 384) for k, n in ((h, h), (h, 4 * h), (4 * h, h))]
"""(K, N) of BERT-base, BERT-large and MiniLM."""
TUNED_M = (8, 32, 128, 512, 4096, 16384)
TUNED = ("v5e", "v5p", "v6e")
chips = pytest.mark.parametrize("name", sorted(set(CHIPS)))


@chips
def test_every_chosen_tile_is_legal_and_within_vmem_whatever_m_n_k_and_the_types(name):
    sizes = itertools.product((1, 8, 130, 512, 5000), (128, 384, 3072, 30592), (128, 768, 4096), (1, 2, 4, 8, 16))
    for m, n, k, bits in sizes:
        for dtype in (FLOAT32, BFLOAT16):
            shape = Shape(m, k, n, bits, dtype, dtype)
            blocks = choose(chip(name), shape)
            assert legal(shape, blocks), (shape, blocks)
            assert fits(chip(name), shape, blocks)


def test_vmem_grows_with_every_side_of_a_tile_and_with_every_type():
    small = vmem_bytes(Shape(512, 768, 768, 2, BFLOAT16, BFLOAT16), Blocks(128, 256))
    for shape, blocks in (
        (Shape(512, 768, 768, 2, BFLOAT16, BFLOAT16), Blocks(256, 256)),
        (Shape(512, 768, 768, 2, BFLOAT16, BFLOAT16), Blocks(128, 384)),
        (Shape(512, 1024, 768, 2, BFLOAT16, BFLOAT16), Blocks(128, 256)),
        (Shape(512, 768, 768, 8, BFLOAT16, BFLOAT16), Blocks(128, 256)),
        (Shape(512, 768, 768, 2, FLOAT32, BFLOAT16), Blocks(128, 256)),
        (Shape(512, 768, 768, 2, BFLOAT16, FLOAT32), Blocks(128, 256)),
    ):
        assert vmem_bytes(shape, blocks) > small


def test_vmem_of_a_tile_counted_by_hand():
    # x 2 * 512 * 768 * 4, words 2 * 768 * 3072 / 4, result 2 * 512 * 3072 * 4, rows and scales 2 * 2 * 8 * (3072 + 512) * 4;
    # tokens 512 * 768 * (4 + 1), their scales 512 * 128 * 4, unpacked 2 * 768 * 3072, sums 512 * 3072 * 4, and 1 MiB
    counted = 3145728 + 1179648 + 12582912 + 458752 + 1966080 + 262144 + 4718592 + 6291456 + MIB
    assert vmem_bytes(Shape(4096, 768, 3072, 2, FLOAT32, FLOAT32), Blocks(512, 3072)) == counted


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_a_table_holds_every_layer_at_every_m_with_a_prediction_no_better_than_the_roofline(name, bits):
    rows = [row for row in tuning.rows(f"tpu_{name}") if row["bits"] == bits]
    assert sorted((row["k"], row["n"], row["m"]) for row in rows) == sorted((k, n, m) for k, n in LAYERS for m in TUNED_M)
    for row in rows:
        assert row["predicted_us"] >= row["roofline_us"] > 0
        assert row["bundles"] > 0


@pytest.mark.parametrize("name", TUNED)
def test_the_tile_of_the_table_is_the_one_used(name):
    (device,) = {device for device in CHIPS.values() if device.name == name}
    for row in tuning.rows(f"tpu_{name}"):
        for dtype in (BFLOAT16, FLOAT32):
            shape = Shape(row["m"], row["k"], row["n"], row["bits"], dtype, dtype)
            assert choose(device, shape) == Blocks(row["block_m"], row["block_n"])


def test_an_m_between_two_that_were_tuned_takes_the_larger_ones_tile_cut_evenly():
    k, n = LAYERS[0]
    row = tuning.lookup("tpu_v5e", 2, k, n, 700)
    assert row["m"] == 4096
    assert tuning.lookup("tpu_v5e", 2, k, n, 100_000)["m"] == 16384
    m = choose(chip("TPU v5e"), Shape(700, k, n, 2, BFLOAT16, BFLOAT16)).m
    assert m % 128 == 0
    assert -(-700 // m) == -(-700 // row["block_m"])
    assert padded(700) - m * (-(-700 // m)) <= 0


def test_what_was_not_tuned_has_no_row():
    assert tuning.lookup("tpu_v5e", 2, 640, 640, 8) is None
    assert tuning.lookup("no_such_table", 2, 768, 768, 8) is None
    assert tuning.rows("no_such_table") == []
