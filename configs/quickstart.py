"""Quick start: all-MiniLM-L6-v2 on movie reviews, 6 layers to 3, 32 bits to 1, in minutes on two cores.

The recipe itself ships with the package, see ``xtc_jax/configs/quickstart.py``. Copy that file to make your own.
"""

from xtc_jax.configs.quickstart import get_config

__all__ = ["get_config"]
