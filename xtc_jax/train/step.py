"""One training step and one evaluation step, both jitted over the mesh."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from xtc_jax.bert import BertConfig, BertOutput, apply
from xtc_jax.compress import DistillSpec, LayerMap, Term, distillation_terms, label_loss, new_projection
from xtc_jax.devices import Arithmetic
from xtc_jax.parallel import batch_sharding, gathered, replicated, shardings
from xtc_jax.params import Params
from xtc_jax.quantize import INPUT_RANGE, QuantRules, fake_quantize, with_input_ranges
from xtc_jax.train.state import TrainState

DeviceBatch = dict[str, Array]
TrainStep = Callable[[TrainState, Params | None, DeviceBatch, Any], tuple[TrainState, dict[str, Array]]]
Numbers = dict[str, tuple[Array, ...]]
EvalStep = Callable[[Params, DeviceBatch], Array]
PROJECTION = "projection"
"""Name under which a learned projection trains beside the student's own params."""


@dataclass(frozen=True)
class Objective:
    """What a stage trains: which model, at which bits, against what.

    Attributes:
      student: shape of the model that trains.
      rules: its quantization; None trains in full precision.
      teacher: shape of the teacher; None trains on the labels alone.
      layers: the student's layer map.
      spec: weights and normalisations of the losses.
      teacher_rules: quantization of the teacher, one of a chain of students; None is full precision.
      dtype: in which both models compute. Latent params, scales, softmax, LayerNorm's statistics, losses and the optimizer are
        float32 whatever it is.
      arithmetic: in what quantized Linears multiply integers, forward; the result is the same up to float rounding.
      accumulate: parts in which a batch is computed, one after another, to save memory. The step is the same up to the order of
        float sums, but for dropout, which draws other random numbers, and ranges of activations over a whole batch.
    """

    student: BertConfig
    rules: QuantRules | None
    teacher: BertConfig | None
    layers: LayerMap
    spec: DistillSpec
    teacher_rules: QuantRules | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    arithmetic: Arithmetic = "float"
    accumulate: int = 1

    @property
    def projects(self) -> bool:
        """Whether hidden states are compared through a learned projection: teacher and student differ in width."""
        return self.teacher is not None and self.spec.hidden > 0 and self.teacher.hidden_size != self.student.hidden_size


def trainable(objective: Objective, params: Params, key: Array) -> Params:
    """The student's params with what else trains: running input ranges, and a projection where the widths differ."""
    ready = with_input_ranges(params, objective.rules)
    if not objective.projects:
        return ready
    assert objective.teacher is not None
    projection = new_projection(key, objective.student.hidden_size, objective.teacher.hidden_size)
    return {**ready, PROJECTION: projection}


def student_params(params: Params) -> Params:
    """``params`` without the projection: the model itself."""
    return {name: child for name, child in params.items() if name != PROJECTION}


def forward(config: BertConfig, params: Params, batch: DeviceBatch, **options: Any) -> BertOutput:
    """:func:`xtc_jax.bert.apply` on a batch."""
    return apply(config, params, batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], **options)


def compute_params(params: Params, rules: QuantRules | None, **options: Any) -> Params:
    """The params a model computes with: latent ones, or their :func:`fake_quantize`."""
    return params if rules is None else fake_quantize(params, rules, **options)


def objective_terms(
    objective: Objective,
    params: Params,
    teacher: Params | None,
    batch: DeviceBatch,
    dropout_key: Array | None,
    noise_key: Array | None,
) -> dict[str, Term]:
    """Every term of the loss; the sum of their values is what is minimised.

    The teacher runs deterministically and without a gradient. The keys are for the student's dropout and stochastic rounding;
    None runs it without.
    """
    spec, regression = objective.spec, objective.student.regression
    arithmetic = objective.arithmetic
    quantized = compute_params(student_params(params), objective.rules, training=True, key=noise_key, arithmetic=arithmetic)
    taught = objective.teacher is not None
    options = {"intermediates": taught, "dtype": jnp.dtype(objective.dtype)}
    student = forward(objective.student, quantized, batch, dropout_key=dropout_key, **options)
    terms: dict[str, Term] = {}
    if spec.label or not taught:
        label = label_loss(student.logits, batch["labels"], batch["valid"], regression)
        terms["label"] = Term(spec.label if taught else 1.0, (label,))
    if objective.teacher is not None:
        known = compute_params(teacher, objective.teacher_rules, arithmetic=arithmetic)
        target = jax.lax.stop_gradient(forward(objective.teacher, known, batch, **options))
        mask, valid = batch["attention_mask"], batch["valid"]
        terms |= distillation_terms(student, target, mask, valid, objective.layers, spec, regression, params.get(PROJECTION))
    return terms


def objective_losses(
    objective: Objective, params: Params, teacher: Params | None, batch: DeviceBatch, key: Array | None
) -> dict[str, Array]:
    """The values of :func:`objective_terms`; ``key`` is for dropout and rounding, None for neither."""
    keys = (None, None) if key is None else jax.random.split(key)
    return {name: term.value() for name, term in objective_terms(objective, params, teacher, batch, *keys).items()}


