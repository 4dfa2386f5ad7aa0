"""TernaryBERT, a baseline: ternary weights, 8-bit activations, one-stage distillation at full depth.

The recipe itself ships with the package, see ``xtc_jax/configs/ternarybert.py``. Copy that file to make your own.
"""

from xtc_jax.configs.ternarybert import get_config

__all__ = ["get_config"]
