"""Does longer training close the gap? A 1-bit student of full depth under the budgets a, b and c.

    xtc compress --config=configs/study/budget.py --workdir=runs/budget

The same as ``--config=study/budget``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/study/budget.py``.
"""

from xtc_jax.configs.study.budget import get_config

__all__ = ["get_config"]
