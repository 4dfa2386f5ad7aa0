"""``packed_matmul`` on TPU: one Pallas (Mosaic) kernel from float tokens to the activation of the result.

The grid goes over blocks of M, and inside over blocks of N; K is whole. A step unpacks its weights in vector registers,
in front of the MXU, and finishes its part of the result. Tokens are quantized in the first step of a block of M; where
N is one block, weights are unpacked in the very first step and stay in VMEM.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, BFloat16, Float, Int8, Int32

from xtc_jax.devices import Chip, chip
from xtc_jax.kernels.layout import INT8, PLANES256, stored_bits
from xtc_jax.kernels.packed_matmul import reference
from xtc_jax.kernels.packed_matmul.tpu_tiles import Blocks, Shape, choose, legal, vmem_bytes
from xtc_jax.kernels.packed_matmul.tpu_words import LAYOUT, codes_shape, exponent, pack, padded, unpack
from xtc_jax.kernels.tensor import PackedTensor

_ROUND = np.float32(1.5 * 2**23)
"""Added to a float far below 2^22, it leaves that number, rounded half to even, in the low bits of the mantissa."""
_TAIL = (-1.0, -1.1511117, -0.45913626, -0.05275294, 0.0074775480, -0.00047946643, -3.6183775e-05, 6.4673291e-06)
"""``log2(Phi(-a))`` for a in 0 .. 5.5, Phi the normal distribution; fitted so that the error of ``a * Phi(-a)`` is even."""


def prepare(weights: PackedTensor, device_kind: str) -> PackedTensor:
    """Lay ``weights`` out for this kernel on ``device_kind``: once, when a model is loaded.

    Args:
      weights: in layout ``planes256.v1``; or in ``int8``, which stays one byte a weight.
      device_kind: ``jax.Device.device_kind``.

    Raises:
      NotImplementedError: a device or a weight that this kernel does not serve, with the reason.
    """
    device = chip(device_kind)
    if weights.layout not in (PLANES256, INT8):
        raise NotImplementedError(f"weights in layout {weights.layout} are laid out for something else")
    if not weights.is_integer:
        raise NotImplementedError("an asymmetric weight, or one with several scales in a row, has no integer product")
    (n, k), bits = weights.shape, 8 if weights.layout == INT8 else stored_bits(weights.bits)
    if not device.int8 and bits == 8 and k > 1024:
        raise NotImplementedError(
            f"{device.name} has no int8 MXU, and in bfloat16 sums of 8 bit products over K = {k} may round"
        )
    choose(device, Shape(128, padded(k), padded(n), bits, jnp.dtype(jnp.float32), jnp.dtype(jnp.float32)))
    return dataclasses.replace(weights, codes=pack(weights.values().T, bits), layout=LAYOUT, device=device_kind)


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
    """``activation((x * x_scale) @ weights.T + bias)``, as ``reference.py`` defines it, in one kernel.

    Args:
      x: float, quantized per token here, once for all of N; or int8, with ``x_scale``.
      weights: from :func:`prepare`. Inside ``shard_map`` (``check_vma=False``) its ``shape`` must be made that of the shard,
        with ``dataclasses.replace``.
      x_scale: float32 scales of int8 ``x``.
      bias: float, added in float32.
      activation: a key of ``reference.ACTIVATIONS``.
      dtype: of the result: a float type; or int32: the sums, without scales, bias and activation.
      blocks: the tile: ``n`` a multiple of 128, ``m`` a multiple of 128 or all of M; by default that of the tuning table,
        or the largest that fits.
      interpret: what ``pallas_call`` takes: True runs anywhere, as plain XLA; ``InterpretParams`` simulates a TPU's memory.

    Raises:
      NotImplementedError: no tile that holds the whole of K fits VMEM.
      ValueError: weights that are not prepared, or not of their shape; int8 ``x`` without scales; ``blocks`` that are no tile.
    """
    n, k = weights.shape
    bits = 8 if weights.codes.dtype == jnp.int8 else stored_bits(weights.bits)
    if weights.layout != LAYOUT or weights.codes.shape != codes_shape(k, n, bits):
        raise ValueError(
            f"codes {weights.codes.shape} in layout {weights.layout} are not a prepared weight of shape {(n, k)}; "
            "a shard needs the shape of the shard"
        )
    device, out = chip(weights.device), jnp.dtype(dtype)
    if x.dtype not in (jnp.int8, jnp.bfloat16, jnp.float32):
        x = x.astype(jnp.float32)
    inputs = {"x": jnp.pad(x, ((0, 0), (0, padded(k) - k))), "w": weights.codes}
    if out != jnp.int32:
        if x.dtype == jnp.int8:
            if x_scale is None:
                raise ValueError("int8 activations need their scales, x_scale")
            inputs["x_scale"] = x_scale.T
        inputs |= _columns(weights.scale, bias, padded(n))
    return _call(inputs, device, bits, activation, out, blocks, interpret)[:, :n]


def matmul_bfloat16(
    x: Float[Array, "m k"],
    weights: BFloat16[Array, "k n"],
    scale: Float[Array, " groups"],
    bias: Float[Array, " n"] | None,
    device_kind: str,
    *,
    activation: str = "",
    dtype: Any = jnp.float32,
    blocks: Blocks | None = None,
    interpret: Any = False,
) -> Float[Array, "m n"]:
    """The same kernel with bfloat16 weights and activations: what the packed ones are compared with, like for like.

    K and N are multiples of 128; everything else is as in :func:`matmul`.
    """
    inputs = {"x": x, "w": weights} | _columns(scale, bias, weights.shape[1])
    return _call(inputs, chip(device_kind), 16, activation, jnp.dtype(dtype), blocks, interpret)


def _columns(scale: Array, bias: Array | None, columns: int) -> dict[str, Array]:
    """What belongs to the columns of the result, as rows: one number for all of them, or padded to their number."""
    rows = {"scale": scale} if bias is None else {"scale": scale, "bias": bias}
    return {name: (row if row.shape == (1,) else jnp.pad(row, (0, columns - len(row))))[None] for name, row in rows.items()}


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the kernel is traced for; all of it static."""

    device: Chip
    shape: Shape
    blocks: Blocks
    activation: str

    @property
    def grid(self) -> tuple[int, int]:
        return pl.cdiv(self.shape.m, self.blocks.m), pl.cdiv(self.shape.n, self.blocks.n)

    @property
    def operand(self) -> Any:
        """The dtype that the MXU multiplies: int8, or bfloat16 where it has no int8."""
        return jnp.int8 if self.device.int8 and self.shape.bits <= 8 else jnp.bfloat16

    @property
    def shared(self) -> bool:
        """Two cores divide N, because M is one block."""
        return self.device.cores > 1 and self.grid[0] == 1

    @property
    def keeps_tokens(self) -> bool:
        """Tokens are converted in the first of several steps over N, and kept in scratch memory for the others."""
        return self.shape.x != self.operand and self.grid[1] > 1 and not self.shared

    @property
    def keeps_weights(self) -> bool:
        """N is one block, so that weights are unpacked once and kept; two cores would each need a first step."""
        return self.shape.bits < 8 and self.grid[1] == 1 < self.grid[0] and self.device.cores == 1

    @property
    def scratch(self) -> list[Any]:
        """Memory that lasts from step to step."""
        if self.keeps_tokens:
            return [pltpu.VMEM((self.blocks.m, self.shape.k), self.operand), pltpu.VMEM((self.blocks.m, 1), jnp.float32)]
        return [pltpu.VMEM((self.shape.k, self.shape.n), self.operand)] if self.keeps_weights else []

    def spec(self, name: str, array: Array) -> pl.BlockSpec:
        """The block of an input: what belongs to tokens moves with the first axis of the grid, all else with the second."""
        if name == "x":
            return pl.BlockSpec((self.blocks.m, self.shape.k), lambda i, _: (i, 0))
        if name == "x_scale":
            return pl.BlockSpec((1, self.blocks.m), lambda i, _: (0, i))
        if array.shape == (1, 1):
            return pl.BlockSpec((1, 1), lambda *_: (0, 0))
        return pl.BlockSpec((array.shape[0], self.blocks.n), lambda _, j: (0, j))


