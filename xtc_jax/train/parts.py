"""A batch in parts, and back."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from xtc_jax.parallel import batch_sharding


def in_parts(batch: Any, count: int, mesh: jax.sharding.Mesh) -> Any:
    """``(rows, …)`` as ``(count, rows / count, …)``. Part i is every ``count``-th row from i on: no row leaves its device."""
    each = NamedSharding(mesh, PartitionSpec(None, *batch_sharding(mesh).spec))
    stacked = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)
    return jax.lax.with_sharding_constraint(stacked, each)


def as_whole(parts: Any) -> Any:
    """What :func:`in_parts` made parts of: ``(count, rows / count, …)`` as ``(rows, …)``."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), parts)
