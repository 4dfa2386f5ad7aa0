"""Devices: one mesh with a ``data`` axis, parameters replicated, batches split over it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xtc_jax.errors import UserError


def make_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A one-dimensional mesh over all devices.

    Raises:
      UserError: the batch cannot be split evenly over them.
    """
    devices = devices or jax.devices()
    if batch_size % len(devices):
        raise UserError(f"batch_size={batch_size} is not a multiple of the {len(devices)} devices")
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The leading axis split over ``data``."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """A host batch as global arrays."""
    return jax.device_put(batch, split(mesh))


def put_replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """A pytree on every device, in fresh buffers (the train step donates its state)."""
    return jax.tree.map(lambda x: jax.device_put(jax.numpy.array(x, copy=True), replicated(mesh)), tree)
