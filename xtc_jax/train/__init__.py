"""The sharded train step and what surrounds it."""

from xtc_jax.train.distributed import (
    LOST,
    Cluster,
    agree,
    find_cluster,
    is_first,
    join,
    leave,
    lost_process,
    on_first,
)
from xtc_jax.train.evaluate import evaluate, predict_logits
from xtc_jax.train.loop import Compiled, Run, RunResult, Upkeep, clear_checkpoints, train
from xtc_jax.train.mesh import (
    AXES,
    check_batch,
    choose_arithmetic,
    make_mesh,
    mesh_sizes,
    put_batch,
    put_replicated,
    replicated,
    split,
)
from xtc_jax.train.metrics import progress
from xtc_jax.train.optimizer import OptimizerSpec, learning_rates, make_optimizer, schedule
from xtc_jax.train.preemption import stop_on_sigterm
from xtc_jax.train.sharding import put_sharded, shardings
from xtc_jax.train.state import TrainState, init_state
from xtc_jax.train.step import (
    EvalStep,
    Objective,
    make_eval_step,
    make_train_step,
    objective_losses,
    student_params,
    trainable,
)

__all__ = [
    "AXES",
    "LOST",
    "Cluster",
    "Compiled",
    "EvalStep",
    "Objective",
    "OptimizerSpec",
    "Run",
    "RunResult",
    "TrainState",
    "Upkeep",
    "agree",
    "check_batch",
    "choose_arithmetic",
    "clear_checkpoints",
    "evaluate",
    "find_cluster",
    "init_state",
    "is_first",
    "join",
    "learning_rates",
    "leave",
    "lost_process",
    "make_eval_step",
    "make_mesh",
    "make_optimizer",
    "make_train_step",
    "mesh_sizes",
    "objective_losses",
    "on_first",
    "predict_logits",
    "progress",
    "put_batch",
    "put_replicated",
    "put_sharded",
    "replicated",
    "schedule",
    "shardings",
    "split",
    "stop_on_sigterm",
    "student_params",
    "train",
    "trainable",
]
