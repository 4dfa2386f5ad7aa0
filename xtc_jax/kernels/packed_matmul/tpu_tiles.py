"""What a TPU generation can do, what a tile of the kernel takes of it, and which tile to use."""

from dataclasses import dataclass
from typing import Any

from xtc_jax.devices import MIB, Chip
from xtc_jax.kernels.packed_matmul import tuning
from xtc_jax.kernels.packed_matmul.tpu_words import LANES, padded

LARGEST_STEP = 512 * 768 * 3072
"""Multiply-adds of one step at most: the compiler unrolls a step whole, here into some ten thousand bundles."""


@dataclass(frozen=True)
class Blocks:
    """Rows of x (``m``) and rows of the weight (``n``) that one step of the grid multiplies, over the whole of K."""

    m: int
    n: int


@dataclass(frozen=True)
class Shape:
    """A matmul ``(m, k) x (k, n)``, K and N padded: bits of a stored weight (16: bfloat16), types of x and of the result."""

    m: int
    k: int
    n: int
    bits: int
    x: Any
    out: Any


def vmem_bytes(shape: Shape, blocks: Blocks) -> int:
    """VMEM of one step, in bytes: an upper bound of what the compiler allots, as the tests show.

    Two buffers of each operand and of the result (one is copied while the other is worked on), the tokens as floats and as
    quantized, the weights as the MXU takes them (int8, perhaps twice, or bfloat16), and the sums.
    """
    m, n, k, bits = -(-blocks.m // 32) * 32, blocks.n, shape.k, shape.bits
    buffers = 2 * (m * k * shape.x.itemsize + k * n * max(bits, 2) // 8 + m * n * shape.out.itemsize + 2 * 8 * (n + m) * 4)
    tokens = m * k * 4 + m * k * (2 if bits == 16 else 1) + m * LANES * 4
    unpacked = 2 * k * n
    return buffers + tokens + unpacked + m * n * 4 + MIB


def fits(device: Chip, shape: Shape, blocks: Blocks) -> bool:
    """Whether a step leaves an eighth of VMEM to the compiler."""
    return vmem_bytes(shape, blocks) <= device.vmem - device.vmem // 8


def choose(device: Chip, shape: Shape) -> Blocks:
    """The tile of the tuning table, or else the largest that fits.

    Raises:
      NotImplementedError: none fits; K is not divided.
    """
    tuned = tuning.lookup(f"tpu_{device.name}", shape.bits, shape.k, shape.n, shape.m)
    if tuned is not None:
        blocks = Blocks(_even(shape.m, int(tuned["block_m"])), int(tuned["block_n"]))
        if fits(device, shape, blocks):
            return blocks
    for rows in (512, 256, 128):
        m = _even(shape.m, rows)
        for parts in range(1, shape.n // LANES + 1):
            blocks = Blocks(m, padded(-(-shape.n // parts)))
            if m * shape.k * blocks.n <= LARGEST_STEP and fits(device, shape, blocks):
                return blocks
    raise NotImplementedError(
        f"K = {shape.k}: no tile of a TPU kernel that holds the whole of K fits the VMEM of {device.name}"
    )


def _even(m: int, rows: int) -> int:
    """All of M, or the multiple of 128 that divides it most evenly into blocks of at most ``rows``."""
    return m if m <= rows else padded(-(-m // -(-m // rows)))


def legal(shape: Shape, blocks: Blocks) -> bool:
    """Whether a grid can be cut so: N into multiples of 128, M into multiples of 128 or not at all."""
    whole = blocks.m == shape.m
    return (whole or (0 < blocks.m < shape.m and blocks.m % LANES == 0)) and 0 < blocks.n <= shape.n and blocks.n % LANES == 0
