"""The three parametrised operations of a BERT, for every kind of leaf that may stand in ``params``.

A weight is a float array (full precision), a :class:`FakeQuantized` or :class:`FakeQuantizedTable` (training at low bits) or
a :class:`PackedTensor` (a loaded small model). The module is the same; the leaf decides what multiplies.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xtc_jax.kernels import ACTIVATIONS, PackedTensor, native_product, packed_matmul
from xtc_jax.quantize import (
    INPUT_RANGE,
    ActivationSpec,
    FakeQuantized,
    FakeQuantizedTable,
    activation_levels,
    matmul,
    quantize_activations,
)

Weight = Array | FakeQuantized | FakeQuantizedTable | PackedTensor | Mapping[str, Any]


def linear(
    x: Float[Array, "*batch k"],
    weight: Weight,
    bias: Float[Array, " n"],
    input_range: Float[Array, "2"] | None = None,
    activation: str = "",
) -> Float[Array, "*batch n"]:
    """``activation(x @ weight.T + bias)`` in the dtype of ``x``, the input quantized as the leaf says.

    Args:
      x: activations, float32 or bfloat16; products are summed in float32 either way.
      weight: ``(n, k)``, torch order; a mapping is a weight that was split: the sum of its two halves.
      bias: stays float, always.
      input_range: the running range of ``x``, where its quantization is static.
      activation: ``gelu``, ``gelu_new``, ``relu`` or none; computed in float32, as the sum is.
    """
    if sums_integers(weight):
        return _integer_product(x, weight, input_range, bias=bias, activation=activation, dtype=x.dtype)
    return ACTIVATIONS[activation](_product(x, weight, input_range) + bias).astype(x.dtype)


def _product(x: Array, weight: Weight, input_range: Array | None) -> Array:
    """``x @ weight.T``, float32."""
    if isinstance(weight, Mapping):
        # The range moves once, though both halves see the same input.
        still = None if input_range is None else jax.lax.stop_gradient(input_range)
        return _product(x, weight["first"], input_range) + _product(x, weight["second"], still)
    if isinstance(weight, FakeQuantized):
        return weight.linear(x, input_range, native_product(weight.bits) if weight.arithmetic == "native" else None)
    if sums_integers(weight):
        return _integer_product(x, weight, input_range)
    if isinstance(weight, PackedTensor):
        if weight.activation is not None:
            assert isinstance(weight.activation, ActivationSpec)
            x = quantize_activations(x, weight.activation, input_range)
        return matmul(x, weight.dequantize())
    if isinstance(weight, FakeQuantizedTable):
        return matmul(x, weight.values())
    return matmul(x, jnp.asarray(weight))  # of a checkpoint as read, a numpy array


def sums_integers(weight: Any) -> TypeGuard[PackedTensor]:
    """Whether :func:`packed_matmul` multiplies this weight: it and its input are integers that can be summed before scaling."""
    spec = weight.activation if isinstance(weight, PackedTensor) and weight.is_integer else None
    return isinstance(spec, ActivationSpec) and spec.symmetric


def _integer_product(x: Array, weight: PackedTensor, input_range: Array | None, **epilogue: Any) -> Array:
    spec = weight.activation
    assert isinstance(spec, ActivationSpec)
    if (spec.bits, spec.range) == (8, "token"):
        return packed_matmul(x, weight, **epilogue)  # quantizes so itself, in the kernel where there is one
    levels = activation_levels(x, spec, input_range)
    return packed_matmul(levels.codes.astype(jnp.int8), weight, x_scale=levels.scale, **epilogue)


def embed(ids: Int[Array, "*batch"], table: Weight) -> Float[Array, "*batch hidden"]:
    """Rows of an embedding table; a packed table stays packed, a latent one latent, a split one is the sum of its halves."""
    if isinstance(table, Mapping):
        return embed(ids, table["first"]) + embed(ids, table["second"])
    assert not isinstance(table, FakeQuantized), "an embedding has no input to quantize"
    return table.rows(ids) if isinstance(table, PackedTensor | FakeQuantizedTable) else table[ids]


def _parameter(module: nn.Module, name: str, init: jax.nn.initializers.Initializer, shape: tuple[int, ...]) -> Weight:
    """``module.param``, but what stands there may be any kind of leaf (``param`` compares shapes)."""
    if module.has_variable("params", name):
        leaf: Weight = module.get_variable("params", name)
        return leaf
    return module.param(name, init, shape)


class Linear(nn.Module):
    """``y = x W^T + b`` with ``weight (features, in)`` in torch order and ``bias (features,)``.

    Torch order, and not Flax's ``kernel (in, out)``: groups of a quantizer are contiguous runs of it,
    packed rows are rows of it, and checkpoints are converted without a transpose.
    """

    features: int
    std: float
    activation: str = ""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch k"]) -> Float[Array, "*batch features"]:
        """Apply to the last axis of ``x``; see :func:`linear`."""
        init = nn.initializers.normal(self.std)
        weight = _parameter(self, "weight", init, (self.features, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        input_range = self.get_variable("params", INPUT_RANGE) if self.has_variable("params", INPUT_RANGE) else None
        return linear(x, weight, bias, input_range, self.activation)


class Embedding(nn.Module):
    """A table ``weight (rows, hidden)``."""

    rows: int
    hidden: int
    std: float

    @nn.compact
    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch hidden"]:
        """The rows of the table with the numbers ``ids``."""
        table = _parameter(self, "weight", nn.initializers.normal(self.std), (self.rows, self.hidden))
        return embed(ids, table)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, statistics in float32, two-pass variance as in torch."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
        """``(x - mean) / sqrt(variance + eps) * weight + bias``, in the dtype of ``x``."""
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.eps) * weight + bias).astype(x.dtype)
