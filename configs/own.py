"""Your own data, in the time you have: half the layers and 1 bit by default, and as many steps as fit into the minutes.

    xtc compress --config=configs/own.py:minutes=30 --config.data.path=reviews.csv --workdir=runs/reviews

The same as ``--config=own``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/own.py``.
"""

from xtc_jax.configs.own import get_config

__all__ = ["get_config"]
