"""The sharded train step and what surrounds it."""

from xtc_jax.train.evaluate import evaluate, predict_logits
from xtc_jax.train.identity import data_digest
from xtc_jax.train.loop import Compiled, Run, RunResult, Upkeep, clear_checkpoints, train
from xtc_jax.train.metrics import Screen, progress
from xtc_jax.train.optimizer import OptimizerSpec, learning_rates, make_optimizer, schedule
from xtc_jax.train.state import TrainState, init_state
from xtc_jax.train.step import EvalStep, Objective, make_eval_step, make_train_step, objective_losses, student_params, trainable

__all__ = [
    "Compiled",
    "EvalStep",
    "Objective",
    "OptimizerSpec",
    "Run",
    "RunResult",
    "Screen",
    "TrainState",
    "Upkeep",
    "clear_checkpoints",
    "data_digest",
    "evaluate",
    "init_state",
    "learning_rates",
    "make_eval_step",
    "make_optimizer",
    "make_train_step",
    "objective_losses",
    "predict_logits",
    "progress",
    "schedule",
    "student_params",
    "train",
    "trainable",
]
