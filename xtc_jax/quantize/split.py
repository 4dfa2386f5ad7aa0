"""Ternary weight splitting: one ternary weight becomes the sum of two binary ones, and so starts binary training.

BinaryBERT section 4 (``tws_split`` of ``transformer/binary_model_init.py``; docs/method.md, section 3.3). Per group of n
elements with latent ``w``, ternary level ``alpha``, Z where the ternary weight is 0 and I elsewhere::

    b  = (alpha n - sum|w|) / (2 |Z|)
    on Z:  v1 = w + b if w > 0 else b          v2 = w - b if w < 0 else -b
    on I:  v1 = a w                            v2 = (1 - a) w
    a  = (S_I + S_Z2 - S_Z1) / (2 S_I)         S_I = sum_I |w|,  S_Z1 = sum_Z |v1|,  S_Z2 = sum_Z |v2|

Then ``v1 + v2 = w``, both halves have ``mean|v| = alpha / 2``, and the sum of their binarizations is the ternary weight.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xtc_jax.errors import UserError
from xtc_jax.params import Params
from xtc_jax.quantize.fake import assign_rules, weight_levels
from xtc_jax.quantize.rules import QuantRules
from xtc_jax.quantize.ternary import CLIP


def split_ternary(w: np.ndarray, codes: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two latent halves of a ternary weight.

    Args:
      w: latent weight in torch order, any shape.
      codes: its ternary integers, same shape.
      scale: ``(groups,)``, their levels.

    Returns:
      Two float32 arrays like ``w``. Computed in float64: the identity hangs on sums that nearly cancel.

    Raises:
      ValueError: a group that has no solution: its ``a`` is outside (0, 1).
    """
    rows = np.asarray(w, np.float64).reshape(len(scale), -1)
    zero = np.asarray(codes).reshape(rows.shape) == 0
    magnitude, alpha = np.abs(rows), np.asarray(scale, np.float64)[:, None]
    zeros = zero.sum(axis=1, keepdims=True)
    b = (alpha * rows.shape[1] - magnitude.sum(axis=1, keepdims=True)) / (2 * np.maximum(zeros, 1))
    on_zero = np.where(rows > 0, rows + b, b), np.where(rows < 0, rows - b, -b)
    total = np.where(zero, 0, magnitude).sum(axis=1, keepdims=True)
    first, second = (np.where(zero, np.abs(half), 0).sum(axis=1, keepdims=True) for half in on_zero)
    # A group of zeros alone (a fresh [PAD] row) stays zeros; without zeros, both halves are w / 2.
    a = np.where(total > 0, (total + second - first) / (2 * np.where(total > 0, total, 1)), 0.5)
    if not np.all((a > 0) & (a < 1)):
        raise ValueError("a group cannot be split: its weights are too unlike a ternary one")
    halves = np.where(zero, on_zero[0], a * rows), np.where(zero, on_zero[1], (1 - a) * rows)
    return tuple(half.reshape(w.shape).astype(np.float32) for half in halves)  # type: ignore[return-value]


def split(params: Params, rules: QuantRules) -> Params:
    """Every ternary weight of ``params`` as ``{"first": …, "second": …}``, a sum of two that become binary.

    Args:
      params: latent params of a model trained with ``rules``.
      rules: those under which weights are ternary (2 bits); weights of other bits are not split.

    Returns:
      The same tree with a dict of two latent float32 weights in place of each ternary one. Binarized, group by group, they
      sum to the ternary weight; biases stay as they are, for the sum has one.

    Raises:
      UserError: a weight that cannot be split, by name; or see ``assign_rules``.
    """
    assigned = {path: spec for path, spec in assign_rules(params, rules).items() if spec.bits == 2}

    def leaf(path: tuple[Any, ...], w: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in assigned:
            return w
        spec = assigned[name]
        levels = weight_levels(jnp.asarray(w), spec)
        clipped = np.clip(w, -CLIP, CLIP) if spec.quantizer == "ternary_clipped" else w
        try:
            first, second = split_ternary(np.asarray(clipped), np.asarray(levels.codes), np.asarray(levels.scale))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        return {"first": jnp.asarray(first), "second": jnp.asarray(second)}

    return jax.tree_util.tree_map_with_path(leaf, params)
