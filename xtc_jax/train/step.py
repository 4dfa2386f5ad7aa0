"""One training step and one evaluation step, both jitted over the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from xtc_jax.bert import BertConfig
from xtc_jax.compress import Term, distillation_terms, label_loss, new_projection
from xtc_jax.devices import Arithmetic
from xtc_jax.parallel import batch_sharding, gathered, replicated, shardings
from xtc_jax.params import Params
from xtc_jax.quantize import INPUT_RANGE, QuantRules, with_input_ranges
from xtc_jax.train.frozen import held
from xtc_jax.train.lazy import cut, on_rows, paste, rows_of
from xtc_jax.train.objective import DeviceBatch, Objective, compute_params, forward
from xtc_jax.train.parts import in_parts
from xtc_jax.train.state import TrainState
from xtc_jax.train.teacher import Target, make_teacher_step, teacher_outputs, teaching

TrainStep = Callable[[TrainState, Target | None, DeviceBatch, Any], tuple[TrainState, dict[str, Array]]]
Numbers = dict[str, tuple[Array, ...]]
EvalStep = Callable[[Params, DeviceBatch], Array]
PROJECTION = "projection"
"""Name under which a learned projection trains beside the student's own params."""


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


def objective_terms(
    objective: Objective,
    params: Params,
    target: Target | None,
    batch: DeviceBatch,
    dropout_key: Array | None,
    noise_key: Array | None,
) -> dict[str, Term]:
    """Every term of the loss; the sum of their values is what is minimised.

    ``target`` is what the teacher says of the batch. The keys are for the student's dropout and stochastic rounding; None runs
    it without.
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
    if taught:
        assert target is not None
        mask, valid = batch["attention_mask"], batch["valid"]
        terms |= distillation_terms(student, target, mask, valid, objective.layers, spec, regression, params.get(PROJECTION))
    return terms


def objective_losses(
    objective: Objective, params: Params, teacher: Params | None, batch: DeviceBatch, key: Array | None
) -> dict[str, Array]:
    """The values of :func:`objective_terms`, the teacher included; ``key`` is for dropout and rounding, None for neither."""
    keys = (None, None) if key is None else jax.random.split(key)
    taught = objective.teacher is not None and teacher is not None
    target = teacher_outputs(teaching(objective), teacher, batch) if taught else None
    return {name: term.value() for name, term in objective_terms(objective, params, target, batch, *keys).items()}


def losses_and_gradients(
    objective: Objective, params: Params, target: Target | None, batch: DeviceBatch, key: Array, mesh: jax.sharding.Mesh
) -> tuple[dict[str, Array], Params]:
    """:func:`objective_losses` of a batch and the gradient of their sum, in ``objective.accumulate`` parts.

    A loss is a quotient, total by number, of the whole batch. Its number depends on the masks alone, so it is summed over the
    parts first; then the quotients of the parts, each by the number of all, simply add up, and so do their gradients.
    """
    dropout_key, noise_key = jax.random.split(key)

    def value(
        params: Params, part: tuple[DeviceBatch, Target | None], key: Array, numbers: Numbers | None
    ) -> tuple[Array, dict[str, Array]]:
        batch, target = part
        params = held(gathered(params, mesh), objective.freeze)
        terms = objective_terms(objective, params, target, batch, key, noise_key)
        if numbers is not None:
            terms = {name: _with_numbers(term, numbers[name]) for name, term in terms.items()}
        losses = {name: term.value() for name, term in terms.items()}
        return jnp.sum(jnp.stack(list(losses.values()))), losses

    gradient = jax.grad(value, has_aux=True)
    if objective.accumulate == 1:
        gradients, losses = gradient(params, (batch, target), dropout_key, None)
        return losses, gradients

    def part_numbers(part: tuple[DeviceBatch, Target | None]) -> Numbers:
        terms = objective_terms(objective, params, part[1], part[0], None, None)
        return {name: tuple(mean.number for mean in term.means) for name, term in terms.items()}

    def add(sums: Any, at: tuple[tuple[DeviceBatch, Target | None], Array]) -> tuple[Any, None]:
        part, index = at
        gradients, losses = gradient(params, part, jax.random.fold_in(dropout_key, index), numbers)
        return jax.tree.map(jnp.add, sums, (losses, gradients)), None

    parts = in_parts((batch, target), objective.accumulate, mesh)
    numbers = jax.tree.map(lambda each: jnp.sum(each, axis=0), jax.lax.map(part_numbers, parts))
    zeros = {name: jnp.zeros([]) for name in numbers}, jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, (parts, jnp.arange(objective.accumulate)))[0]


def _with_numbers(term: Term, numbers: tuple[Array, ...]) -> Term:
    return Term(term.weight, tuple(mean._replace(number=number) for mean, number in zip(term.means, numbers, strict=True)))


def make_train_step(
    objective: Objective, optimizer: optax.GradientTransformationExtraArgs, mesh: jax.sharding.Mesh
) -> TrainStep:
    """``step(state, target, batch, learning_rate) -> (state, losses)``, jitted; the state is donated.

    ``target`` is what :func:`xtc_jax.train.teacher.make_teacher_step` gives for the batch, None without a teacher. The state
    stays where :func:`xtc_jax.parallel.put_sharded` puts it, so every shape compiles once. Losses are means over the whole
    global batch, so the result does not depend on the mesh (up to the order of float sums).
    """

    def step(state: TrainState, target: Target | None, batch: DeviceBatch, rate: Array) -> tuple[TrainState, dict[str, Array]]:
        if not objective.lazy_embeddings:
            after, losses = dense(objective, state, target, batch, rate)
        else:
            rows, batch = rows_of(batch, objective.student.vocab_size)
            small, losses = dense(on_rows(objective, len(rows)), cut(state, rows), target, batch, rate)
            after = paste(state, small, rows)
        return jax.lax.with_sharding_constraint(after, shardings(after, mesh)), losses

    def dense(
        objective: Objective, state: TrainState, target: Target | None, batch: DeviceBatch, rate: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        losses, gradients = losses_and_gradients(objective, state.params, target, batch, key, mesh)
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
        return TrainState(state.step + 1, params, opt_state, state.key), losses

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(None, batch_sharding(mesh), batch_sharding(mesh), replicated(mesh)),
        out_shardings=(None, replicated(mesh)),
    )


def _is_range(path: tuple[Any, ...]) -> bool:
    return path[-1].key == INPUT_RANGE


def make_taught_step(
    objective: Objective, optimizer: optax.GradientTransformationExtraArgs, mesh: jax.sharding.Mesh
) -> Callable[[TrainState, Params | None, DeviceBatch, Any], tuple[TrainState, dict[str, Array]]]:
    """``step(state, teacher_params, batch, learning_rate)``, teacher and step as one program, to be counted and timed.

    Training runs the two apart, see :mod:`xtc_jax.train.teacher`: the losses are the same up to float rounding.
    """
    step = make_train_step(objective, optimizer, mesh)
    teach = None if objective.teacher is None else make_teacher_step(teaching(objective), mesh)

    def taught(state: TrainState, teacher: Params | None, batch: DeviceBatch, rate: Array) -> Any:
        return step(state, None if teach is None or teacher is None else teach(teacher, batch), batch, rate)

    return jax.jit(
        taught,
        donate_argnums=0,
        in_shardings=(None, None, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(None, replicated(mesh)),
    )


def make_eval_step(
    config: BertConfig, rules: QuantRules | None, mesh: jax.sharding.Mesh, arithmetic: Arithmetic = "float"
) -> EvalStep:
    """``step(params, batch) -> logits``, jitted; gathers and quantizes first, as training does, and computes in float32.

    The integers of quantized Linears are multiplied in ``arithmetic``. Scales are those of whole weights along ``fsdp``: summed
    shard by shard they would differ from the packed model's. What is quantized is complete before it is read, as in a packed
    model: merged with what reads it, sums are compiled in another order (seen on x86 with AVX2 alone).
    """

    def step(params: Params, batch: DeviceBatch) -> Array:
        quantized = compute_params(gathered(student_params(params), mesh), rules, arithmetic=arithmetic)
        return forward(config, jax.lax.optimization_barrier(quantized), batch).logits

    return jax.jit(step, in_shardings=(None, batch_sharding(mesh)), out_shardings=replicated(mesh))
