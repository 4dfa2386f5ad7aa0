"""Does longer training close the gap? A 1-bit student of full depth under the budgets a, b and c.

The recipe itself ships with the package, see ``xtc_jax/configs/study/budget.py``. Copy that file to make your own.
"""

from xtc_jax.configs.study.budget import get_config

__all__ = ["get_config"]
