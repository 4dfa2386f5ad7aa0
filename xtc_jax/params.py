"""A pytree of parameters, the paths of its leaves, and the bytes of each.

JAX is imported where a tree is flattened: what only reads the account of a file starts without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Params = Any
"""A pytree of parameters: nested dicts whose leaves are arrays (or nodes that stand for one)."""


def named_leaves(params: Params, whole: type | None = None) -> dict[str, Any]:
    """``{"encoder/layer_0/…/weight": leaf}`` in tree order; a node of the type ``whole`` is one leaf."""
    import jax

    leaves, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda node: whole is not None and isinstance(node, whole))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nest(flat: Mapping[str, Any]) -> Params:
    """``{"a/b": x}`` to ``{"a": {"b": x}}``: the inverse of :func:`named_leaves` for dicts."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


@dataclass(frozen=True)
class SizeEntry:
    """One line of the size account.

    Attributes:
      name: path of the parameter.
      shape: its logical shape.
      bits: bits per weight as stored, scales apart.
      code_bytes: bytes of the codes, or of the floats.
      scale_bytes: bytes of the scales and zero points.
    """

    name: str
    shape: tuple[int, ...]
    bits: int | float
    code_bytes: int
    scale_bytes: int

    @property
    def total(self) -> int:
        """All bytes of this parameter."""
        return self.code_bytes + self.scale_bytes
