"""From trained params to packed params, back, and the account of every byte."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from xtc_jax.bert import sums_integers
from xtc_jax.errors import UserError
from xtc_jax.kernels import PackedTensor, pack_tensor, prepare
from xtc_jax.params import Params, SizeEntry, named_leaves
from xtc_jax.quantize import INPUT_RANGE, QuantRules, assign_rules, weight_levels


def pack(params: Params, rules: QuantRules) -> Params:
    """The latent params as they are stored and run.

    Args:
      params: latent float32 params, unquantized.
      rules: the rules they were trained with.

    Returns:
      The same tree: a :class:`PackedTensor` where a rule applies, ``rules.rest`` elsewhere. Codes and
      scales are those that ``fake_quantize`` computes with, so both models have the same integers.

    Raises:
      UserError: see ``assign_rules``; or a value outside ``rules.rest``.
    """
    assigned = assign_rules(params, rules)
    # Compiled, as the student is: of a sum that XLA merges with what it is of, the order is another than of one by itself.
    quantized = jax.jit(weight_levels, static_argnames="spec")

    def leaf(path: tuple[Any, ...], w: Array) -> Array | PackedTensor:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = assigned.get(name)
        if spec is not None:
            levels = quantized(w, spec=spec)
            return pack_tensor(levels.codes, levels.scale, spec.bits, spec.activation, levels.zero)
        if rules.rest == "float32" or name.endswith(INPUT_RANGE):
            return w
        half = jax.lax.reduce_precision(w, exponent_bits=5, mantissa_bits=10).astype(jnp.float16)
        if not bool(jnp.all(jnp.isfinite(half))):
            raise UserError(f"{name}: a value does not fit float16; use the rule set 'deepspeed', which keeps float32")
        return half

    return jax.tree_util.tree_map_with_path(leaf, jax.tree.map(jnp.asarray, params))


def _is_packed(leaf: object) -> bool:
    return isinstance(leaf, PackedTensor)


def unpack(params: Params) -> Params:
    """Every leaf as a float32 array: what the packed model means, for tools that know only floats."""
    return jax.tree.map(
        lambda leaf: leaf.dequantize() if _is_packed(leaf) else leaf.astype(jnp.float32), params, is_leaf=_is_packed
    )


def ready(params: Params, device_kind: str = "", backend: str = "") -> Params:
    """Packed params prepared for repeated calls on one kind of device: float leaves in float32, the weights of Linears laid out
    for the backend that :func:`xtc_jax.kernels.choose` chooses. Embedding tables stay packed: a look-up unpacks the rows it
    needs; so do weights that no backend multiplies as integers.

    Args:
      params: as loaded, or as :func:`pack` made them.
      device_kind: where they will run; "" is the default device.
      backend: takes this one for every Linear.

    Raises:
      ValueError: there is no such backend, or it cannot serve a weight.
    """
    kind = device_kind or jax.devices()[0].device_kind

    def leaf(path: tuple[Any, ...], value: Any) -> Any:
        if not _is_packed(value):
            return _float32(value)
        if sums_integers(value):
            return prepare(value, kind, backend)
        table = "_embeddings/" in jax.tree_util.keystr(path, simple=True, separator="/")
        return value.unpacked() if kind == "cpu" and value.is_integer and not table else value  # the pooler's, once

    return jax.tree_util.tree_map_with_path(leaf, params, is_leaf=_is_packed)


def _float32(value: Any) -> Array:
    """``value`` in float32; of an array that is there, by numpy: nothing is compiled."""
    return value.astype(jnp.float32) if isinstance(value, jax.core.Tracer) else jnp.asarray(np.asarray(value, np.float32))


def size_account(params: Params) -> list[SizeEntry]:
    """Every parameter with its bits and bytes; the sum is the payload of the file, header apart."""
    entries = []
    for name, leaf in named_leaves(params, whole=PackedTensor).items():
        if _is_packed(leaf):
            scales = leaf.scale.nbytes + (0 if leaf.zero is None else leaf.zero.nbytes)
            entries.append(SizeEntry(name, leaf.shape, leaf.stored_bits, leaf.codes.nbytes, scales))
        else:
            entries.append(SizeEntry(name, leaf.shape, leaf.dtype.itemsize * 8, leaf.nbytes, 0))
    return entries


def float32_bytes(params: Params) -> int:
    """Bytes of the same parameters at four bytes each, the base of every ratio."""
    return sum(4 * int(np.prod(entry.shape)) for entry in size_account(params))
