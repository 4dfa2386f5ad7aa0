"""Quantized activations on a GPU in one pass: codes, scales and row sums from one read of x.

XLA makes two or three kernels of :func:`quantize_tokens`, since the maximum of a token must be known before its first code: it
reads x twice, or where x is a LayerNorm's output computes that twice (JAX 0.12, compiled for H100). Here each warp holds a
token in its registers. The LayerNorm stays XLA's: the residual path needs its output anyway.

The quotient is the hardware's ``div.full.f32``, which XLA uses on GPUs too: within 2 ulp, so that where ``x / s`` is all but
half way between two levels, a code may differ by one from a CPU's.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int8, Int32

from xtc_jax.kernels.packed_matmul.mosaic_gpu_kernel import interpretation, multiprocessors

TOKENS = 4
"""One for each warp of a warpgroup."""
LARGEST_K = 4096
"""128 values for each lane of a warp, in registers."""


def can_quantize(k: int) -> bool:
    """Whether :func:`quantize` serves rows of ``k``. It needs ``plgpu.store`` (JAX 0.12) for vectors as short as its scales."""
    return k <= LARGEST_K and hasattr(plgpu, "store")


def quantize(
    x: Float[Array, "m k"], rows: int, interpret: Any = False
) -> tuple[Int8[Array, "rows k"], Float[Array, " rows"], Int32[Array, " rows"]]:
    """Codes, scales and row sums of ``m`` tokens, as ``quantize_tokens`` defines them; K a multiple of 128.

    What is returned has ``rows`` of them, of which those from ``m`` on, rounded up to 4, hold anything.
    """
    x = jnp.pad(x, ((0, -x.shape[0] % TOKENS), (0, 0)))
    groups, k = x.shape[0] // TOKENS, x.shape[1]
    width = next(width for width in (8, 4) if k % (32 * width) == 0 and width * x.dtype.itemsize <= 16)
    one_token_each = plgpu.Layout.TILED(
        plgpu.Tiling(((TOKENS, 32 * width), (width,))), warp_dims=(-3,), lane_dims=(-2,), vector_dim=-1
    )

    def kernel(x: Any, codes: Any, scales: Any, sums: Any) -> None:
        @plgpu.nd_loop((groups,), collective_axes="program")
        def _group(loop: plgpu.NDLoopInfo) -> None:
            tokens = pl.ds(loop.index[0] * TOKENS, TOKENS)
            code, scale = _levels(plgpu.load(x.at[tokens], layout=one_token_each, optimized=False))
            codes[tokens, :] = code.astype(jnp.int8)
            plgpu.store(scales.at[tokens], scale, optimized=False)
            # Whole numbers below 2^24: exact in float32, in any order.
            plgpu.store(sums.at[tokens], jnp.sum(code, axis=1).astype(jnp.int32), optimized=False)

    return plgpu.kernel(
        kernel,
        out_type=tuple(
            jax.ShapeDtypeStruct(shape, dtype)
            for shape, dtype in (((rows, k), jnp.int8), ((rows,), jnp.float32), ((rows,), jnp.int32))
        ),
        grid=(min(groups, 2 if interpret else 8 * multiprocessors()),),
        grid_names=("program",),
        kernel_name="quantize_tokens",
        interpret=interpretation(interpret),
    )(x)


def _levels(x: Array) -> tuple[Array, Array]:
    """``quantize_tokens`` of a few tokens, with whole floats for codes, in operations that Mosaic GPU lowers."""
    largest = float(jnp.finfo(jnp.float32).max) / 1024
    wide = jnp.minimum(jnp.maximum(x.astype(jnp.float32), -largest), largest)
    scale = jnp.max(jnp.abs(wide), axis=1) * (1 / 128)
    divisor = jnp.where(scale > 0, scale, jnp.ones_like(scale))
    codes = lax.round(wide / lax.broadcast_in_dim(divisor, wide.shape, (0,)), lax.RoundingMethod.TO_NEAREST_EVEN)
    return jnp.minimum(jnp.maximum(codes, -128.0), 127.0), scale
