"""XTC in JAX: makes a BERT fifty times smaller, with truly packed 1- and 2-bit weights.

To run a packed model::

  import xtc_jax

  model = xtc_jax.load("runs/quickstart/packed")
  model("a dull mess").label                # 'negative'
  model(["a dull mess", "a joy"])           # a list of predictions
  model(("a first text", "a second text"))  # a pair, where the model's task has pairs

To compress params by hand, every step a pure function on a pytree::

  rules = xtc_jax.named_rules("deepspeed", weight_bits=1)
  student = xtc_jax.fake_quantize(params, rules)  # trains with straight-through gradients
  packed = xtc_jax.pack(params, rules)            # the same numbers, as bits and scales

The names below are imported when they are first used (PEP 562), so that ``import xtc_jax`` takes milliseconds:

>>> import xtc_jax
>>> sorted(xtc_jax.__all__)
['Classifier', 'compress', 'fake_quantize', 'load', 'named_rules', 'pack', 'packed_matmul']
>>> xtc_jax.named_rules("deepspeed", weight_bits=1).rules[0][1].bits
1
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtc_jax import compress
    from xtc_jax.compress import pack
    from xtc_jax.inference import Classifier, load
    from xtc_jax.kernels import packed_matmul
    from xtc_jax.quantize import fake_quantize, named_rules

__version__ = "0.2.0"
__all__ = ["Classifier", "compress", "fake_quantize", "load", "named_rules", "pack", "packed_matmul"]
_MODULES = {
    "inference": ("Classifier", "load"),
    "compress": ("pack",),
    "quantize": ("fake_quantize", "named_rules"),
    "kernels": ("packed_matmul",),
}


def __getattr__(name: str) -> Any:
    if name == "compress":
        return importlib.import_module("xtc_jax.compress")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"xtc_jax.{module}"), name)
    raise AttributeError(f"module 'xtc_jax' has no attribute {name!r}")
