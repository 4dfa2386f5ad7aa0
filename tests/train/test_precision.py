"""Mixed precision, read off the programs: the bfloat16 step is the float32 step with other compute types, and no others."""

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import chain

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from xtc_jax.compress import DistillSpec, layer_map, reduce_layers
from xtc_jax.parallel import make_mesh
from xtc_jax.quantize import QUANTIZERS, ActivationSpec, named_rules
from xtc_jax.train import (
    Objective,
    OptimizerSpec,
    init_state,
    make_eval_step,
    make_optimizer,
    make_taught_step,
    objective_losses,
)
from xtc_jax.train.step import trainable

TEACHER, LAYERS = toy.shape(2), layer_map((1,), 2)
STUDENT = toy.shape(1, dropout=0.1)
OPTIMIZER = make_optimizer(OptimizerSpec(1e-3, 10, 0))
RULES = {
    "float": None,
    "1 bit": named_rules("paper-50x", 1, 8),
    "2 bits": named_rules("deepspeed", 2, 8),
    "4 bits, static, at random": named_rules("deepspeed", 4, ActivationSpec(8, "static"), stochastic=True),
    "3 bits, asymmetric, rows": named_rules(
        "deepspeed", 3, ActivationSpec(4, "tensor", symmetric=False), quantizer="asymmetric", granularity="row"
    ),
    "8 bits, groups, float inputs": named_rules("deepspeed", 8, None, granularity=16),
}
CASES = [*RULES, "another width", "labels"]
# What may be bfloat16: moving numbers about, residual sums, and dropout's scaling.
NARROW = {
    "add",
    "add_any",
    "broadcast_in_dim",
    "copy",
    "div",
    "dot_general",
    "pad",
    "reshape",
    "select_n",
    "slice",
    "squeeze",
    "stop_gradient",
    "transpose",
}


@cache
def params():
    teacher = toy.params(TEACHER, 3)
    return reduce_layers(teacher, LAYERS), teacher


@cache
def a_batch():
    dataset = toy.dataset(8)
    return jax.tree.map(jnp.asarray, dataset.batch(dataset.plan(0, 0)[0]))


def objective(case, dtype="float32"):
    if case == "labels":
        return Objective(STUDENT, RULES["2 bits"], None, layer_map((), 1), DistillSpec(), dtype=dtype)
    student = replace(STUDENT, hidden_size=24, intermediate_size=40) if case == "another width" else STUDENT
    spec = DistillSpec(label=0.5, temperature=2.0)
    return Objective(student, RULES.get(case), TEACHER, LAYERS, spec, teacher_rules=RULES["1 bit"], dtype=dtype)


def arguments(case):
    """A state, a teacher and a batch to trace the step of ``case`` with."""
    chosen, (student, teacher) = objective(case), params()
    student = toy.params(chosen.student) if case == "another width" else student
    state = init_state(trainable(chosen, student, jax.random.key(1)), OPTIMIZER, jax.random.key(0))
    return state, teacher if chosen.teacher else None, a_batch()


@cache
def program(case, dtype):
    """The jaxpr of one training step."""
    step = make_taught_step(objective(case, dtype), OPTIMIZER, make_mesh())
    return jax.make_jaxpr(step)(*arguments(case), np.float32(1e-3))


def equations(jaxpr):
    """Every equation, those of inner programs in their place after the one that holds them."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr):
                    yield from equations(getattr(inner, "jaxpr", inner))


@cache
def steps(case, dtype):
    """The equations of a step but for its conversions."""
    found = [e for e in equations(program(case, dtype).jaxpr) if e.primitive.name != "convert_element_type"]
    assert len(found) > 500  # a walk that finds nothing proves nothing
    return found


def shapes(equation):
    return [getattr(v.aval, "shape", None) for v in (*equation.invars, *equation.outvars)]


def dtypes(variables):
    return [str(v.aval.dtype) for v in variables]


def holds_programs(equation):
    return any("jaxpr" in key or "fun" in key for key in equation.params)


every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_both_steps_are_the_same_primitives_on_the_same_shapes_in_the_same_order(case):
    wide, narrow = steps(case, "float32"), steps(case, "bfloat16")
    assert [e.primitive.name for e in wide] == [e.primitive.name for e in narrow]
    assert [shapes(e) for e in wide] == [shapes(e) for e in narrow]


@every_case
def test_the_only_difference_is_bfloat16_for_float32_where_numbers_are_moved_added_or_dropped(case):
    changed = Counter()
    for wide, narrow in zip(steps(case, "float32"), steps(case, "bfloat16"), strict=True):
        for before, after in zip(dtypes(wide.outvars), dtypes(narrow.outvars), strict=True):
            if before != after and not holds_programs(narrow):
                assert (before, after) == ("float32", "bfloat16")
                changed[narrow.primitive.name] += 1
    assert changed.keys() <= NARROW
    assert changed["add"] > 0  # the residual sums
    assert changed["dot_general"] == 2  # the gradients of keys and values, of the one student layer


@every_case
def test_products_of_the_encoder_are_of_bfloat16_summed_in_float32_and_those_of_the_head_are_float32(case):
    widths = {32, 24}
    for equation in steps(case, "bfloat16"):
        if equation.primitive.name != "dot_general":
            continue
        left, right, result = (v.aval for v in (*equation.invars, *equation.outvars))
        attention = left.ndim == 4  # gradients of keys and values come in their own dtype
        assert str(result.dtype) in ("float32", "bfloat16" if attention else "float32")
        assert left.dtype == right.dtype
        if str(left.dtype) == "float32":
            # Pooler and classifier see one token of each example; the projection of hidden states belongs to the losses.
            head = max(left.ndim, right.ndim) == 2
            projection = case == "another width" and {*left.shape, *right.shape} >= widths
            assert head or projection


@every_case
def test_every_linear_of_the_encoder_multiplies_bfloat16_forward_and_backward(case):
    """6 Linears in each of 3 layers, or 1 without a teacher; two more products each for gradients, of the student's."""
    products = [
        e for e in steps(case, "bfloat16") if e.primitive.name == "dot_general" and dtypes(e.invars) == ["bfloat16", "bfloat16"]
    ]
    attention = [e for e in products if 4 in {v.aval.ndim for v in e.invars}]
    assert len(attention) == (2 + 4 if case == "labels" else 2 * 3 + 4)
    assert len(products) - len(attention) == (6 * 3 if case == "labels" else 6 * 3 + 6 * 2)


