"""Activations: the input of a Linear on a grid of few bits, whose range is dynamic or running.

Source: ``SymQuantizer``, ``AsymQuantizer`` and ``QuantAct`` of ``deepspeed/compression`` (docs/method.md, section 3.1). Dynamic
ranges are those of the array itself, per token (XTC's) or of the whole tensor. A static range is a running one: while
training, the first batch sets it and every batch moves it, ``0.95 * old + 0.05 * batch``, *before* it is used; then it is
fixed, and exported.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xtc_jax.quantize.groups import LARGEST, finite
from xtc_jax.quantize.integer import round_asymmetric, round_symmetric

RANGES = ("token", "tensor", "static")
ACTIVATION_BITS = (4, 8)
MOMENTUM = 0.95


@dataclass(frozen=True)
class ActivationSpec:
    """How the input of a Linear is quantized.

    Attributes:
      bits: 8 or 4.
      range: ``token`` (one scale per vector: the result depends on no other token, and so not on padding),
        ``tensor`` (one scale for the batch) or ``static`` (the running range, one per Linear).
      symmetric: False takes the asymmetric grid.
      start: training step from which it is on.
    """

    bits: int = 8
    range: str = "token"
    symmetric: bool = True
    start: int = 0


class ActivationLevels(NamedTuple):
    """``x = (codes + zero) * scale``; float32; ``scale`` and ``zero`` broadcast against ``codes``."""

    codes: Float[Array, "*batch k"]
    scale: Float[Array, "..."]
    zero: Float[Array, "..."] | None


def observe(x: Float[Array, "..."], running: Float[Array, "2"]) -> Float[Array, "2"]:
    """The running ``(min, max)`` after one more batch; an untouched one, ``(0, 0)``, starts at the batch's."""
    wide = finite(x)
    batch = jnp.stack([jnp.min(wide), jnp.max(wide)])
    old = jnp.where(running[0] == running[1], batch, running)
    return MOMENTUM * old + (1 - MOMENTUM) * batch


def activation_levels(
    x: Float[Array, "*batch k"], spec: ActivationSpec, input_range: Float[Array, "2"] | None = None
) -> ActivationLevels:
    """The integers of ``x``.

    Args:
      x: float activations, any float dtype.
      spec: bits and range.
      input_range: float32 ``(min, max)``, where the range is static. An untouched ``(0, 0)`` gives zeros.
    """
    axis = -1 if spec.range == "token" else None
    if spec.range == "static":
        assert input_range is not None, "a static range has been asked for and none is there"
        low, high = input_range.reshape(2, *(1,) * x.ndim)
    elif spec.symmetric:
        high = jnp.max(jnp.abs(x.astype(jnp.float32)), axis, keepdims=True)
        low = -high
    else:
        low, high = jnp.min(finite(x), axis, keepdims=True), jnp.max(finite(x), axis, keepdims=True)
    if spec.symmetric:
        # A bound on the scale is one on the codes, which are clipped: an infinity costs no pass of its own.
        bound = jnp.minimum(jnp.maximum(jnp.abs(low), jnp.abs(high)), LARGEST)
        return ActivationLevels(*round_symmetric(x.astype(jnp.float32), bound, spec.bits), None)
    return ActivationLevels(*round_asymmetric(finite(x), low, high, spec.bits))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 3))
def quantize_activations(
    x: Float[Array, "*batch k"],
    spec: ActivationSpec,
    input_range: Float[Array, "2"] | None = None,
    training: bool = False,
) -> Float[Array, "*batch k"]:
    """Fake-quantize ``x``; the gradient passes straight through.

    Args:
      x: float activations.
      spec: bits and range.
      input_range: the running range, where it is static.
      training: moves a static range before it is used. Its new value comes back as the *gradient* of ``input_range``, to be
        stored by whoever steps the optimizer: a pure function has no other way out, and the cotangent of a constant is free.

    >>> quantize_activations(jnp.array([[-1.0, 0.5, 1.0]]), ActivationSpec(8)).tolist()
    [[-1.0, 0.5, 0.9921875]]
    """
    return _forward(x, spec, input_range, training)[0]


def used_range(x: Array, spec: ActivationSpec, input_range: Array | None, training: bool) -> Array | None:
    """The range that quantizes ``x``: the static one, moved by ``x`` while training; None where it is dynamic."""
    if spec.range != "static":
        return None
    assert input_range is not None, "a static range has been asked for and none is there"
    return observe(x, input_range) if training else input_range


def range_cotangent(moved: Array | None, input_range: Array | None, training: bool) -> Array | None:
    """What stands for the gradient of ``input_range``: its new value while training, else 0."""
    if input_range is None:
        return None
    return moved if moved is not None and training else jnp.zeros_like(input_range)


def _forward(
    x: Array, spec: ActivationSpec, input_range: Array | None, training: bool
) -> tuple[Array, tuple[Array | None, Array | None]]:
    moved = used_range(x, spec, input_range, training)
    levels = activation_levels(x, spec, moved)
    codes = levels.codes if levels.zero is None else levels.codes + levels.zero
    return (codes * levels.scale).astype(x.dtype), (moved, input_range)


def _backward(
    spec: ActivationSpec, training: bool, residual: tuple[Array | None, Array | None], cotangent: Array
) -> tuple[Array, Array | None]:
    del spec
    return cotangent, range_cotangent(*residual, training)


quantize_activations.defvjp(_forward, _backward)
