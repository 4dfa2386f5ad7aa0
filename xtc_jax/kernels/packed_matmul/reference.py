"""The meaning of the op, in plain XLA: runs everywhere, and is the oracle of every other backend."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int8, Int32

from xtc_jax.kernels.layout import PackedTensor


def integer_matmul(x: Int8[Array, "*batch k"], weights: PackedTensor) -> Int32[Array, "*batch n"]:
    """``sum_k x[..., k] * w[n, k]`` in int32: exact, for ``|x| <= 128`` and K below 2^24."""
    contract = (((x.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, weights.values(), contract, preferred_element_type=jnp.int32)
