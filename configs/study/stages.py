"""Does distillation need several stages? One, two and three, of the same number of epochs in all.

    xtc compress --config=configs/study/stages.py --workdir=runs/stages

The same as ``--config=study/stages``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/study/stages.py``.
"""

from xtc_jax.configs.study.stages import get_config

__all__ = ["get_config"]
