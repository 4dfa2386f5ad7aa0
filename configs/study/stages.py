"""Does distillation need several stages? One, two and three, of the same number of epochs in all.

The recipe itself ships with the package, see ``xtc_jax/configs/study/stages.py``. Copy that file to make your own.
"""

from xtc_jax.configs.study.stages import get_config

__all__ = ["get_config"]
