"""How codes lie in bytes: ``planes256.v1``, in which they are multiplied, and ``base3.v1``, which files may use.

**planes256.v1.** A weight is output-major, ``(N, K)`` in torch order. Each row is packed by itself, along K, in blocks of
256 codes. With ``P = 8 / bits`` planes of ``S = 256 / P`` codes, code ``j * S + i`` of a block lies in byte ``i``
of the block, in bits ``bits * j`` to ``bits * j + bits - 1``::

    2 bits, one block of 256 codes in 64 bytes        1 bit, 256 codes in 32 bytes
    byte i:  | i+192 | i+128 | i+64 |  i  |           byte i: | i+224 | … | i+32 | i |
    bits:      7   6   5   4  3   2  1   0            bits:       7    …     1     0

so a shift and a mask give S *consecutive* codes and no lane is ever shuffled (docs/kernels.md, section 1).
A last block of ``T < 256`` codes is packed the same way with ``S = ceil(T / P)``, so that a row takes
``bits`` bits per weight whatever K is, rounded up to a byte (MiniLM's 384 = 256 + 128).

**base3.v1.** Three levels need 1.6 bits, not 2: five consecutive ternary codes of a row share a byte, as the digits of a
number to base 3 (3^5 = 243). It saves a fifth of the file and is turned into planes when it is loaded::

    byte i = c[5i] + 3 c[5i+1] + 9 c[5i+2] + 27 c[5i+3] + 81 c[5i+4]       0 to 242; more is damage

A row takes ``ceil(K / 5)`` bytes; digits beyond K are 0.

Codes are unsigned: ternary ``t`` is stored as ``t + 1`` (code 3 is illegal), binary ``w`` as ``(w + 1) / 2``, symmetric
integers of b bits with ``2^(b-1)`` added, asymmetric ones as they are. 3 bits take 4, and 5 to 7 take 8, so that planes
stay whole.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

PLANES256 = "planes256.v1"
"""Codes in planes, as above: what files hold and kernels start from."""
BASE3 = "base3.v1"
"""Ternary codes, five to a byte, as above: a smaller file."""
INT8 = "int8"
"""One int8 per weight, the values themselves: what XLA multiplies once a file is loaded."""
TPU_WORDS = "tpu_words.v1"
"""Words of a TPU kernel, see ``packed_matmul/tpu_words.py``."""
GPU_PLANES256 = "gpu_planes256.v1"
"""``planes256.v1`` as int8, padded with zeros: K to whole blocks of 256 codes, N to whole tiles of 128 rows."""
STORED_LAYOUTS = (PLANES256, BASE3)
"""Those that files may have."""
BLOCK = 256
_TRITS = 5


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
    return _unpack_rows(packed, bits, k, jnp)


def unpack_codes_on_host(packed: UInt8[np.ndarray, "n width"], bits: int, k: int) -> UInt8[np.ndarray, "n k"]:
    """:func:`unpack_codes` in numpy: milliseconds for a whole model, where XLA compiles a program for each shape."""
    return _unpack_rows(packed, bits, k, np)


def _unpack_rows(packed: Any, bits: int, k: int, xp: Any) -> Any:
    n = packed.shape[0]
    full = k // BLOCK * (BLOCK * bits // 8)
    parts = [_unpack_block(packed[:, :full].reshape(n, k // BLOCK, BLOCK * bits // 8), bits, xp).reshape(n, -1)]
    if k % BLOCK:
        parts.append(_unpack_block(packed[:, full:], bits, xp)[:, : k % BLOCK])
    return xp.concatenate(parts, axis=1)


def _pack_block(codes: Array, bits: int) -> Array:
    """``(..., T)`` codes to ``(..., ceil(T / P))`` bytes."""
    planes = 8 // bits
    pad = [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % planes)]
    grid = jnp.pad(codes, pad)
    grid = grid.reshape(*codes.shape[:-1], planes, grid.shape[-1] // planes).astype(jnp.uint8)
    shifts = (bits * jnp.arange(planes, dtype=jnp.uint8))[:, None]
    return jax.lax.reduce(grid << shifts, np.uint8(0), jax.lax.bitwise_or, (grid.ndim - 2,))


def _unpack_block(packed: Any, bits: int, xp: Any) -> Any:
    """``(..., S)`` bytes to ``(..., P * S)`` codes, in numpy or JAX (``xp``)."""
    planes = 8 // bits
    shifts = (bits * xp.arange(planes, dtype=np.uint8)).astype(np.uint8)[:, None]
    codes = (packed[..., None, :] >> shifts) & xp.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], planes * packed.shape[-1])


def offset(bits: int) -> int:
    """What is added to a symmetric integer of two bits or more to store it."""
    return 1 if bits == 2 else 2 ** (bits - 1)


def pack_base3(codes: UInt8[Array, "n k"]) -> UInt8[Array, "n width"]:
    """Pack ternary codes 0, 1 and 2, five to a byte, row by row. Inverse of :func:`unpack_base3`."""
    n, k = codes.shape
    digits = jnp.pad(codes, ((0, 0), (0, -k % _TRITS))).reshape(n, -1, _TRITS)
    return jnp.sum(digits.astype(jnp.int32) * _powers(), axis=2).astype(jnp.uint8)


def unpack_base3(packed: UInt8[Array, "n width"], k: int) -> UInt8[Array, "n k"]:
    """Unpack rows of ``k`` ternary codes. Inverse of :func:`pack_base3`."""
    digits = packed.astype(jnp.int32)[:, :, None] // _powers() % 3
    return digits.reshape(len(packed), -1)[:, :k].astype(jnp.uint8)


def _powers() -> Array:
    return 3 ** jnp.arange(_TRITS, dtype=jnp.int32)


def code_width(k: int, bits: int, layout: str) -> int:
    """Bytes of one row of ``k`` codes of ``bits`` in one of the layouts of files."""
    return math.ceil(k / _TRITS) if layout == BASE3 else packed_width(k, stored_bits(bits))


def has_illegal_code(codes: np.ndarray, bits: int, layout: str) -> bool:
    """Whether some code is more than its grid has: a byte of base 3 over 242; 2 bits hold three levels, 3 bits lie in 4, 5 to 7
    in 8.
    """
    if layout == BASE3:
        return bool(np.any(codes >= 3**_TRITS))
    if bits == 2:
        return bool(np.any(codes & (codes >> 1) & 0b01010101))
    stored = stored_bits(bits)
    unused = sum((2**stored - 2**bits) << start for start in range(0, 8, stored))
    return bool(np.any(codes & np.uint8(unused)))