def _call(
    inputs: Mapping[str, Array], device: Chip, bits: int, activation: str, out: Any, blocks: Blocks | None, interpret: Any
) -> Array:
    """The kernel on inputs of padded K and N."""
    (m, k), n = inputs["x"].shape, inputs["w"].shape[1]
    shape = Shape(m, k, n, bits, inputs["x"].dtype, out)
    plan = _Plan(device, shape, blocks or choose(device, shape), activation)
    if not legal(shape, plan.blocks):
        raise ValueError(f"{plan.blocks} of a result {(m, n)}: both must be multiples of 128 within it, or m the whole of M")
    call = pl.pallas_call(
        functools.partial(_kernel, plan),
        grid=plan.grid,
        in_specs=[{name: plan.spec(name, array) for name, array in inputs.items()}],
        out_specs=pl.BlockSpec((plan.blocks.m, plan.blocks.n), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((m, n), out),
        scratch_shapes=plan.scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary" if plan.keeps_weights else "parallel", "parallel" if plan.shared else "arbitrary"),
            vmem_limit_bytes=vmem_bytes(shape, plan.blocks),
        ),
        interpret=interpret,
        name=f"packed_matmul_{bits}bit",
    )
    return call(dict(inputs))


def _kernel(plan: _Plan, inputs: Mapping[str, Any], out: Any, *scratch: Any) -> None:
    """One step: the whole of K for ``blocks.m`` tokens and ``blocks.n`` columns."""
    if plan.keeps_weights:
        (unpacked,) = scratch

        @pl.when(pl.program_id(0) == 0)
        def _unpack() -> None:
            unpacked[...] = _weights(inputs, plan)

        w = unpacked[...]
    else:
        w = _weights(inputs, plan)
    if plan.keeps_tokens:
        tokens, scale = scratch

        @pl.when(pl.program_id(1) == 0)
        def _convert() -> None:
            tokens[...], scale[...] = _tokens(inputs, plan)

        x, x_scale = tokens[...], scale[...]
    else:
        x, x_scale = _tokens(inputs, plan)
    bits = plan.shape.bits
    exact = jnp.int32 if plan.operand == jnp.int8 else jnp.float32
    sums = lax.dot_general(x, w, (((1,), (0,)), ((), ())), preferred_element_type=exact)
    factor = 0 if bits == 16 else exponent(bits)
    if plan.shape.out == jnp.int32:
        out[...] = sums.astype(jnp.int32) >> factor
        return
    y = sums.astype(jnp.float32) * (x_scale * (inputs["scale"][...] * np.float32(2.0**-factor)))
    if "bias" in inputs:
        y = y + inputs["bias"][...].astype(jnp.float32)
    y = _gelu(y, plan.device) if plan.activation == "gelu" else reference.ACTIVATIONS[plan.activation](y)
    out[...] = y.astype(plan.shape.out)


