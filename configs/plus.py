"""Half of the layers and 1 bit in one stage, with what won over plain 1 bit in as many steps.

    xtc compress --config=configs/plus.py:mrpc --config.data.path=DIR --workdir=runs/mrpc

The same as ``--config=plus``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/plus.py``.
"""

from xtc_jax.configs.plus import get_config

__all__ = ["get_config"]
