"""What does augmented data give? The same 1-bit student with and without it, for the same number of steps.

The recipe itself ships with the package, see ``xtc_jax/configs/study/augmentation.py``. Copy that file to make your own.
"""

from xtc_jax.configs.study.augmentation import get_config

__all__ = ["get_config"]
