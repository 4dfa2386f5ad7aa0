"""The sharded train step and what surrounds it."""

from xtc_jax.train.evaluate import Evaluation, Logits, evaluate, predict_logits
from xtc_jax.train.frozen import freezing
from xtc_jax.train.identity import data_digest
from xtc_jax.train.loop import clear_checkpoints, train
from xtc_jax.train.metrics import Screen, progress
from xtc_jax.train.objective import Objective
from xtc_jax.train.optimizer import OptimizerSpec, learning_rates, make_optimizer, schedule
from xtc_jax.train.run import Compiled, Run, RunResult, Upkeep
from xtc_jax.train.state import TrainState, init_state
from xtc_jax.train.step import (
    EvalStep,
    make_eval_step,
    make_taught_step,
    make_train_step,
    objective_losses,
    student_params,
    trainable,
)
from xtc_jax.train.teacher import Target, make_teacher_step, teaching
from xtc_jax.train.teacher_cache import Targets, TeacherCache
from xtc_jax.train.teacher_cache import remove as remove_teacher_cache
from xtc_jax.train.timing import StepTimes, fit_steps, time_steps

__all__ = [
    "Compiled",
    "EvalStep",
    "Evaluation",
    "Logits",
    "Objective",
    "OptimizerSpec",
    "Run",
    "RunResult",
    "Screen",
    "StepTimes",
    "Target",
    "Targets",
    "TeacherCache",
    "TrainState",
    "Upkeep",
    "clear_checkpoints",
    "data_digest",
    "evaluate",
    "fit_steps",
    "freezing",
    "init_state",
    "learning_rates",
    "make_eval_step",
    "make_optimizer",
    "make_taught_step",
    "make_teacher_step",
    "make_train_step",
    "objective_losses",
    "predict_logits",
    "progress",
    "remove_teacher_cache",
    "schedule",
    "student_params",
    "teaching",
    "time_steps",
    "train",
    "trainable",
]
