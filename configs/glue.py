"""GLUE with the paper's settings: fine-tune, reduce, distill at 1 or 2 bits, pack.

The recipe itself ships with the package, see ``xtc_jax/configs/glue.py``. Copy that file to make your own.
"""

from xtc_jax.configs.glue import get_config

__all__ = ["get_config"]
