"""Devices in a grid, and batches split over it.

A mesh has three axes. ``data`` splits the batch; ``fsdp`` splits the batch and every weight and its optimizer state (ZeRO-3);
``tensor`` splits the matrices of a layer (Megatron). They differ in memory and traffic, never in what is computed.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xtc_jax.devices import Arithmetic, fastest_arithmetic
from xtc_jax.errors import UserError
from xtc_jax.kernels import native_is_built, native_is_fast

AXES = ("data", "fsdp", "tensor")
_BATCH = PartitionSpec(("data", "fsdp"))


def make_mesh(shape: Sequence[int] = (-1, 1, 1), devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh ``(data, fsdp, tensor)`` over all devices of all processes, or over ``devices``.

    Args:
      shape: size of every axis; one may be -1, which takes the devices that the others leave.
      devices: to be used instead of all.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or see :func:`slices_along_data`; the message begins with
        ``mesh=``.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(shape, len(devices))
    if len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}) > 1:
        grid = slices_along_data(sizes, devices)
        return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def slices_along_data(sizes: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """The devices of several TPU slices in the shape ``sizes``: each slice is a run of ``data``, so that only the sum of the
    gradient crosses the data-center network, and ``fsdp`` and ``tensor`` stay within a slice.

    Raises:
      UserError: ``data`` is not a multiple of the number of slices.
    """
    data, fsdp, tensor = sizes
    slices = len({device.slice_index for device in devices})
    if data % slices:
        raise UserError(
            f"mesh={sizes}: data={data} is not a multiple of the {slices} TPU slices, over which only data is split"
        )
    within = (data // slices, fsdp, tensor)
    return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)


def mesh_sizes(shape: Sequence[int], devices: int) -> tuple[int, ...]:
    """The sizes of the axes of a mesh of so many devices; see :func:`make_mesh`."""
    sizes, text = list(shape), f"mesh=({', '.join(map(str, shape))})"
    if len(sizes) != len(AXES) or min(sizes) < -1 or 0 in sizes or sizes.count(-1) > 1:
        raise UserError(f"{text}: give the sizes of {', '.join(AXES)}, one of which may be -1")
    known = math.prod(size for size in sizes if size > 0)
    sizes = [size if size > 0 else devices // known for size in sizes]
    if math.prod(sizes) != devices:
        raise UserError(f"{text} does not multiply to the {devices} devices there are")
    return tuple(sizes)


def check_batch(batch_size: int, mesh: jax.sharding.Mesh, accumulate: int = 1) -> None:
    """Every device gets as many rows as any other, of each of ``accumulate`` parts.

    Raises:
      UserError: it does not; the message begins with ``batch_size=``.
    """
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (shares * accumulate):
        parts = f" times accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"batch_size={batch_size} is not a multiple of the {shares} devices{parts} that share it (mesh axes data, fsdp)"
        )


def choose_arithmetic(asked: str) -> Arithmetic:
    """``asked``; for ``auto``, what is fastest here: on a single CPU the native library, where it is built, else see
    :func:`fastest_arithmetic`. (XLA does not divide a call of the library among devices.)

    Raises:
      UserError: ``native``, and it cannot be.
    """
    device, alone = jax.local_devices()[0], jax.device_count() == 1
    if asked == "auto":
        if alone and device.platform == "cpu" and native_is_fast():
            return "native"
        return fastest_arithmetic(device.platform, device.device_kind, getattr(device, "compute_capability", ""))
    if asked == "native" and not (alone and device.platform == "cpu" and native_is_built()):
        raise UserError(
            "config.arithmetic='native' needs a single CPU device and the native library (xtc doctor says what is missing); "
            "use auto"
        )
    return "native" if asked == "native" else "int8" if asked == "int8" else "float"


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The leading axis split over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, _BATCH)


def local_rows(batch_size: int, mesh: jax.sharding.Mesh) -> np.ndarray:
    """The rows of a global batch that this process must supply, increasing."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices if index is not None]))


def put_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """The rows that this process has, see :func:`local_rows`, as its part of global arrays."""
    return jax.make_array_from_process_local_data(batch_sharding(mesh), batch)


def put(tree: Any, shardings: Any) -> Any:
    """A pytree of host values, the same in every process, as global arrays in fresh buffers (the train step donates its state).

    ``shardings`` is a sharding, or a tree of them. Nothing is sent: every process copies what its devices need.
    """
    shardings = jax.tree.map(lambda _: shardings, tree) if isinstance(shardings, NamedSharding) else shardings
    return jax.tree.map(_put_leaf, tree, shardings)


def put_replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """A pytree whole on every device, see :func:`put`."""
    return put(tree, replicated(mesh))


def fetch(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Sharded arrays as numpy arrays, whole, in every process: all must call it."""
    if jax.process_count() > 1:
        tree = jax.jit(lambda t: t, out_shardings=replicated(mesh))(tree)
    return jax.device_get(tree)


def _put_leaf(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put_leaf(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: np.array(host[index]))
