"""``PackedTensor``: a weight as integers and scales."""

import functools
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

from xtc_jax.kernels.layout import (
    BASE3,
    BLOCK,
    INT8,
    PLANES256,
    STORED_LAYOUTS,
    offset,
    pack_base3,
    pack_codes,
    stored_bits,
    unpack_base3,
    unpack_codes,
    unpack_codes_on_host,
)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scale", "zero"],
    meta_fields=["shape", "bits", "activation", "layout", "device"],
)
@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A weight as integers and scales: the leaf that stands in ``params`` where a float matrix was.

    Attributes:
      codes: uint8 ``(N, code_width(K, bits, layout))`` in the layouts of files, or the values themselves, ``int8 (N, K)``, in
        layout ``int8``.
      scale: float32 ``(G,)``: one for the whole matrix, one per row, or one per group of N K / G contiguous elements.
      shape: logical ``(N, K)``, torch order.
      bits: 1 to 8.
      activation: how the input of the Linear that holds this weight is quantized, or None: float. Kernels pass it on.
      layout: name and version of the form of ``codes``: one of the above, or that of a kernel which laid them out for itself.
      zero: float32 ``(G,)``, whole numbers, of an asymmetric grid; None of a symmetric one.
      device: kind of the device that a kernel laid the codes out for, ``TPU v5 lite``; "" in the layouts above.
    """

    # Leaves of a pytree node may be anything that stands for the array: a shape, a PartitionSpec, a batch under vmap.
    codes: Any
    scale: Any
    shape: tuple[int, int] = field(metadata={"static": True})
    bits: int = field(metadata={"static": True})
    activation: Hashable | None = field(default=None, metadata={"static": True})
    layout: str = field(default=PLANES256, metadata={"static": True})
    zero: Any = None
    device: str = field(default="", metadata={"static": True})

    @property
    def stored_bits(self) -> int | float:
        """Bits that a weight takes as its codes lie: 1, 1.6 (base 3), 2, 4 or 8."""
        return 8 / 5 if self.layout == BASE3 else 8 if self.layout == INT8 else stored_bits(self.bits)

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
        codes = self._unpacked_codes(self.codes)
        # uint8 arithmetic wraps, so the bits are those of the signed value. See _integers for why not int8's.
        unsigned = 2 * codes - np.uint8(1) if self.bits == 1 else codes - np.uint8(offset(self.bits))
        return jax.lax.bitcast_convert_type(unsigned, jnp.int8)

    def dequantize(self) -> Float[Array, "n k"]:
        """The float matrix this tensor stands for."""
        return self._floats(self.codes, jnp.arange(self.shape[0]))

    def unpacked(self) -> "PackedTensor":
        """The same tensor in layout ``int8``: eight times the memory of 1 bit, no work per multiplication."""
        if isinstance(self.codes, jax.Array) and not isinstance(self.codes, jax.core.Tracer) and self.layout == PLANES256:
            return replace(self, codes=jnp.asarray(self._values_on_host()), layout=INT8)
        return replace(self, codes=self.values(), layout=INT8)

    def _values_on_host(self) -> Int8[np.ndarray, "n k"]:
        """:meth:`values`, by numpy: nothing is compiled."""
        codes = unpack_codes_on_host(np.asarray(self.codes), stored_bits(self.bits), self.shape[1]).view(np.int8)
        return 2 * codes - np.int8(1) if self.bits == 1 else codes - np.array(offset(self.bits)).astype(np.int8)

    def stored(self, layout: str) -> "PackedTensor":
        """The same tensor in another layout of files; ``base3.v1`` takes ternary codes alone, and leaves others in planes.

        Raises:
          ValueError: no layout of files.
        """
        if layout not in STORED_LAYOUTS:
            raise ValueError(f"{layout!r} is no layout of files; use one of {', '.join(STORED_LAYOUTS)}")
        if layout == self.layout or self.bits != 2:
            return self
        codes = self._unpacked_codes(self.codes)
        packed = pack_base3(codes) if layout == BASE3 else pack_codes(codes, stored_bits(self.bits))
        return replace(self, codes=packed, layout=layout)

    def shard(self, rows: int = 1, columns: int = 1) -> "PackedTensor":
        """What ``shard_map`` hands to one of ``rows * columns`` devices, with its shape made that of the shard.

        Inside ``shard_map`` the arrays are one device's, while ``shape`` is still that of the whole: a matrix split over N or K
        goes through here before it is multiplied. Sums over split columns are partial: ``psum`` them before scaling.

        Raises:
          ValueError: the rows or the blocks of 256 columns do not divide.
        """
        n, k = self.shape
        if n % rows or (columns > 1 and k % (columns * BLOCK)):
            raise ValueError(f"a weight of shape {self.shape} does not split into {rows} x {columns} shards of whole blocks")
        return replace(self, shape=(n // rows, k // columns))

    def _unpacked_codes(self, codes: Array) -> Array:
        """Some rows of packed ``codes`` as one unsigned code per weight."""
        assert self.layout in STORED_LAYOUTS, f"codes in layout {self.layout} are for its kernel alone"
        if self.layout == BASE3:
            return unpack_base3(codes, self.shape[1])
        return unpack_codes(codes, stored_bits(self.bits), self.shape[1])

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
        unsigned = self._unpacked_codes(codes).astype(self.scale.dtype)
        if self.zero is not None:
            return unsigned
        return 2 * unsigned - 1 if self.bits == 1 else unsigned - offset(self.bits)


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
    codes = whole if zero is not None else (whole + 1) / 2 if bits == 1 else whole + offset(bits)
    packed = pack_codes(codes.astype(jnp.uint8), stored_bits(bits))
    return PackedTensor(packed, scale, (n, k), bits, activation, PLANES256, zero)
