"""Quick start: all-MiniLM-L6-v2 on movie reviews, 6 layers to 3, 32 bits to 1, in minutes on two cores.

    xtc compress --config=configs/quickstart.py --workdir=runs/quickstart

The same as ``--config=quickstart``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/quickstart.py``.
"""

from xtc_jax.configs.quickstart import get_config

__all__ = ["get_config"]
