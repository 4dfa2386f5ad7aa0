"""BinaryBERT, a baseline: train ternary, split every weight in two binary ones, train those.

The recipe itself ships with the package, see ``xtc_jax/configs/binarybert.py``. Copy that file to make your own.
"""

from xtc_jax.configs.binarybert import get_config

__all__ = ["get_config"]
