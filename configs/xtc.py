"""XTC as the paper has it: fewer layers, one-stage distillation with enough budget, 1 or 2 bits, best of a learning-rate grid.

The recipe itself ships with the package, see ``xtc_jax/configs/xtc.py``. Copy that file to make your own.
"""

from xtc_jax.configs.xtc import get_config

__all__ = ["get_config"]
