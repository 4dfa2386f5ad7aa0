"""What a training run is made of at any moment."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from xtc_jax.params import Params


@functools.partial(jax.tree_util.register_dataclass, data_fields=["step", "params", "opt_state", "key"], meta_fields=[])
@dataclass(frozen=True)
class TrainState:
    """All that a training step changes, as one pytree.

    Attributes:
      step: int32, optimizer steps done.
      params: latent float32 parameters.
      opt_state: the state of the optimizer.
      key: random key of the run; step k uses ``fold_in(key, k)``, so nothing but the step moves it.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    key: jax.Array


def init_state(params: Params, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros([], jnp.int32), params, optimizer.init(params), key)
