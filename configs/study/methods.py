"""Which way to few bits? One-stage 2-bit, one-stage 1-bit, ternary splitting to 1 bit, and 1 bit from labels alone: same

The recipe itself ships with the package, see ``xtc_jax/configs/study/methods.py``. Copy that file to make your own.
"""

from xtc_jax.configs.study.methods import get_config

__all__ = ["get_config"]
