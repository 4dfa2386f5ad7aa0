"""The promises of the README on every kind of mesh: the packed model gives what the fake-quantized student gave."""

import jax
import numpy as np
import pytest
import toy

from xtc_jax.compress import pack, ready
from xtc_jax.parallel import gathered, make_mesh, put_batch, put_replicated, put_sharded, shardings
from xtc_jax.params import named_leaves
from xtc_jax.quantize import named_rules
from xtc_jax.train import make_eval_step

CONFIG = toy.shape(1)
PARAMS = toy.params(CONFIG, seed=3)
RULES = {"deepspeed": named_rules("deepspeed", 1), "paper-50x": named_rules("paper-50x", 2)}
MESHES = {"one": (1, 1, 1), "data": (4, 1, 1), "fsdp": (1, 4, 1), "tensor": (1, 1, 4), "all": (1, 2, 2)}


def a_batch(rows=8):
    dataset = toy.dataset(count=rows, batch_size=rows)
    return dataset.batch(dataset.in_order()[0])


def logits_on(shape, params, rules, place):
    mesh = make_mesh(shape, jax.devices()[: int(np.prod(shape))])
    return np.asarray(make_eval_step(CONFIG, rules, mesh)(place(params, mesh), put_batch(a_batch(), mesh)))


def collective_sizes(shape):
    """Results of the compiled evaluation step: the shapes of all activations of a device that have the whole batch."""
    mesh = make_mesh(shape)
    step = make_eval_step(CONFIG, RULES["deepspeed"], mesh)
    return step.lower(put_sharded(PARAMS, mesh), put_batch(a_batch(), mesh)).compile().as_text()


def test_under_fsdp_evaluation_gathers_the_weights_and_every_device_computes_its_rows_alone():
    """8 rows on four devices are 2 each: of the intermediate activations, 64 wide, no device has all 8."""
    text = collective_sizes(MESHES["fsdp"])
    assert "f32[2,16,64]" in text or "f32[32,64]" in text
    assert "f32[8,16,64]" not in text
    assert "f32[128,64]" not in text


def test_the_gradient_of_a_gathered_weight_is_constrained_to_the_shard():
    """So that the partitioner may sum it by a reduce-scatter; and it is the gradient all the same."""
    mesh = make_mesh(MESHES["fsdp"])
    placed = put_sharded(PARAMS, mesh)

    def total(params):
        return sum(jax.numpy.sum(leaf**2) for leaf in jax.tree.leaves(gathered(params, mesh)))

    jaxpr = jax.make_jaxpr(jax.grad(total))(placed)
    constrained = {
        eqn.outvars[0]: eqn.params["sharding"].spec for eqn in jaxpr.eqns if eqn.primitive.name == "sharding_constraint"
    }
    given = jax.tree.map(lambda sharding: sharding.spec, shardings(PARAMS, mesh))
    assert [constrained.get(out) for out in jaxpr.jaxpr.outvars] == jax.tree.leaves(given)
    for name, leaf in named_leaves(jax.jit(jax.grad(total))(placed)).items():
        np.testing.assert_array_equal(leaf, 2 * named_leaves(PARAMS)[name])


# Of logits near 1. Without a tensor axis both sum in the same order. Along it the student's scales are summed shard by shard,
# and the packed model, whole on every device, is not split: 6.0e-8 measured, one unit in the last place; times four.
BOUNDS = {"one": 0.0, "data": 0.0, "fsdp": 0.0, "tensor": 2.4e-7, "all": 2.4e-7}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("mesh", MESHES)
def test_the_packed_model_gives_the_logits_of_the_student_on_every_mesh(mesh, name):
    packed = ready(pack(PARAMS, RULES[name]), backend="xla")
    fake = logits_on(MESHES[mesh], PARAMS, RULES[name], put_sharded)
    stored = logits_on(MESHES[mesh], packed, None, put_replicated)
    print(mesh, name, np.abs(fake - stored).max())
    np.testing.assert_allclose(fake, stored, rtol=0, atol=BOUNDS[mesh])