def _weights(inputs: Mapping[str, Any], plan: _Plan) -> Array:
    """The other operand of the MXU: weights times a power of two."""
    codes, bits = inputs["w"][...], plan.shape.bits
    return codes if bits == 16 else unpack(codes, plan.shape.k, bits).astype(plan.operand)


def _tokens(inputs: Mapping[str, Any], plan: _Plan) -> tuple[Array, Array]:
    """The operand of the MXU and the scales ``(m, 1)`` of its rows."""
    x = inputs["x"][...]
    if plan.shape.bits == 16 or x.dtype == jnp.int8:
        scale = inputs["x_scale"][...].T if "x_scale" in inputs else jnp.ones((x.shape[0], 1), jnp.float32)
        return x.astype(plan.operand), scale
    # quantize_tokens of reference.py, with the clipping of infinities moved to the maximum and behind the division.
    wide = x.astype(jnp.float32)
    scale = jnp.minimum(jnp.max(jnp.abs(x), axis=-1, keepdims=True).astype(jnp.float32), reference.LARGEST) / 128
    rounded = jnp.clip(wide / jnp.where(scale > 0, scale, 1), -128, 127) + _ROUND
    # Read from the bits, not by subtracting: XLA (0.10.2) would add the two constants up, and round nothing.
    return lax.bitcast_convert_type(rounded, jnp.int32).astype(jnp.int8).astype(plan.operand), scale


def _gelu(y: Array, device: Chip) -> Array:
    """``y * Phi(y)``, with an error below that of ``jax.nn.gelu``: 3e-7."""
    if device.erf:
        return 0.5 * y * (1 + lax.erf(y * np.float32(np.sqrt(0.5))))
    a = jnp.minimum(jnp.abs(y), 5.5)
    tail = jnp.full_like(a, _TAIL[-1])
    for coefficient in reversed(_TAIL[:-1]):
        tail = tail * a + coefficient
    return jnp.maximum(y, 0) - a * jnp.exp2(tail)
