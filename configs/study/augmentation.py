"""What does augmented data give? The same 1-bit student with and without it, for the same number of steps.

    xtc compress --config=configs/study/augmentation.py --workdir=runs/augmentation

The same as ``--config=study/augmentation``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/study/augmentation.py``.
"""

from xtc_jax.configs.study.augmentation import get_config

__all__ = ["get_config"]
