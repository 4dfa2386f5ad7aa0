"""A pytree of parameters, and the paths of its leaves."""

from collections.abc import Mapping
from typing import Any

import jax

Params = Any
"""A pytree of parameters: nested dicts whose leaves are arrays (or nodes that stand for one)."""


def named_leaves(params: Params) -> dict[str, Any]:
    """``{"encoder/layer_0/…/weight": leaf}`` in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
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
