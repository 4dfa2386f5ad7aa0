"""Packed weights on Hopper GPUs (H100, H200), in two kernels of Pallas Mosaic GPU for each product.

The first (mosaic_gpu_quantize.py) turns float activations into int8 codes, scales and row sums, and reads them once. The
second (mosaic_gpu_kernel.py) multiplies, and finishes in its epilogue: row sums, scales, bias, activation, conversion. What
is XLA's own stays outside: LayerNorm before, the residual after.

**Neither has run on a GPU yet**: both are exact in interpret mode, lower for H100, and ptxas compiles them for sm_90a
without spilling a register. :func:`default_blocks` is therefore a guess, and :func:`candidates` what to measure instead.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8, Int32

from xtc_jax.kernels.layout import BLOCK, PLANES256, pack_codes, unpack_codes
from xtc_jax.kernels.packed_matmul.reference import quantize_tokens
from xtc_jax.kernels.tensor import PackedTensor

LAYOUT = "gpu_planes256.v1"
"""``planes256.v1`` as int8, padded with zeros: K to whole blocks of 256 codes, N to whole tiles of 128 rows."""
ROWS, TOKENS, STAGES = (64, 128), (8, 16, 32, 64, 128, 256), (2, 3, 4, 6)
WARPGROUP = 64
"""Rows that one warpgroup (128 threads) multiplies: what the left operand of wgmma has."""
LOADER_REGISTERS = 40
"""Registers of each thread of the warpgroup that only issues copies."""
SHARED_MEMORY, REGISTERS, SMS = 227 * 1024, 64 * 1024, 132
"""Of an SM of H100 and H200: bytes, and registers of 32 bits. And how many SMs there are."""
_MINIMUM_JAX = (0, 11, 2)


@dataclass(frozen=True)
class Blocks:
    """The tile that an SM computes at a time; what a tuner chooses.

    Attributes:
      rows: of the weight, 64 or 128: one or two warpgroups that multiply.
      tokens: 8 to 256, a power of two.
      stages: blocks of 256 codes in flight, 2 to 6.

    Raises:
      ValueError: others.
    """

    rows: int = 128
    tokens: int = 128
    stages: int = 4

    def __post_init__(self) -> None:
        if self.rows not in ROWS or self.tokens not in TOKENS or self.stages not in STAGES:
            raise ValueError(f"{self}: rows are of {ROWS}, tokens of {TOKENS}, stages of {STAGES}")


def staging(blocks: Blocks) -> tuple[int, int, int, int]:
    """Shape of the way out: for each warpgroup one or two pieces ``(tokens, rows)`` of the result, in shared memory."""
    piece = min(64, blocks.tokens)
    return blocks.rows // WARPGROUP, min(2, blocks.tokens // piece), piece, WARPGROUP


def shared_memory(blocks: Blocks, bits: int, dtype: Any) -> int:
    """Bytes of shared memory: the ring of packed weights and x with two barriers a stage, and the way out."""
    stage = blocks.rows * BLOCK * bits // 8 + blocks.tokens * BLOCK + 16
    return blocks.stages * stage + math.prod(staging(blocks)) * jnp.dtype(dtype).itemsize


def registers(blocks: Blocks) -> int:
    """Registers of a thread that multiplies: its sums, its codes, packed and not, and an allowance of 48 for the rest."""
    threads = 128
    return (WARPGROUP * blocks.tokens + WARPGROUP * BLOCK // 4 + WARPGROUP * BLOCK // 16) // threads + 48


def fits(blocks: Blocks, bits: int, dtype: Any) -> bool:
    """Whether an SM has the shared memory and the registers."""
    share = min(255, (REGISTERS // 128 - LOADER_REGISTERS) * WARPGROUP // blocks.rows)
    return shared_memory(blocks, bits, dtype) <= SHARED_MEMORY and registers(blocks) <= share


def candidates(m: int, bits: int, dtype: Any) -> list[Blocks]:
    """What a tuner should try for ``m`` tokens: the tiles that fit, none of twice as many tokens or more."""
    every = (Blocks(rows, tokens, stages) for rows in ROWS for tokens in TOKENS for stages in STAGES)
    return [blocks for blocks in every if blocks.tokens < max(2 * m, 16) and fits(blocks, bits, dtype)]


def default_blocks(m: int, n: int, bits: int, dtype: Any) -> Blocks:
    """The fewest rounds of tiles over the SMs, if a tile costs its products and 8,192 more to start and end: a guess."""

    def cost(blocks: Blocks) -> tuple[int, int]:
        rounds = math.ceil(math.ceil(m / blocks.tokens) * math.ceil(n / blocks.rows) / SMS)
        return rounds * (blocks.rows * blocks.tokens + 8192), -blocks.stages

    return min(candidates(m, bits, dtype), key=cost)


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
