"""TernaryBERT, a baseline: ternary weights, 8-bit activations, one-stage distillation at full depth.

    xtc compress --config=configs/ternarybert.py --workdir=runs/ternarybert

The same as ``--config=ternarybert``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/ternarybert.py``.
"""

from xtc_jax.configs.ternarybert import get_config

__all__ = ["get_config"]
