"""The kernel for Hopper GPUs: Pallas Mosaic GPU around ``wgmma``, int8 x int8 -> int32.

**What is multiplied.** A block of 256 codes is unpacked into its planes, side by side, which is the order of x (layout.py):
one product of ``codes (64, 256)`` and ``x[:, block].T`` for each block. Codes stay unsigned, ``t + 1`` of 2 bits and
``(w + 1) / 2`` of 1, so that with ``R[m] = sum_k x[m, k]`` the integers are ``sum x c - R`` and ``2 sum x c - R``. Zeros that
fill up K add nothing to either.

**Unpacking.** Plane j of four bytes is ``word >> bits j & mask``: two instructions for four weights, in the very registers
from which wgmma reads its left operand. So one int32 accumulator serves all planes and all of K. Mosaic GPU shifts no 8-bit
arrays; the shift is an ``inline_mgpu``. Masks alone (``byte & 12`` is four times a code) would take an accumulator for each
plane, or a pass over K for each, and a second row sum for the plane with the sign bit.

**Orientation.** ``y.T = W x.T``: only wgmma's left operand may lie in registers, and only its right one may be as narrow as
8, for few tokens. The result is turned back on its way through shared memory.

**Schedule.** One warpgroup copies packed weights and x (TMA) into a ring in shared memory; one or two multiply 64 rows each,
and one unpacks while wgmma works for the other. As many blocks as there are SMs walk over the tiles, those of the same
tokens one after another, so that x comes from L2, and copies for the next tile are under way during the epilogue.

Interpret mode knows neither a left operand in registers nor ``inline_mgpu``: there XLA shifts, and the codes pass through
shared memory. Those lines alone are different where it runs.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith
from jaxtyping import Array

from xtc_jax.kernels.layout import BLOCK
from xtc_jax.kernels.packed_matmul.gpu_tiles import LOADER_REGISTERS, SMS, WARPGROUP, Blocks, staging

_BYTES, _SUMS, _TRANSPOSED = plgpu.Layout.WGMMA_8BIT, plgpu.Layout.WGMMA, plgpu.Layout.WGMMA_TRANSPOSED


def gelu(y: Array) -> Array:
    """``y Phi(y)``, within 1e-7 max(1, |y|), by Abramowitz and Stegun 7.1.26: Mosaic GPU lowers no erf."""
    size = jnp.abs(y)
    t = 1 / (1 + 0.3275911 * math.sqrt(0.5) * size)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return jnp.maximum(y, 0) - 0.5 * size * tail * jnp.exp(-0.5 * y * y)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "": lambda y: y,
        "gelu": gelu,
        "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
        "relu": lambda y: jnp.maximum(y, 0),
    }
)
"""Those of reference.py, in operations that Mosaic GPU lowers."""


@dataclass(frozen=True)
class Kernel:
    """One call: all that is static in it.

    Attributes:
      bits: of the weights, 1 or 2.
      blocks: the tile.
      activation: key of ``ACTIVATIONS``.
      dtype: of the result; int32: no epilogue.
      interpret: see ``mosaic_gpu.matmul``.
      vectors: names of the vectors that the epilogue reads: of tokens, ``row_sum`` (int32) and ``token_scale``; of the matrix,
        ``scale``; or of rows, ``row_scale``; and of rows, ``bias``.
    """

    bits: int
    blocks: Blocks
    activation: str
    dtype: jnp.dtype
    interpret: Any
    vectors: tuple[str, ...]

    def __call__(self, packed: Array, x: Array, *vectors: Array) -> Array:
        """``(M, N)`` from ``packed`` int8 ``(N, K bits / 8)`` and ``x`` int8 ``(M, K)``: whole tiles of blocks of 256 codes."""
        (m, k), n = x.shape, packed.shape[0]
        tiles = m // self.blocks.tokens, n // self.blocks.rows
        warpgroups = self.blocks.rows // WARPGROUP
        scratch = {"result": plgpu.SMEM(staging(self.blocks), self.dtype, transforms=_swizzled(128, self.dtype))}
        if self.interpret:
            scratch["unpacked"] = plgpu.SMEM((warpgroups, WARPGROUP, BLOCK), jnp.int8, transforms=_swizzled(128))
        return plgpu.kernel(
            functools.partial(self._body, tiles, k // BLOCK),
            out_type=jax.ShapeDtypeStruct((m, n), self.dtype),
            scratch_types=scratch,
            grid=(min(math.prod(tiles), 2 if self.interpret else multiprocessors()),),
            grid_names=("sm",),
            num_threads=warpgroups + 1,
            thread_name="warpgroup",
            kernel_name=f"packed_matmul_{self.bits}bit",
            interpret=interpretation(self.interpret),
        )(packed, x, *vectors)

    def _body(
        self, tiles: tuple[int, int], steps: int, packed: Any, x: Any, *refs: Any, result: Any, unpacked: Any = None
    ) -> None:
        *sources, out = refs
        vectors = dict(zip(self.vectors, sources, strict=True))
        rows, tokens = self.blocks.rows, self.blocks.tokens
        allocations = self._pipeline(steps, _nothing, _nothing).get_allocations(packed, x)

        @functools.partial(pl.run_scoped, allocations=allocations, collective_axes="warpgroup")
        def _ring(allocations: Any) -> None:
            warpgroup = lax.axis_index("warpgroup")

            @plgpu.nd_loop(tiles, collective_axes="sm")
            def _tile(loop: plgpu.NDLoopInfo) -> None:
                token, row = loop.index[0] * tokens, loop.index[1] * rows
                own = row + warpgroup * WARPGROUP

                def compute(run: Callable[[Any], Any]) -> None:
                    def multiply(sums: Any) -> Array:
                        run(sums)
                        return sums[...]

                    sums = pl.run_scoped(multiply, plgpu.WGMMAAccumulatorRef((WARPGROUP, tokens), jnp.int32))
                    self._epilogue(sums, vectors, token, own, result.at[warpgroup], out)

                step = functools.partial(self._step, warpgroup, unpacked)
                self._pipeline(steps, step, compute)(
                    packed.at[pl.ds(row, rows)], x.at[pl.ds(token, tokens)], allocations=allocations
                )

            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def _pipeline(self, steps: int, step: Callable[..., Any], compute: Callable[..., None]) -> Any:
        """The loop over K: the last warpgroup copies block after block into the ring, the others ``compute``."""

        def spec(rows: int, width: int) -> plgpu.BlockSpec:
            transforms = _swizzled(min(width, 128))
            return plgpu.BlockSpec((rows, width), lambda block: (0, block), transforms=transforms, memory_space=plgpu.SMEM)

        return plgpu.emit_pipeline_warp_specialized(
            step,
            grid=(steps,),
            memory_registers=LOADER_REGISTERS,
            in_specs=[spec(self.blocks.rows, BLOCK * self.bits // 8), spec(self.blocks.tokens, BLOCK)],
            wg_axis="warpgroup",
            num_compute_wgs=self.blocks.rows // WARPGROUP,
            max_concurrent_steps=self.blocks.stages,
            compute_context=compute,
        )

    def _step(self, warpgroup: Array, unpacked: Any, _: Any, packed: Any, x: Any, sums: Any) -> Any:
        """``sums (64, tokens) += codes (64, 256) x (tokens, 256).T``."""
        own = plgpu.load(packed.at[pl.ds(warpgroup * WARPGROUP, WARPGROUP)], layout=_BYTES)
        mask = jnp.int8(2**self.bits - 1)
        shift = _interpreted_shift if self.interpret else _shift
        codes = lax.concatenate([shift(own, j) & mask for j in range(0, 8, self.bits)], 1)
        if self.interpret:
            unpacked.at[warpgroup][...] = codes
            plgpu.commit_smem()
            codes = unpacked.at[warpgroup]
        plgpu.wgmma(sums, codes, x.T)
        plgpu.wgmma_wait(0)
        return sums

    def _epilogue(self, sums: Array, vectors: Mapping[str, Any], token: Array, row: Array, result: Any, out: Any) -> None:
        """Write ``sums (64, tokens)`` to ``out[token:, row:]``, piece by piece, each while the next is made."""
        _, slots, piece, _ = staging(self.blocks)
        rows = pl.ds(row, WARPGROUP)
        for i in range(self.blocks.tokens // piece):
            tokens = pl.ds(token + i * piece, piece)
            y = self._finish(sums[:, i * piece : (i + 1) * piece], vectors, tokens, rows)
            slot = result.at[i % slots]
            plgpu.wait_smem_to_gmem(slots - 1, wait_read_only=True)
            slot.T[...] = plgpu.layout_cast(y, _TRANSPOSED)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(slot, out.at[tokens, rows])

    def _finish(self, sums: Array, vectors: Mapping[str, Any], tokens: Any, rows: Any) -> Array:
        """``epilogue`` of reference.py after the correction by the row sums, for ``sums (rows, tokens)``."""

        def vector(name: str, axis: int) -> Array:
            values = plgpu.load(vectors[name].at[(rows, tokens)[axis]], layout=_SUMS.reduce(1 - axis), optimized=False)
            return lax.broadcast_in_dim(values, sums.shape, (axis,))

        sums = (sums if self.bits == 2 else sums + sums) - vector("row_sum", 1)
        if self.dtype == jnp.int32:
            return sums
        scale = vectors["scale"][0] if "scale" in vectors else vector("row_scale", 0)
        y = sums.astype(jnp.float32) * (vector("token_scale", 1) * scale)
        if "bias" in vectors:
            y = y + vector("bias", 0)
        return ACTIVATIONS[self.activation](y).astype(self.dtype)


def _shift(codes: Array, by: int) -> Array:
    """``codes >> by`` of 32-bit words, four codes at once: bits of the neighbour come in from above, for a mask to remove."""

    @plgpu.inline_mgpu(arg_types=(_BYTES,), return_type=plgpu.ShapeDtypeStruct(codes.shape, codes.dtype, layout=_BYTES))
    def shift(_: Any, array: Any) -> Any:
        word = ir.IntegerType.get_signless(32)
        shifted = np.empty_like(array.registers)
        for i, four in np.ndenumerate(array.registers):
            moved = arith.shrui(mgpu.utils.bitcast(four, word), mgpu.c(by, word))
            shifted[i] = mgpu.utils.bitcast(moved, four.type)
        return mgpu.FragmentedArray(_registers=shifted, _layout=array.layout, _is_signed=array.is_signed)

    return shift(codes) if by else codes


def _interpreted_shift(codes: Array, by: int) -> Array:
    return lax.shift_right_logical(codes, jnp.full_like(codes, by))


def _swizzled(width: int, dtype: Any = jnp.int8) -> tuple[Any, Any]:
    """Shared memory in tiles of 8 rows and ``width`` bytes, whose 16-byte pieces are exchanged: what TMA and wgmma agree on."""
    tiles = plgpu.TilingTransform((8, width // jnp.dtype(dtype).itemsize))  # type: ignore[abstract] # a dataclass of JAX
    return tiles, plgpu.SwizzleTransform(width)  # type: ignore[abstract]


def multiprocessors() -> int:
    """SMs of the GPU at hand; of an H100, where the code is for a GPU elsewhere."""
    return jax.devices()[0].core_count if jax.default_backend() == "gpu" else SMS


def interpretation(interpret: Any) -> Any:
    """What ``plgpu.kernel`` takes for False, True or ``InterpretGPUParams``."""
    return plgpu.InterpretGPUParams() if interpret is True else interpret or None


def _nothing(*_: Any) -> None:
    """Stands for functions that do not matter when memory is allotted."""
