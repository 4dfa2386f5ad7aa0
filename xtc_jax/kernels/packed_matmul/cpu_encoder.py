"""All layers of a BERT in one call of the native library: what lies between two products never leaves the caches.

The arithmetic is that of ``xtc_jax.bert``: the same quantized tokens, sums, scales, biases, activations, attention, residuals
and LayerNorm. Sums of floats, in attention and LayerNorm, have another order than XLA's, so that a result may differ in its
last bits, and a token's code by one where its quotient lies beside a half.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from xtc_jax.kernels.packed_matmul import cpu
from xtc_jax.kernels.tensor import PackedTensor


@dataclass(frozen=True)
class FusedLinear:
    """A Linear: ``weight`` ``(N, K)`` in the layout of ``native_cpu``, ``bias`` ``(N,)``."""

    weight: PackedTensor
    bias: Array


@dataclass(frozen=True)
class FusedLayer:
    """A layer of the encoder.

    Attributes:
      linears: query, key, value, attention output, intermediate, output.
      norms: weight and bias of the LayerNorm behind the attention, and of that behind the output.
    """

    linears: tuple[FusedLinear, ...]
    norms: tuple[tuple[Array, Array], tuple[Array, Array]]


def serves_encoder(layers: Sequence[FusedLayer], heads: int, activation: str) -> bool:
    """Whether :func:`fused_encoder` can run these layers: weights that ``native_cpu`` laid out, heads of a multiple of 16."""
    native = all(each.weight.layout in cpu.LAYOUTS for layer in layers for each in layer.linears)
    if not native or not layers or activation not in cpu.FUSED_ACTIVATIONS:
        return False
    return layers[0].linears[0].weight.shape[0] % (16 * heads) == 0


def fused_encoder(
    x: Float[Array, "batch length hidden"],
    mask: Int[Array, "batch length"],
    layers: Sequence[FusedLayer],
    *,
    heads: int,
    eps: float,
    activation: str,
    isa: str = "",
    threads: int = 0,
) -> Float[Array, "batch length hidden"]:
    """The last hidden state, float32.

    Args:
      x: what the embeddings give, float32.
      mask: 1 for tokens, 0 for padding.
      layers: that :func:`serves_encoder` accepts, all of one size.
      heads: of the attention.
      eps: of LayerNorm.
      activation: of the intermediate Linear.
      isa, threads: see :func:`xtc_jax.kernels.packed_matmul.cpu.matmul`; they change no bit of the result.
    """
    arrays = [array for layer in layers for array in _arrays(layer)]
    bits = np.array([each.weight.bits for layer in layers for each in layer.linears], np.int64)
    call = jax.ffi.ffi_call("xtc_native_encoder", jax.ShapeDtypeStruct(x.shape, jnp.float32), vmap_method="sequential")
    return call(
        x.astype(jnp.float32),
        mask.astype(jnp.int32),
        *arrays,
        bits=bits,
        inner=np.int64(layers[0].linears[4].weight.shape[0]),
        heads=np.int64(heads),
        eps=np.float32(eps),
        activation=np.int64(cpu.FUSED_ACTIVATIONS.index(activation)),
        **cpu.call_options([each.weight for layer in layers for each in layer.linears], isa, threads),
    )


def _arrays(layer: FusedLayer) -> list[Array]:
    """What the library reads of a layer, in its order."""
    found = [[each.weight.codes, each.weight.scale, each.bias] for each in layer.linears]
    first, second = (list(pair) for pair in layer.norms)
    order = [*found[:4], first, *found[4:], second]
    floats = [[each if each.dtype == jnp.uint8 else each.astype(jnp.float32) for each in part] for part in order]
    return [array for part in floats for array in part]
