"""What to change in a config whose step does not fit into the memory there is."""

from typing import Any

import jax

from xtc_jax.aot.account import Memory
from xtc_jax.aot.step import Step, shard_bytes, slice_mesh
from xtc_jax.aot.topology import Slice
from xtc_jax.parallel import shardings

_MOST = 1024
_HALF = 0.6
"""Of the temporaries, what is left in bfloat16: float32 scores, statistics and gradients stay."""


def what_would_fit(step: Step, slice_: Slice, memory: Memory) -> tuple[str, ...]:
    """Changes that would each do, as config keys, with the memory they are estimated to need; none if none does.

    What is not arguments is taken to be in proportion to the rows that a device computes at a time.

    Args:
      step: that does not fit.
      slice_: what it was compiled for.
      memory: what it needs.
    """
    stage, fixed = step.plan.stage, memory.arguments
    moving = max(memory.needed - fixed, 0)
    shares = step.mesh.shape["data"] * step.mesh.shape["fsdp"]
    rows = stage.batch_size // shares
    found: list[tuple[str, float]] = []
    part = _parts(rows, fixed, moving * stage.accumulate, memory.available)
    if part:
        needed = fixed + moving * stage.accumulate / part
        found.append((f"config.{stage.name}.accumulate={part}", needed))
        found.append((f"config.{stage.name}.batch_size={stage.batch_size * stage.accumulate // part}", needed))
    if step.objective.dtype == "float32":
        found.append(("config.compute_dtype=bfloat16", fixed + _HALF * moving))
    if shares > 1 and step.mesh.shape["fsdp"] == 1:
        split = (1, shares, step.mesh.shape["tensor"])
        less = _arguments(step, slice_, split)
        found.append((f"config.mesh=({', '.join(map(str, split))})", less + moving))
        part = _parts(rows, less, moving * stage.accumulate, memory.available)
        if part and part > stage.accumulate:
            both = f"config.mesh=({', '.join(map(str, split))}) with config.{stage.name}.accumulate={part}"
            found.append((both, less + moving * stage.accumulate / part))
    return tuple(f"{text}: about {needed / 2**30:.1f} GiB" for text, needed in found if needed <= memory.available)


def _parts(rows: int, fixed: float, moving: float, available: float) -> int:
    """The smallest number of parts of ``rows`` that fits; 0 if none does."""
    return next((n for n in range(1, min(rows, _MOST) + 1) if rows % n == 0 and fixed + moving / n <= available), 0)


def _arguments(step: Step, slice_: Slice, sizes: tuple[int, ...]) -> int:
    """Bytes of the arguments on one device of another mesh."""
    mesh = slice_mesh(slice_, sizes)

    def size(leaf: Any, sharding: Any) -> int:
        return shard_bytes(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding))

    trees = [tree for tree in (step.state, step.teacher) if tree is not None]
    total = sum(sum(jax.tree.leaves(jax.tree.map(size, tree, shardings(tree, mesh)))) for tree in trees)
    return total + sum(shard_bytes(leaf) for leaf in jax.tree.leaves(step.batch))
