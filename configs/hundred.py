"""A hundred times smaller: two layers of six, half or fewer of the word pieces, and 1 bit together.

    xtc compress --config=configs/hundred.py --workdir=runs/hundred

The same as ``--config=hundred``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/hundred.py``.
"""

from xtc_jax.configs.hundred import get_config

__all__ = ["get_config"]
