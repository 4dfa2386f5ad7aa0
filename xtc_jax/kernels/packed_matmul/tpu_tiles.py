"""What a TPU generation can do, what a tile of the kernel takes of it, and which tile to use."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from xtc_jax.kernels.packed_matmul import tuning
from xtc_jax.kernels.packed_matmul.tpu_words import LANES, padded

MIB = 2**20
LARGEST_STEP = 512 * 768 * 3072
"""Multiply-adds of one step at most: the compiler unrolls a step whole, here into some ten thousand bundles."""


@dataclass(frozen=True)
class Chip:
    """One TPU generation, as one JAX device sees it.

    Attributes:
      name: short name, that of its tuning table ``tuning/tpu_<name>.json``.
      cores: TensorCores in one device; two divide the parallel dimensions of a grid between them.
      vmem: bytes of vector memory per core.
      bandwidth: bytes per second from HBM, the whole device.
      clock: Hz.
      operations: dense int8 operations per second, or bfloat16 ones where ``int8`` is false; the whole device.
      int8: whether the MXU multiplies int8; weights are unpacked to bfloat16 where it does not.
      erf: whether erf is an instruction. Elsewhere a polynomial takes half of the bundles of what the compiler makes of it.
    """

    name: str
    cores: int
    vmem: int
    bandwidth: float
    clock: float
    operations: float
    int8: bool
    erf: bool


_V5E = Chip("v5e", 1, 128 * MIB, 0.82e12, 1.50e9, 394e12, int8=True, erf=False)
_V5P = Chip("v5p", 2, 64 * MIB, 2.46e12, 1.75e9, 918e12, int8=True, erf=False)
_V6E = Chip("v6e", 1, 128 * MIB, 1.64e12, 1.75e9, 1840e12, int8=True, erf=True)
_V7 = Chip("v7", 1, 64 * MIB, 3.70e12, 2.20e9, 1155e12, int8=False, erf=True)
CHIPS: Mapping[str, Chip] = MappingProxyType(
    {"TPU v5 lite": _V5E, "TPU v5e": _V5E, "TPU v5": _V5P, "TPU v5p": _V5P, "TPU v6 lite": _V6E, "TPU v6e": _V6E, "TPU7x": _V7}
)
"""By ``jax.Device.device_kind``. From JAX's own table (``jax/_src/tpu_info.py``, 0.12.0.1), but for the clock, which is
the bfloat16 peak over what four MXUs of 128 x 128 (v5) or 256 x 256 (later) do in a cycle, and for ``erf``, which is
what the compiler emits."""


def chip(device_kind: str) -> Chip:
    """The generation of ``device_kind``.

    Raises:
      NotImplementedError: no TPU, or one that this kernel does not serve.
    """
    if device_kind not in CHIPS:
        raise NotImplementedError(f"no TPU kernel for {device_kind}: there is one for {', '.join(CHIPS)}")
    return CHIPS[device_kind]


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
    """Whether a grid can be cut so: N into multiples of 128, M likewise or not at all."""
    whole = blocks.m == shape.m
    return (whole or (0 < blocks.m < shape.m and blocks.m % LANES == 0)) and 0 < blocks.n <= shape.n and blocks.n % LANES == 0
