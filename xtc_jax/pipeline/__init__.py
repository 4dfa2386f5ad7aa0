"""A recipe run as resumable stages."""

from xtc_jax.pipeline.inputs import Checkpoint, Inputs, load_inputs
from xtc_jax.pipeline.plan import PACKED, StagePlan, make_plans, shape_stages
from xtc_jax.pipeline.run import run

__all__ = [
    "PACKED",
    "Checkpoint",
    "Inputs",
    "StagePlan",
    "load_inputs",
    "make_plans",
    "run",
    "shape_stages",
]
