"""AdamW exactly as XTC trained with it (transformers 4.15), its schedule, and its clipping.

``optax.adamw`` differs in three ways that matter for parity (docs/method.md, section 6.1): eps is added before the
bias correction here, decay acts on the *updated* parameter, and the clip divides by ``norm + 1e-6``.
"""

import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from xtc_jax.params import Params

_NO_DECAY = re.compile(r"bias$|LayerNorm/")


@dataclass(frozen=True)
class OptimizerSpec:
    """Hyper-parameters; the defaults are XTC's.

    Attributes:
      learning_rate: peak of the schedule.
      steps: optimizer steps of the run; the rate falls linearly to 0 at the last.
      warmup: steps of the linear rise from 0; the first update has rate 0.
      weight_decay: of everything but biases and LayerNorm.
      clip: bound on the global L2 norm of the gradient.
      b1, b2, eps: Adam's.
    """

    learning_rate: float
    steps: int
    warmup: int
    weight_decay: float = 0.01
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6


def learning_rates(spec: OptimizerSpec) -> np.ndarray:
    """The rates of updates 0 .. steps - 1, float32.

    They are arguments of the train step, not constants in it: runs that differ in them alone share one compiled step.
    """
    return np.asarray(schedule(spec)(jnp.arange(spec.steps)), np.float32)


def schedule(spec: OptimizerSpec) -> optax.Schedule:
    """``k -> lr * (k / W if k < W else (T - k) / (T - W))`` for update k = 0, 1, …, W warm-up steps of T."""
    fall = optax.linear_schedule(spec.learning_rate, 0.0, max(spec.steps - spec.warmup, 1))
    if spec.warmup == 0:
        return fall
    rise = optax.linear_schedule(0.0, spec.learning_rate, spec.warmup)
    return optax.join_schedules([rise, fall], [spec.warmup])


def decayed(params: Params) -> Params:
    """True for parameters that decay: all but biases and LayerNorm."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: _NO_DECAY.search(jax.tree_util.keystr(path, simple=True, separator="/")) is None, params
    )


def make_optimizer(spec: OptimizerSpec) -> optax.GradientTransformationExtraArgs:
    """The transformation ``update(gradients, state, params, rate=lr_t) -> (updates, state)``.

    In update t of parameters p with gradients g::

      g <- g * min(1, clip / (||g|| + 1e-6))
      m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
      p <- p - lr_t * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)
      p <- p - lr_t * weight_decay * p          (on the updated p, decayed parameters only)
    """

    def init(params: Params) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros, nu=zeros)

    def update(
        gradients: Params, state: optax.ScaleByAdamState, params: Params | None = None, *, rate: Array
    ) -> tuple[Params, optax.ScaleByAdamState]:
        assert params is not None, "weight decay needs the parameters"
        factor = jnp.minimum(1.0, spec.clip / (optax.tree.norm(gradients) + 1e-6))
        gradients = jax.tree.map(lambda g: g * factor, gradients)
        mu = jax.tree.map(lambda m, g: spec.b1 * m + (1 - spec.b1) * g, state.mu, gradients)
        nu = jax.tree.map(lambda v, g: spec.b2 * v + (1 - spec.b2) * jnp.square(g), state.nu, gradients)
        count = state.count + 1
        t = count.astype(jnp.float32)
        lr = jnp.asarray(rate, jnp.float32)
        # 1 - b^t through expm1: the float32 difference would lose four of its seven digits at t = 1.
        step_size = lr * jnp.sqrt(-jnp.expm1(t * math.log(spec.b2))) / -jnp.expm1(t * math.log(spec.b1))

        def delta(p: Array, m: Array, v: Array, decay: bool) -> Array:
            change = -step_size * m / (jnp.sqrt(v) + spec.eps)
            # change - lr wd (p + change), with change in it once: XLA:CPU makes one loop of that, and no array for change.
            return (1 - lr * spec.weight_decay) * change - lr * spec.weight_decay * p if decay else change

        updates = jax.tree.map(delta, params, mu, nu, decayed(params))
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformationExtraArgs(init, update)
