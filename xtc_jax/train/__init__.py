"""The sharded train step and what surrounds it."""

from xtc_jax.train.evaluate import evaluate, predict_logits
from xtc_jax.train.loop import Compiled, Run, RunResult, clear_checkpoints, train
from xtc_jax.train.mesh import make_mesh, put_batch, put_replicated
from xtc_jax.train.metrics import progress
from xtc_jax.train.optimizer import OptimizerSpec, learning_rates, make_optimizer, schedule
from xtc_jax.train.state import TrainState, init_state
from xtc_jax.train.step import Objective, make_eval_step, make_train_step, objective_losses

__all__ = [
    "Compiled",
    "Objective",
    "OptimizerSpec",
    "Run",
    "RunResult",
    "TrainState",
    "clear_checkpoints",
    "evaluate",
    "init_state",
    "learning_rates",
    "make_eval_step",
    "make_mesh",
    "make_optimizer",
    "make_train_step",
    "objective_losses",
    "predict_logits",
    "progress",
    "put_batch",
    "put_replicated",
    "schedule",
    "train",
]
