"""GLUE with the paper's settings: fine-tune, reduce, distill at 1 or 2 bits, pack.

    xtc compress --config=configs/glue.py --workdir=runs/glue

The same as ``--config=glue``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/glue.py``.
"""

from xtc_jax.configs.glue import get_config

__all__ = ["get_config"]
