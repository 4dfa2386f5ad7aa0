"""What XTC claims, on one task and from one teacher: budgets, stages, depth, bits, sizes.

    xtc compress --config=configs/study/claims.py --workdir=runs/claims/cola-42

The same as ``--config=study/claims``, which ships with the package. To make your own recipe, copy
``xtc_jax/configs/study/claims.py``.
"""

from xtc_jax.configs.study.claims import get_config

__all__ = ["get_config"]
