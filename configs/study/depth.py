"""How few layers? Students of 6, 5, 4 and 3 layers, reduced and then quantized to 1 bit.

The recipe itself ships with the package, see ``xtc_jax/configs/study/depth.py``. Copy that file to make your own.
"""

from xtc_jax.configs.study.depth import get_config

__all__ = ["get_config"]
