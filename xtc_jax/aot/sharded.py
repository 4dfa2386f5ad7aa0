"""The collectives that shardings imply, where no compiler has said which there are."""

from typing import Any

import jax
from jax.sharding import Mesh

from xtc_jax.aot.collectives import Collective
from xtc_jax.aot.step import shard_bytes


def paper_collectives(params: Any, teacher: Any, mesh: Mesh) -> tuple[Collective, ...]:
    """Of parameters and their gradients; those of activations along ``tensor`` are left out.

    A weight that is split along ``fsdp`` is gathered for the forward pass and again for the backward one, the teacher's once;
    its gradient is scattered. Then all gradients are reduced over the copies: ``data`` for those that are split, ``data`` and
    ``fsdp`` for the rest.

    Args:
      params: shapes of what trains, with shardings.
      teacher: shapes of the teacher's parameters, with shardings; None where there is no teacher.
      mesh: of these shardings.
    """
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    found: dict[tuple[str, int], tuple[int, int]] = {}

    def add(kind: str, group: int, size: int) -> None:
        if group > 1 and size:
            count, total = found.get((kind, group), (0, 0))
            found[kind, group] = count + 1, total + size

    for leaf in jax.tree.leaves(params):
        size, ways = shard_bytes(leaf), _ways(leaf, fsdp)
        if ways > 1:
            add("all-gather", fsdp, size * ways)
            add("all-gather", fsdp, size * ways)
            add("reduce-scatter", fsdp, size * ways)
        add("all-reduce", data if ways > 1 else data * fsdp, size)
    for leaf in jax.tree.leaves(teacher):
        if _ways(leaf, fsdp) > 1:
            add("all-gather", fsdp, shard_bytes(leaf) * fsdp)
    ordered = sorted(found.items(), key=lambda item: -item[1][1])
    return tuple(Collective(kind, group, count, size) for (kind, group), (count, size) in ordered)


def _ways(leaf: jax.ShapeDtypeStruct, fsdp: int) -> int:
    return fsdp if "fsdp" in tuple(leaf.sharding.spec) else 1