def losses_and_gradients(
    objective: Objective, params: Params, teacher: Params | None, batch: DeviceBatch, key: Array, mesh: jax.sharding.Mesh
) -> tuple[dict[str, Array], Params]:
    """:func:`objective_losses` of a batch and the gradient of their sum, in ``objective.accumulate`` parts.

    A loss is a quotient, total by number, of the whole batch. Its number depends on the masks alone, so it is summed over the
    parts first; then the quotients of the parts, each by the number of all, simply add up, and so do their gradients.
    """
    dropout_key, noise_key = jax.random.split(key)
    known = None if teacher is None else gathered(teacher, mesh)

    def value(params: Params, part: DeviceBatch, key: Array, numbers: Numbers | None) -> tuple[Array, dict[str, Array]]:
        terms = objective_terms(objective, gathered(params, mesh), known, part, key, noise_key)
        if numbers is not None:
            terms = {name: _with_numbers(term, numbers[name]) for name, term in terms.items()}
        losses = {name: term.value() for name, term in terms.items()}
        return jnp.sum(jnp.stack(list(losses.values()))), losses

    gradient = jax.grad(value, has_aux=True)
    if objective.accumulate == 1:
        gradients, losses = gradient(params, batch, dropout_key, None)
        return losses, gradients

    def part_numbers(part: DeviceBatch) -> Numbers:
        terms = objective_terms(objective, params, teacher, part, None, None)
        return {name: tuple(mean.number for mean in term.means) for name, term in terms.items()}

    def add(sums: Any, at: tuple[DeviceBatch, Array]) -> tuple[Any, None]:
        part, index = at
        gradients, losses = gradient(params, part, jax.random.fold_in(dropout_key, index), numbers)
        return jax.tree.map(jnp.add, sums, (losses, gradients)), None

    parts = _parts(batch, objective.accumulate, mesh)
    numbers = jax.tree.map(lambda each: jnp.sum(each, axis=0), jax.lax.map(part_numbers, parts))
    zeros = {name: jnp.zeros([]) for name in numbers}, jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, (parts, jnp.arange(objective.accumulate)))[0]


def _with_numbers(term: Term, numbers: tuple[Array, ...]) -> Term:
    return Term(term.weight, tuple(mean._replace(number=number) for mean, number in zip(term.means, numbers, strict=True)))


def _parts(batch: DeviceBatch, count: int, mesh: jax.sharding.Mesh) -> DeviceBatch:
    """``(rows, …)`` as ``(count, rows / count, …)``. Part i is every ``count``-th row from i on: no row leaves its device."""
    each = NamedSharding(mesh, PartitionSpec(None, *batch_sharding(mesh).spec))
    stacked = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)
    return jax.lax.with_sharding_constraint(stacked, each)


def make_train_step(
    objective: Objective, optimizer: optax.GradientTransformationExtraArgs, mesh: jax.sharding.Mesh
) -> TrainStep:
    """``step(state, teacher_params, batch, learning_rate) -> (state, losses)``, jitted; the state is donated.

    State and teacher stay where :func:`xtc_jax.parallel.put_sharded` puts them, so every shape compiles once. Losses are
    means over the whole global batch, so the result does not depend on the mesh (up to the order of float sums).
    """

    def step(state: TrainState, teacher: Params | None, batch: DeviceBatch, rate: Array) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        losses, gradients = losses_and_gradients(objective, state.params, teacher, batch, key, mesh)
        losses = {"loss": jnp.sum(jnp.stack(list(losses.values()))), **losses}
        steered = jax.tree_util.tree_map_with_path(lambda path, g: jnp.zeros_like(g) if _is_range(path) else g, gradients)
        updates, opt_state = optimizer.update(steered, state.opt_state, state.params, rate=rate)
        params = optax.apply_updates(state.params, updates)
        # The "gradient" of a running range is its new value, see quantize_activations; (0, 0) where the step did not use it.
        params = jax.tree_util.tree_map_with_path(
            lambda path, new, old, g: jnp.where(jnp.any(g != 0), g, old) if _is_range(path) else new,
            params,
            state.params,
            gradients,
        )
        after = TrainState(state.step + 1, params, opt_state, state.key)
        return jax.lax.with_sharding_constraint(after, shardings(after, mesh)), losses

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(None, None, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(None, replicated(mesh)),
    )


def _is_range(path: tuple[Any, ...]) -> bool:
    return path[-1].key == INPUT_RANGE


def make_eval_step(
    config: BertConfig, rules: QuantRules | None, mesh: jax.sharding.Mesh, arithmetic: Arithmetic = "float"
) -> EvalStep:
    """``step(params, batch) -> logits``, jitted; gathers and quantizes first, as training does, and computes in float32.

    The integers of quantized Linears are multiplied in ``arithmetic``. Scales are those of whole weights along ``fsdp``: summed
    shard by shard they would differ from the packed model's.
    """

    def step(params: Params, batch: DeviceBatch) -> Array:
        quantized = compute_params(gathered(student_params(params), mesh), rules, arithmetic=arithmetic)
        return forward(config, quantized, batch).logits

    return jax.jit(step, in_shardings=(None, batch_sharding(mesh)), out_shardings=replicated(mesh))
