"""Layout ``tpu_words.v1``: packed weights as a TPU kernel reads them.

int32 ``(rows, N)``: K along the rows, padded to 128, and N padded to 128. K is cut into blocks of 256 weights; the last
may have 128. A block of T weights of b bits lies in ``R = max(8, T b / 32)`` rows of words: weight ``j * 4R + 4r + i`` of
it in byte ``i`` of word ``r``, as a two's complement field in bits ``b j`` to ``b j + b - 1`` of that byte. So

- a shift and a mask give ``4R`` consecutive rows of int8, because a TPU keeps four rows of int8 in one of int32,
- the bytes of a whole block are in the order of ``planes256.v1``, and
- a field shifted to the *top* of its byte is an int8 of the right sign: ``2^(8 - b)`` times the weight, or, at 1 bit,
  64 times: the sign bit over a constant 64. Codes from zero up would need a correction by the row sum of x instead
  (docs/kernels.md, section 1), which costs the vector unit more than the unpacking.

Weights of 5 to 8 bits are plain int8 ``(K, N)``, both dimensions padded to 128.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Int8, Int32

from xtc_jax.kernels.layout import BLOCK
from xtc_jax.kernels.layout import TPU_WORDS as LAYOUT

__all__ = ["LANES", "LAYOUT", "codes_shape", "exponent", "pack", "padded", "unpack"]

LANES = 128


def padded(size: int) -> int:
    """The next multiple of 128."""
    return -(-size // LANES) * LANES


def exponent(bits: int) -> int:
    """:func:`unpack` gives weights times 2 to this power."""
    return min(6, 8 - bits)


def codes_shape(k: int, n: int, bits: int) -> tuple[int, int]:
    """Shape of the codes of a weight ``(n, k)`` of 1, 2, 4 or 8 stored bits."""
    return sum(words if bits < 8 else size for size, words, _ in _blocks(k, bits)), padded(n)


def _blocks(k: int, bits: int) -> list[tuple[int, int, int]]:
    """Of each block of K: its weights, its rows of words, and the planes of 4 times as many weights that lie in them."""
    sizes = [min(BLOCK, padded(k) - start) for start in range(0, k, BLOCK)]
    words = [max(8, size * bits // 32) for size in sizes]
    return [(size, rows, size // (4 * rows)) for size, rows in zip(sizes, words, strict=True)]


def pack(values: Int8[Array, "k n"], bits: int) -> Int32[Array, "words columns"] | Int8[Array, "rows columns"]:
    """Codes of symmetric integers of 1 (-1 and +1), 2, 4 or 8 stored bits. Padding holds any weight: x is padded with zeros."""
    k, n = values.shape
    values = jnp.pad(values, ((0, padded(k) - k), (0, padded(n) - n)))
    if bits == 8:
        return values
    wide = values.astype(jnp.int32)
    fields = (wide < 0).astype(jnp.int32) if bits == 1 else wide & (2**bits - 1)
    parts = []
    for number, (size, words, planes) in enumerate(_blocks(k, bits)):
        block = fields[number * BLOCK : number * BLOCK + size].reshape(planes, words, 4, -1)
        shifts = bits * np.arange(planes, dtype=np.int32)[:, None] + 8 * np.arange(4, dtype=np.int32)
        parts.append(lax.reduce(block << shifts[:, None, :, None], np.int32(0), lax.bitwise_or, (0, 2)))
    return jnp.concatenate(parts)


def unpack(
    codes: Int32[Array, "words columns"] | Int8[Array, "rows columns"], k: int, bits: int
) -> Int8[Array, "rows columns"]:
    """Weights times ``2 ** exponent(bits)``, ``(padded(k), columns)``; for use inside a kernel. Inverse of :func:`pack`."""
    if bits == 8:
        return codes
    parts, start = [], 0
    for _, words, planes in _blocks(k, bits):
        block = codes[start : start + words]
        parts += [_plane(block, j, bits) for j in range(planes)]
        start += words
    return jnp.concatenate(parts, axis=0)


def _plane(words: Array, j: int, bits: int) -> Array:
    """Field ``j`` of every byte, at the top of it: rows of words to four times as many rows of int8."""
    top = 8 - bits * (j + 1)
    shifted = words << np.int32(top) if top else words
    fields = shifted & _every_byte(256 - 2 ** (8 - bits))
    return pltpu.bitcast(fields | _every_byte(64) if bits == 1 else fields, jnp.int8)


def _every_byte(byte: int) -> np.int32:
    return np.frombuffer(bytes([byte] * 4), "<i4")[0]
