"""The packed layout ``planes256.v1``: how codes of 1, 2, 4 and 8 bits lie in bytes.

A weight is output-major, ``(N, K)`` in torch order. Each row is packed by itself, along K, in blocks of
256 codes. With ``P = 8 / bits`` planes of ``S = 256 / P`` codes, code ``j * S + i`` of a block lies in byte ``i``
of the block, in bits ``bits * j`` to ``bits * j + bits - 1``::

    2 bits, one block of 256 codes in 64 bytes        1 bit, 256 codes in 32 bytes
    byte i:  | i+192 | i+128 | i+64 |  i  |           byte i: | i+224 | … | i+32 | i |
    bits:      7   6   5   4  3   2  1   0            bits:       7    …     1     0

so a shift and a mask give S *consecutive* codes and no lane is ever shuffled (kernels.md section 1).
A last block of ``T < 256`` codes is packed the same way with ``S = ceil(T / P)``, so that a row takes
``bits`` bits per weight whatever K is, rounded up to a byte (MiniLM's 384 = 256 + 128).

Codes are unsigned: ternary ``t`` is stored as ``t + 1`` (code 3 is illegal), binary ``w`` as ``(w + 1) / 2``, symmetric
integers of b bits with ``2^(b-1)`` added, asymmetric ones as they are. 3 bits take 4, and 5 to 7 take 8, so that planes
stay whole.
"""

import functools
import math
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8, UInt8

PLANES256 = "planes256.v1"
"""Codes packed as above; the layout of files."""
INT8 = "int8"
"""One int8 per weight, the values themselves: what XLA multiplies once a file is loaded."""
BLOCK = 256


def stored_bits(bits: int) -> int:
    """Bits that a code of ``bits`` takes: the next power of two."""
    return 1 << (bits - 1).bit_length()


def packed_width(k: int, bits: int) -> int:
    """Bytes of one packed row of ``k`` codes."""
    return k // BLOCK * (BLOCK * bits // 8) + math.ceil(k % BLOCK * bits / 8)


def pack_codes(codes: UInt8[Array, "n k"], bits: int) -> UInt8[Array, "n width"]:
    """Pack unsigned codes, each below ``2 ** bits``, row by row. Inverse of :func:`unpack_codes`."""
    n, k = codes.shape
    full = k // BLOCK * BLOCK
    parts = [_pack_block(codes[:, :full].reshape(n, -1, BLOCK), bits).reshape(n, -1)]
    if full < k:
        parts.append(_pack_block(codes[:, full:], bits))
    return jnp.concatenate(parts, axis=1)


