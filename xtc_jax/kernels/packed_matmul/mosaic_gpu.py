"""Packed weights on Hopper GPUs (H100, H200), in two kernels of Pallas Mosaic GPU for each product.

The first (mosaic_gpu_quantize.py) turns float activations into int8 codes, scales and row sums, and reads them once. The
second (mosaic_gpu_kernel.py) multiplies, and finishes in its epilogue: row sums, scales, bias, activation, conversion. What
is XLA's own stays outside: LayerNorm before, the residual after.

**Neither has run on a GPU yet**: both are exact in interpret mode, lower for H100, and ptxas compiles them for sm_90a
without spilling a register. :func:`default_blocks` is therefore a guess, and :func:`candidates` what to measure instead.
"""

import re
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8, Int32

from xtc_jax.kernels.layout import BLOCK, PLANES256, pack_codes, unpack_codes
from xtc_jax.kernels.layout import GPU_PLANES256 as LAYOUT
from xtc_jax.kernels.packed_matmul.gpu_tiles import REGISTERS, ROWS, SHARED_MEMORY, Blocks, default_blocks, fits
from xtc_jax.kernels.packed_matmul.reference import quantize_tokens
from xtc_jax.kernels.tensor import PackedTensor

_MINIMUM_JAX = (0, 11, 2)


def prepare(weights: PackedTensor, device_kind: str) -> PackedTensor:
    """Lay ``weights`` out for the kernel; once, when they are loaded.

    Args:
      weights: ``(N, K)`` in ``planes256.v1``, 1 or 2 bits, symmetric, one scale per matrix or per row.
      device_kind: ``jax.Device.device_kind``.

    Raises:
      NotImplementedError: with the reason; another backend may serve.
      ValueError: weights in another layout.
    """
    _refuse_old_jax()
    if not re.search(r"\bG?H(20|100|200|800)\b", device_kind):
        raise NotImplementedError(f"{device_kind}: the kernel is for Hopper GPUs (sm_90)")
    if weights.bits not in (1, 2):
        raise NotImplementedError(f"bits={weights.bits}: the kernel is for 1 and 2")
    if not weights.is_integer:
        raise NotImplementedError("zero points or scales inside a row: the kernel scales whole sums")
    if weights.layout != PLANES256:
        raise ValueError(f"prepare takes weights in layout {PLANES256}, not {weights.layout}")
    n, k = weights.shape
    codes = jnp.pad(unpack_codes(weights.codes, weights.bits, k), ((0, -n % max(ROWS)), (0, -k % BLOCK)))
    packed = lax.bitcast_convert_type(pack_codes(codes, weights.bits), jnp.int8)
    return replace(weights, codes=packed, layout=LAYOUT, device=device_kind)


def matmul(
    x: Float[Array, "m k"] | Int8[Array, "m k"],
    weights: PackedTensor,
    x_scale: Float[Array, "m 1"] | None = None,
    bias: Float[Array, " n"] | None = None,
    *,
    activation: str = "",
    dtype: Any = jnp.float32,
    blocks: Blocks | None = None,
    interpret: Any = False,
) -> Float[Array, "m n"] | Int32[Array, "m n"]:
    """``packed_matmul`` of ``weights`` from :func:`prepare`.

    Args:
      x: float, quantized here; or int8, with its ``x_scale``.
      weights, x_scale, bias, activation: as there.
      dtype: of the result. int32 gives the sums, exact, without epilogue.
      blocks: the tile; None guesses.
      interpret: True, or ``InterpretGPUParams``, runs on CPU.

    Raises:
      NotImplementedError: JAX is too old, or no SM holds ``blocks``.
      ValueError: shapes or layouts that do not belong together.
    """
    _refuse_old_jax()
    from xtc_jax.kernels.packed_matmul.mosaic_gpu_kernel import Kernel

    (m, k), (n, width) = x.shape, weights.shape
    if weights.layout != LAYOUT:
        raise ValueError(f"matmul takes weights in layout {LAYOUT}, not {weights.layout}")
    if k != width:
        raise ValueError(f"x has K={k}, the weights have K={width}")
    out = jnp.dtype(dtype if dtype in (jnp.int32, jnp.bfloat16, jnp.float16) else jnp.float32)
    blocks = blocks or default_blocks(m, n, weights.bits, out)
    if not fits(blocks, weights.bits, out):
        raise NotImplementedError(f"{blocks}: an SM has {SHARED_MEMORY} bytes and {REGISTERS} registers")
    tokens = _tokens(x, x_scale, m + -m % blocks.tokens, interpret)
    vectors = {"row_sum": tokens.sums}
    if out != jnp.int32:
        vectors |= _epilogue_vectors(tokens.scale, weights, bias)
    kernel = Kernel(weights.bits, blocks, activation, out, interpret, tuple(vectors))
    return kernel(weights.codes, tokens.codes, *vectors.values())[:m, :n].astype(dtype)


class _Tokens(NamedTuple):
    """Activations as the kernel takes them: whole tiles of tokens, whole blocks of 256 codes. What is beyond M is not used."""

    codes: Int8[Array, "rows k"]
    scale: Float[Array, " rows"] | None
    sums: Int32[Array, " rows"]


def _tokens(x: Array, x_scale: Array | None, rows: int, interpret: Any) -> _Tokens:
    """Quantize ``x``, if it is float, and pad it to ``rows``."""
    from xtc_jax.kernels.packed_matmul.mosaic_gpu_quantize import can_quantize, quantize

    m, k = x.shape
    columns = (0, -k % BLOCK)
    if x.dtype != jnp.int8 and can_quantize(k + columns[1]):
        return _Tokens(*quantize(jnp.pad(x, ((0, 0), columns)), rows, interpret))
    codes, scale = (x, x_scale) if x.dtype == jnp.int8 else quantize_tokens(x)
    codes = jnp.pad(codes, ((0, rows - m), columns))
    sums = jnp.sum(codes, axis=1, dtype=jnp.int32)
    return _Tokens(codes, None if scale is None else jnp.pad(scale[:, 0], (0, rows - m)), sums)


def _epilogue_vectors(token_scale: Array | None, weights: PackedTensor, bias: Array | None) -> dict[str, Array]:
    """Scales of tokens, of rows or of the whole matrix, and the bias; padded."""
    if token_scale is None:
        raise ValueError("x is int8 and has no x_scale")
    rows = (0, weights.codes.shape[0] - weights.shape[0])
    vectors = {"token_scale": token_scale}
    if weights.scale.shape[0] == 1:
        vectors["scale"] = weights.scale
    else:
        vectors["row_scale"] = jnp.pad(weights.scale, rows)
    if bias is not None:
        vectors["bias"] = jnp.pad(bias.astype(jnp.float32), rows)
    return vectors


def _refuse_old_jax() -> None:
    if jax.__version_info__ < _MINIMUM_JAX:
        raise NotImplementedError(f"Mosaic GPU needs JAX 0.11.2 or newer; this is {jax.__version__}")
