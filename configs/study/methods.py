"""Which way to few bits? One-stage 2-bit, one-stage 1-bit, ternary splitting to 1 bit, and 1 bit from labels alone: same

    xtc compress --config=configs/study/methods.py --workdir=runs/methods

The same as ``--config=study/methods``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/study/methods.py``.
"""

from xtc_jax.configs.study.methods import get_config

__all__ = ["get_config"]
