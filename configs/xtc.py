"""XTC as the paper has it: fewer layers, one-stage distillation with enough budget, 1 or 2 bits, best of a learning-rate grid.

    xtc compress --config=configs/xtc.py --workdir=runs/xtc

The same as ``--config=xtc``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/xtc.py``.
"""

from xtc_jax.configs.xtc import get_config

__all__ = ["get_config"]
