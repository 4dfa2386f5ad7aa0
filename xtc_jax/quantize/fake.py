"""Fake quantization of a whole model: params in, params out, same structure."""

import functools
from dataclasses import dataclass, field
from typing import Any

import jax
from jaxtyping import Array, Float

from xtc_jax.errors import UserError
from xtc_jax.quantize.binary import binarize, binary_levels, quantize_binary
from xtc_jax.quantize.groups import group_count, straight_through
from xtc_jax.quantize.integer import quantize_activations
from xtc_jax.quantize.matmul import quantized_matmul
from xtc_jax.quantize.rules import QuantRules, WeightSpec
from xtc_jax.quantize.ternary import quantize_ternary, ternarize, ternary_levels

Params = Any
"""A pytree of parameters: nested dicts whose leaves are arrays (or nodes that stand for one)."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value", "codes", "scale"], meta_fields=["activation_bits"])
@dataclass(frozen=True, eq=False)
class FakeQuantized:
    """A fake-quantized weight whose Linear also quantizes its input.

    Attributes:
      value: float values on the quantization grid, ``(out, in)``; the gradient arrives here.
      codes: the integers they stand for, as floats, ``(out, in)``; a constant.
      scale: ``(groups,)``, a constant; ``value`` is ``codes * scale``.
      activation_bits: bits of the Linear's input, per token, symmetric.
    """

    value: Array
    codes: Array
    scale: Array
    activation_bits: int = field(metadata={"static": True})

    def linear(self, x: Float[Array, "*batch k"]) -> Float[Array, "*batch n"]:
        """The quantized ``x`` times this weight; exact unless groups split a row."""
        if self.scale.shape[0] in (1, self.value.shape[0]):
            return quantized_matmul(x, self.value, self.codes, self.scale, self.activation_bits)
        contract = (((x.ndim - 1,), (1,)), ((), ()))
        return jax.lax.dot_general(quantize_activations(x, self.activation_bits), self.value, contract)


def quantize_weight(w: Float[Array, "..."], spec: WeightSpec) -> tuple[Array, Array]:
    """Integer codes (int8, shaped like ``w``) and scales (one per group) of ``w`` under ``spec``."""
    quantizer = {1: quantize_binary, 2: quantize_ternary}[spec.bits]
    return quantizer(w, group_count(w.shape, spec.granularity))


@straight_through
def round_mantissa(x: Float[Array, "..."], bits: int) -> Float[Array, "..."]:
    """Round to IEEE half precision (``bits`` = 10) without leaving the dtype; straight-through gradient.

    ``reduce_precision`` and not a pair of casts: XLA may elide the casts. Values under 2^-14 become 0.
    """
    return jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=bits)


def named_leaves(params: Params) -> dict[str, Any]:
    """``{"encoder/layer_0/…/weight": leaf}`` in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def assign_rules(params: Params, rules: QuantRules) -> dict[str, WeightSpec]:
    """:meth:`QuantRules.assign` over the paths of ``params``.

    Raises:
      UserError: a rule matches nothing, matches something that is not a matrix, or its group size does
        not divide the matrix.
    """
    leaves = named_leaves(params)
    assigned = rules.assign(leaves)
    for path, spec in assigned.items():
        if leaves[path].ndim != 2:
            raise UserError(f"a quantization rule matches {path}, shape {leaves[path].shape}: only matrices are quantized")
        try:
            group_count(leaves[path].shape, spec.granularity)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
    return assigned


def fake_quantize(params: Params, rules: QuantRules) -> Params:
    """The params a quantized student computes with.

    Args:
      params: latent float32 params; the gradient of the result passes straight through to them.
      rules: what to quantize.

    Returns:
      The same tree; a quantized weight is a float array on the grid, wrapped in :class:`FakeQuantized`
      where the Linear's input is quantized too; every other leaf is rounded to ``rules.rest``.

    Raises:
      UserError: see :func:`assign_rules`.
    """
    assigned = assign_rules(params, rules)

    def leaf(path: tuple[Any, ...], w: Array) -> Array | FakeQuantized:
        spec = assigned.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        if spec is None:
            return round_mantissa(w, 10) if rules.rest == "float16" else w
        groups = group_count(w.shape, spec.granularity)
        value = {1: binarize, 2: ternarize}[spec.bits](w, groups)
        if spec.activation_bits is None:
            return value
        codes, scale = {1: binary_levels, 2: ternary_levels}[spec.bits](jax.lax.stop_gradient(w), groups)
        return FakeQuantized(value, codes, scale, spec.activation_bits)

    return jax.tree_util.tree_map_with_path(leaf, params)
