"""BinaryBERT, a baseline: train ternary, split every weight in two binary ones, train those.

    xtc compress --config=configs/binarybert.py --workdir=runs/binarybert

The same as ``--config=binarybert``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/binarybert.py``.
"""

from xtc_jax.configs.binarybert import get_config

__all__ = ["get_config"]
