"""Parameters that stay as they are: the embeddings and the lower layers of a BERT whose upper ones train.

No gradient flows to them, so the backward pass ends above them, and the optimizer has no moments for them. Fine-tuning changes
the top layers of a BERT most (Merchant et al. 2020, arXiv 2004.14448); that of the last quarter alone gives 90 % of the quality
(Lee, Tang and Lin 2019, arXiv 1911.03090).
"""

import re

import jax
import optax

from xtc_jax.params import Params

_LAYER = re.compile(r"^encoder/layer_(\d+)/")


def trained(params: Params, freeze: int) -> Params:
    """True for every parameter that trains.

    Args:
      params: of a BERT, nested, with what trains beside it.
      freeze: layers that do not, counted from the input, nor do the embeddings then; 0: the embeddings alone; -1: all train.
    """

    def trains(path: tuple[jax.tree_util.DictKey, ...], _: jax.Array) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        layer = _LAYER.match(name)
        return freeze < 0 or not (name.startswith("embeddings/") or (layer is not None and int(layer[1]) < freeze))

    return jax.tree_util.tree_map_with_path(trains, params)


def held(params: Params, freeze: int) -> Params:
    """``params``, to be differentiated: those that do not train are constants."""
    if freeze < 0:
        return params
    return jax.tree.map(lambda p, trains: p if trains else jax.lax.stop_gradient(p), params, trained(params, freeze))


def freezing(optimizer: optax.GradientTransformationExtraArgs, freeze: int) -> optax.GradientTransformationExtraArgs:
    """``optimizer`` for the parameters that train alone; the gradients of the others, which are 0, are their updates."""
    if freeze < 0:
        return optimizer
    masked = optax.masked(optimizer, lambda params: trained(params, freeze))
    return optax.with_extra_args_support(masked)
