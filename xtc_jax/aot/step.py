"""The training step of one stage of a recipe, traced from shapes alone: no weights, no data, no array of the model's size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from xtc_jax.aot.topology import Slice
from xtc_jax.bert import BertConfig, init
from xtc_jax.compress import reduce_layers, reduce_vocabulary
from xtc_jax.devices import Arithmetic, fastest_arithmetic
from xtc_jax.errors import UserError
from xtc_jax.parallel import AXES, batch_sharding, make_mesh, mesh_sizes, replicated, shardings
from xtc_jax.params import Params
from xtc_jax.pipeline.plan import StagePlan, shape_stages
from xtc_jax.quantize import split
from xtc_jax.recipe.recipe import Recipe
from xtc_jax.train import (
    Objective,
    OptimizerSpec,
    TrainState,
    freezing,
    init_state,
    make_optimizer,
    make_taught_step,
    student_params,
    trainable,
)

Shapes = Any
"""A pytree of ``jax.ShapeDtypeStruct``."""


@dataclass(frozen=True)
class Step:
    """A training step before it is compiled.

    Attributes:
      plan: the plan of the stage that the step trains.
      objective: what it trains, under the rules that end the stage.
      mesh: of the devices that are not there.
      length: tokens of a text.
      traced: the step as JAX traced it, not yet lowered.
      state, teacher, batch: global shapes with their shardings.
    """

    plan: StagePlan
    objective: Objective
    mesh: Mesh
    length: int
    traced: jax.stages.Traced
    state: TrainState
    teacher: Shapes
    batch: Shapes

    @property
    def batch_size(self) -> int:
        """Rows of the global batch."""
        return self.plan.stage.batch_size

    @property
    def rows(self) -> int:
        """Rows that a device computes at a time."""
        shares = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return self.batch_size // shares // self.objective.accumulate

    def argument_bytes(self) -> int:
        """Bytes of the step's arguments on one device."""
        return sum(shard_bytes(leaf) for leaf in jax.tree.leaves((self.state, self.teacher, self.batch)))


def slice_mesh(slice_: Slice, sizes: tuple[int, ...]) -> Mesh:
    """The mesh that ``config.mesh`` makes of a slice: of its devices, or, where there are none, of their number.

    Raises:
      UserError: it does not multiply to them; names ``config.mesh``.
    """
    try:
        if slice_.devices:
            return make_mesh(sizes, slice_.devices)
        # Everything that is done with it here is done with a mesh of devices as well; types know no common class.
        abstract: Any = AbstractMesh(mesh_sizes(sizes, slice_.count), AXES, axis_types=(AxisType.Auto,) * len(AXES))
        return abstract
    except UserError as error:
        raise UserError(f"config.{error}") from None


def trace_step(recipe: Recipe, shapes: Mapping[str, BertConfig], slice_: Slice, stage: str, length: int) -> Step:
    """The step that ``xtc compress`` runs in ``stage`` at the longest texts, on ``slice_``.

    Args:
      recipe: as ``xtc compress`` would run it.
      shapes: of its models, by the names the config gives them, heads included.
      slice_: the devices to compile for.
      stage: its name; "" is the last one.
      length: tokens of a text.

    Raises:
      UserError: no such stage, one that does not train, or stages, mesh and batch that do not go together.
    """
    mesh = slice_mesh(slice_, tuple(recipe.config["mesh"]))
    plans = shape_stages(recipe, shapes, mesh, Path())
    plan = _find(plans, stage)
    objective = replace(plan.objective, arithmetic=_arithmetic(recipe.config["arithmetic"], slice_))
    if objective.rules is not None:
        objective = replace(objective, rules=objective.rules.at(max(objective.rules.changes, default=0)))
    spec = OptimizerSpec(plan.stage.learning_rate, 0, 0, plan.stage.weight_decay, plan.stage.clip)
    optimizer = freezing(make_optimizer(spec), objective.freeze)

    def begin(key: jax.Array) -> TrainState:
        params = trainable(objective, _origin(plan, shapes, key), key)
        return init_state(params, optimizer, key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    state = _placed(jax.eval_shape(begin, key), mesh)
    teacher = None
    if plan.teacher:
        taught_by = plan.teacher
        teacher = _placed(jax.eval_shape(lambda key: _with_rows(_trained(taught_by, shapes, key), plan), key), mesh)
    batch = _batch(plan.stage.batch_size, length, plan.config, mesh)
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    jitted: Any = make_taught_step(objective, optimizer, mesh)  # its type says no more than that it is a function
    traced = jitted.trace(state, teacher, batch, rate)
    return Step(plan, objective, mesh, length, traced, state, teacher, batch)


def _find(plans: list[StagePlan], name: str) -> StagePlan:
    plan = next((plan for plan in plans if plan.stage.name == name), None) if name else plans[-1]
    if plan is None:
        raise UserError(f"--stage={name}: no such stage; use one of {', '.join(plan.stage.name for plan in plans)}")
    if not plan.stage.trains:
        raise UserError(f"config.{plan.stage.name} has 0 epochs: it takes the model as it is and has no step")
    return plan


def _arithmetic(asked: str, slice_: Slice) -> Arithmetic:
    if asked in ("int8", "float"):
        return "int8" if asked == "int8" else "float"
    platform = "gpu" if slice_.platform == "cuda" else slice_.platform
    return fastest_arithmetic(platform, slice_.kind, slice_.capability)


def _origin(plan: StagePlan, shapes: Mapping[str, BertConfig], key: jax.Array) -> Params:
    """What a stage starts from, by the functions that the pipeline calls."""
    before = plan.start
    if before is None:
        return reduce_layers(_with_rows(init(shapes[plan.model], key), plan), plan.layers)
    params = _with_rows(_trained(before, shapes, key), plan)
    if plan.stage.split:
        assert before.stage.rules is not None
        params = split(params, before.stage.rules)
    return reduce_layers(params, plan.layers)


def _with_rows(params: Params, plan: StagePlan) -> Params:
    """As many rows of word pieces as the stage has; which ones, its data says."""
    return reduce_vocabulary(params, np.arange(plan.config.vocab_size)) if plan.reduced else params


def _trained(plan: StagePlan, shapes: Mapping[str, BertConfig], key: jax.Array) -> Params:
    """What a stage leaves behind."""
    origin = _origin(plan, shapes, key)
    return student_params(trainable(plan.objective, origin, key))


def _placed(tree: Any, mesh: Mesh) -> Any:
    """With the shardings that the loop gives it."""
    return jax.tree.map(_with_sharding, tree, shardings(tree, mesh))


def _with_sharding(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _batch(rows: int, length: int, config: BertConfig, mesh: Mesh) -> Shapes:
    """Global shapes of a training batch, as :func:`xtc_jax.data.batches.collate` makes them."""

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=batch_sharding(mesh))

    return {
        "input_ids": array(jnp.int32, length),
        "token_type_ids": array(jnp.int32, length),
        "attention_mask": array(jnp.int32, length),
        "labels": array(jnp.float32 if config.regression else jnp.int32),
        "valid": array(jnp.bool_),
        "index": array(jnp.int32),
    }


def shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of one device's part of an array."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return data.size * data.dtype.itemsize
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
