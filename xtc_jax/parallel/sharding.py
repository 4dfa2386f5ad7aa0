"""Which axis of which parameter lies along which axis of the mesh: ordered regular expressions on the parameter's path.

Weights are ``(out, in)``. Along ``tensor`` the first matrices of a pair are split by their outputs and the second by their
inputs (query, key, value, then the attention's output; intermediate, then output), so that a layer needs two sums over that
axis (Shoeybi et al. 2019, section 3). ``fsdp`` splits the other dimension; a layer's weights are gathered when they are used.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from xtc_jax.kernels import PackedTensor
from xtc_jax.parallel.mesh import put

Rule = tuple[str, PartitionSpec]
RULES: tuple[Rule, ...] = (
    (r"attention/self/(query|key|value)/weight", PartitionSpec("tensor", "fsdp")),
    (r"attention/self/(query|key|value)/bias", PartitionSpec("tensor")),
    (r"attention/output/dense/weight", PartitionSpec("fsdp", "tensor")),
    (r"intermediate/dense/weight", PartitionSpec("tensor", "fsdp")),
    (r"intermediate/dense/bias", PartitionSpec("tensor")),
    (r"layer_\d+/output/dense/weight", PartitionSpec("fsdp", "tensor")),
    (r"embeddings/\w+_embeddings/weight", PartitionSpec(None, "fsdp")),  # by columns: 30,522 rows divide by little
    (r"pooler/dense/weight", PartitionSpec(None, "fsdp")),
    ("", PartitionSpec()),  # all the rest, which is small, on every device
)
"""Of the latent params of a BERT, split weights (``weight/first``) included; the optimizer's moments have the same paths."""


def shardings(tree: Any, mesh: jax.sharding.Mesh, rules: Sequence[Rule] = RULES) -> Any:
    """The sharding of every leaf of ``tree``; the first rule that matches its path wins.

    A dimension that its axis of the mesh does not divide is not split.

    Args:
      tree: params, or anything that has them in it, such as a train state; arrays or their shapes.
      mesh: as of :func:`xtc_jax.parallel.mesh.make_mesh`.
      rules: the last must match everything.

    Raises:
      ValueError: a rule that matches no leaf, a leaf that no rule matches, or a rule for more dimensions than the leaf has.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    unused, found = {pattern for pattern, _ in rules}, []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        pattern, spec = next((rule for rule in rules if re.search(rule[0], name)), ("", None))
        if spec is None:
            raise ValueError(f"no sharding rule matches {name}")
        if len(spec) > len(leaf.shape):
            raise ValueError(f"sharding rule {pattern!r} has {len(spec)} dimensions, {name} has the shape {leaf.shape}")
        unused.discard(pattern)
        found.append(NamedSharding(mesh, _dividing(spec, leaf.shape, mesh)))
    if unused:
        raise ValueError(f"sharding rule {min(unused)!r} matches no parameter")
    return jax.tree_util.tree_unflatten(structure, found)


def gathered(params: Any, mesh: jax.sharding.Mesh, rules: Sequence[Rule] = RULES) -> Any:
    """Inside a step: params gathered along ``fsdp`` before they are used (ZeRO-3); their gradients are split again.

    The cotangent is constrained to the shard, so that the partitioner sums it by a reduce-scatter; without that it sums the
    whole gradient on every device first. A packed model, which every device holds whole, is left as it is.

    Without it the partitioner splits activations by columns, as the tables are, and gives every device the whole batch.
    """
    if mesh.shape["fsdp"] == 1 or _is_packed(params):
        return params
    split = shardings(params, mesh, rules)
    whole = jax.tree.map(lambda sharding: _without_fsdp(sharding, mesh), split)

    @jax.custom_vjp
    def gather(params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, whole)

    gather.defvjp(lambda params: (gather(params), None), lambda _, g: (jax.lax.with_sharding_constraint(g, split),))
    return gather(params)


def _without_fsdp(sharding: NamedSharding, mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*(None if axis == "fsdp" else axis for axis in sharding.spec)))


def _is_packed(params: Any) -> bool:
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, PackedTensor))
    return any(isinstance(leaf, PackedTensor) for leaf in leaves)


def _dividing(spec: PartitionSpec, shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> PartitionSpec:
    """``spec`` without the axes of size 1, and those that do not divide their dimension: equal placements are equal specs."""
    sizes = [(axis, size, mesh.shape[axis] if axis else 1) for axis, size in zip(spec, shape, strict=False)]
    kept = [axis if ways > 1 and size % ways == 0 else None for axis, size, ways in sizes]
    while kept and kept[-1] is None:
        kept.pop()
    return PartitionSpec(*kept)


def put_sharded(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """A pytree of host values on the mesh, placed by :data:`RULES`, in fresh buffers."""
    return put(tree, shardings(tree, mesh))