def unpack_codes(packed: UInt8[Array, "n width"], bits: int, k: int) -> UInt8[Array, "n k"]:
    """Unpack rows of ``k`` codes. Inverse of :func:`pack_codes`."""
    n = packed.shape[0]
    full = k // BLOCK * (BLOCK * bits // 8)
    parts = [_unpack_block(packed[:, :full].reshape(n, k // BLOCK, BLOCK * bits // 8), bits).reshape(n, -1)]
    if k % BLOCK:
        parts.append(_unpack_block(packed[:, full:], bits)[:, : k % BLOCK])
    return jnp.concatenate(parts, axis=1)


def _pack_block(codes: Array, bits: int) -> Array:
    """``(..., T)`` codes to ``(..., ceil(T / P))`` bytes."""
    planes = 8 // bits
    pad = [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % planes)]
    grid = jnp.pad(codes, pad)
    grid = grid.reshape(*codes.shape[:-1], planes, grid.shape[-1] // planes).astype(jnp.uint8)
    shifts = (bits * jnp.arange(planes, dtype=jnp.uint8))[:, None]
    return jax.lax.reduce(grid << shifts, np.uint8(0), jax.lax.bitwise_or, (grid.ndim - 2,))


def _unpack_block(packed: Array, bits: int) -> Array:
    """``(..., S)`` bytes to ``(..., P * S)`` codes."""
    planes = 8 // bits
    shifts = (bits * jnp.arange(planes, dtype=jnp.uint8))[:, None]
    codes = (packed[..., None, :] >> shifts) & jnp.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], planes * packed.shape[-1])


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scale", "zero"],
    meta_fields=["shape", "bits", "activation", "layout"],
)
@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A weight as integers and scales: the leaf that stands in ``params`` where a float matrix was.

    Attributes:
      codes: ``uint8 (N, packed_width(K, stored_bits))`` in layout ``planes256.v1``, or the values themselves,
        ``int8 (N, K)``, in layout ``int8``.
      scale: float32 ``(G,)``: one for the whole matrix, one per row, or one per group of N K / G contiguous elements.
      shape: logical ``(N, K)``, torch order.
      bits: 1 to 8.
      activation: how the input of the Linear that holds this weight is quantized, or None: float. Kernels pass it on.
      layout: name and version of the form of ``codes``.
      zero: float32 ``(G,)``, whole numbers, of an asymmetric grid; None of a symmetric one.
    """

    codes: UInt8[Array, "n width"] | Int8[Array, "n k"]
    scale: Float[Array, " groups"]
    shape: tuple[int, int] = field(metadata={"static": True})
    bits: int = field(metadata={"static": True})
    activation: Hashable | None = field(default=None, metadata={"static": True})
    layout: str = field(default=PLANES256, metadata={"static": True})
    zero: Float[Array, " groups"] | None = None

    @property
    def is_integer(self) -> bool:
        """Whether integers can be summed before they are scaled: a symmetric grid, and no group inside a row."""
        return self.zero is None and self.scale.shape[0] in (1, self.shape[0])

    def rows(self, ids: Array) -> Float[Array, "... k"]:
        """Float values of the rows ``ids`` (any shape); unpacks those rows and no others."""
        flat = ids.reshape(-1)
        return self._floats(self.codes[flat], flat).reshape(*ids.shape, self.shape[1])

    def values(self) -> Int8[Array, "n k"]:
        """The integers of a symmetric grid: -1 and +1 (1 bit), -1, 0 and +1 (2 bits), or more."""
        assert self.zero is None, "the integers of an asymmetric grid do not fit int8"
        if self.layout == INT8:
            return self.codes
        codes = unpack_codes(self.codes, stored_bits(self.bits), self.shape[1])
        # uint8 arithmetic wraps, so the bits are those of the signed value. See _integers for why not int8's.
        unsigned = 2 * codes - np.uint8(1) if self.bits == 1 else codes - np.uint8(_offset(self.bits))
        return jax.lax.bitcast_convert_type(unsigned, jnp.int8)

    def dequantize(self) -> Float[Array, "n k"]:
        """The float matrix this tensor stands for."""
        return self._floats(self.codes, jnp.arange(self.shape[0]))

    def unpacked(self) -> "PackedTensor":
        """The same tensor in layout ``int8``: eight times the memory of 1 bit, no work per multiplication."""
        return replace(self, codes=self.values(), layout=INT8)

    def _floats(self, codes: Array, ids: Array) -> Array:
        """The values of ``codes``, which are the rows ``ids``."""
        integers = self._integers(codes)
        groups, (n, k) = self.scale.shape[0], self.shape
        if groups in (1, n):
            group = jnp.zeros_like(ids)[:, None] if groups == 1 else ids[:, None]
        else:
            group = (ids[:, None] * k + jnp.arange(k)) // (n * k // groups)
        if self.zero is not None:
            integers = integers + self.zero[group]
        return integers * self.scale[group]

    def _integers(self, codes: Array) -> Array:
        """Some rows of ``codes`` as floats.

        The sums are done in float, not in int8: XLA:CPU fuses int8 arithmetic into YNNPACK reductions and
        miscompiles it there (jaxlib 0.10.2 and 0.12.0.1; tests/kernels/test_layout.py shows it).
        """
        if self.layout == INT8:
            return codes.astype(self.scale.dtype)
        unsigned = unpack_codes(codes, stored_bits(self.bits), self.shape[1]).astype(self.scale.dtype)
        if self.zero is not None:
            return unsigned
        return 2 * unsigned - 1 if self.bits == 1 else unsigned - _offset(self.bits)


def _offset(bits: int) -> int:
    """What is added to a symmetric integer of two bits or more to store it."""
    return 1 if bits == 2 else 2 ** (bits - 1)


def pack_tensor(
    values: Float[Array, "n k"] | Int8[Array, "n k"],
    scale: Float[Array, " groups"],
    bits: int,
    activation: Hashable | None = None,
    zero: Float[Array, " groups"] | None = None,
) -> PackedTensor:
    """Pack the integers of a quantized matrix.

    Args:
      values: whole numbers: -1 and +1 (``bits`` = 1), -1, 0 and +1 (2), ``-2^(bits-1) .. 2^(bits-1) - 1`` (3 to 8), or
        ``0 .. 2^bits - 1`` where there is a ``zero``.
      scale: float32, one per group.
      bits: 1 to 8.
      activation, zero: see :class:`PackedTensor`.

    Raises:
      ValueError: groups that do not divide the matrix, or another bit width.
    """
    n, k = values.shape
    if n * k % scale.shape[0]:
        raise ValueError(f"{scale.shape[0]} scales do not divide a matrix of shape {values.shape}")
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits}: a packed weight has 1 to 8")
    whole = values.astype(jnp.float32)
    codes = whole if zero is not None else (whole + 1) / 2 if bits == 1 else whole + _offset(bits)
    packed = pack_codes(codes.astype(jnp.uint8), stored_bits(bits))
    return PackedTensor(packed, scale, (n, k), bits, activation, PLANES256, zero)
