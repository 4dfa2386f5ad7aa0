"""How few layers? Students of 6, 5, 4 and 3 layers, reduced and then quantized to 1 bit.

    xtc compress --config=configs/study/depth.py --workdir=runs/depth

The same as ``--config=study/depth``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/study/depth.py``.
"""

from xtc_jax.configs.study.depth import get_config

__all__ = ["get_config"]
