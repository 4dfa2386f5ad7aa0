"""Which way to half of the layers and 1 bit, for the same steps?

    xtc compress --config=configs/study/choices.py --workdir=runs/choices

The same as ``--config=study/choices``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/study/choices.py``.
"""

from xtc_jax.configs.study.choices import get_config

__all__ = ["get_config"]