@every_case
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_and_losses_are_float32_and_nothing_is_float16(case, dtype):
    out = program(case, dtype).out_avals
    assert {str(aval.dtype) for aval in out} - {"int32", "key<fry>"} == {"float32"}
    seen = set(chain.from_iterable(dtypes((*e.invars, *e.outvars)) for e in equations(program(case, dtype).jaxpr)))
    assert not {"float16", "float64"} & seen
    assert ("bfloat16" in seen) == (dtype == "bfloat16")


WIDE = {
    "softmax": {"exp", "reduce_max", "reduce_sum"},
    "log_softmax": {"log"},
    "LayerNorm": {"rsqrt"},
    "gelu": {"erf"},
    "pooler": {"tanh"},
    "losses and moments": {"square", "integer_pow"},
    "optimizer": {"sqrt", "expm1"},
    "quantizers": {"round", "clamp", "abs", "sign", "max", "min", "reduce_min"},
    "embeddings": {"gather", "scatter-add"},
    "16-bit rest": {"reduce_precision"},
    "scales": {"mul", "sub", "neg"},
}


@every_case
def test_what_needs_the_digits_reads_and_writes_float32(case):
    wide = set().union(*WIDE.values())
    for equation in steps(case, "bfloat16"):
        if equation.primitive.name in wide:
            assert "bfloat16" not in dtypes((*equation.invars, *equation.outvars)), equation


@pytest.mark.parametrize("part", WIDE)
def test_the_primitives_that_are_checked_above_are_those_of_the_step(part):
    names = {e.primitive.name for case in CASES for e in steps(case, "bfloat16")}
    assert WIDE[part] & names
    assert part in ("losses and moments", "quantizers") or WIDE[part] <= names


@every_case
def test_bfloat16_is_divided_by_the_keep_rate_of_dropout_alone(case):
    divisions = [e for e in steps(case, "bfloat16") if e.primitive.name == "div" and dtypes(e.outvars) == ["bfloat16"]]
    assert len(divisions) == 4 * 2  # embeddings, attention probabilities, two outputs; forward and backward
    for equation in divisions:
        divisor = equation.invars[1]
        assert float(getattr(divisor, "val", np.nan)) == pytest.approx(0.9, rel=2**-8)


def test_evaluation_is_float32_whatever_the_step_computes_in():
    jaxpr = jax.make_jaxpr(make_eval_step(STUDENT, RULES["1 bit"], make_mesh()))(params()[0], a_batch())
    seen = set(chain.from_iterable(dtypes((*e.invars, *e.outvars)) for e in equations(jaxpr.jaxpr)))
    assert not {"bfloat16", "float16"} & seen


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_computes_its_levels_in_float32(name):
    rules = named_rules("deepspeed", QUANTIZERS[name][0], 8, quantizer=name)
    seen = []
    for dtype in ("float32", "bfloat16"):
        chosen = replace(objective("labels", dtype), rules=rules)
        gradients = jax.make_jaxpr(jax.grad(lambda p, o=chosen: objective_losses(o, p, None, a_batch(), None)["label"]))
        found = [e for e in equations(gradients(params()[0]).jaxpr) if e.primitive.name != "convert_element_type"]
        seen.append([e.primitive.name for e in found])
        for equation in found:
            if equation.primitive.name in {"round", "clamp", "abs", "sign", "max", "min", "reduce_max", "reduce_sum", "mul"}:
                assert "bfloat16" not in dtypes((*equation.invars, *equation.outvars))
    assert seen[0] == seen[1]


@pytest.fixture(scope="module")
def losses_and_gradients():
    """Of both dtypes, without dropout and without activation bits, which turn one ulp into one level."""

    def run(dtype):
        chosen = Objective(toy.shape(1), named_rules("deepspeed", 2, None), TEACHER, LAYERS, DistillSpec(), dtype=dtype)

        def total(student):
            losses = objective_losses(chosen, student, params()[1], a_batch(), None)
            return sum(losses.values()), losses

        return jax.device_get(jax.jit(jax.grad(total, has_aux=True))(params()[0]))

    return run("float32"), run("bfloat16")


def test_every_loss_in_bfloat16_is_close_to_that_in_float32(losses_and_gradients):
    (_, wide), (_, narrow) = losses_and_gradients
    assert {name: loss.dtype for name, loss in narrow.items()} == dict.fromkeys(wide, jnp.dtype("float32"))
    for name, loss in wide.items():
        assert 0 < abs(narrow[name] / loss - 1) < 0.01


def test_the_gradient_in_bfloat16_points_where_that_in_float32_does(losses_and_gradients):
    (wide, _), (narrow, _) = losses_and_gradients
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (wide, narrow)]
    assert flat[1].dtype == np.float32
    assert flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]) > 0.999
