"""Processes, device meshes and shardings, for training and for everything else that runs on several devices."""

from xtc_jax.parallel.mesh import (
    AXES,
    batch_sharding,
    check_batch,
    choose_arithmetic,
    fetch,
    local_rows,
    make_mesh,
    mesh_sizes,
    put,
    put_batch,
    put_replicated,
    replicated,
)
from xtc_jax.parallel.preemption import preemption_notice, stop_on_sigterm
from xtc_jax.parallel.processes import LOST, Cluster, agree, find_cluster, is_first, join, leave, lost_process, on_first
from xtc_jax.parallel.sharding import gathered, put_sharded, shardings

__all__ = [
    "AXES",
    "LOST",
    "Cluster",
    "agree",
    "batch_sharding",
    "check_batch",
    "choose_arithmetic",
    "fetch",
    "find_cluster",
    "gathered",
    "is_first",
    "join",
    "leave",
    "local_rows",
    "lost_process",
    "make_mesh",
    "mesh_sizes",
    "on_first",
    "preemption_notice",
    "put",
    "put_batch",
    "put_replicated",
    "put_sharded",
    "replicated",
    "shardings",
    "stop_on_sigterm",
]
