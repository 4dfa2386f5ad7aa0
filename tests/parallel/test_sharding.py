"""Where parameters lie, and that it changes nothing: the same numbers on every mesh."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
import training

from xtc_jax.parallel import make_mesh, put_sharded, shardings
from xtc_jax.parallel.sharding import RULES
from xtc_jax.params import named_leaves
from xtc_jax.train import OptimizerSpec, init_state, make_optimizer

P = jax.sharding.PartitionSpec
CONFIG = toy.shape(1)
LAYER = "encoder/layer_0"


def specs(tree, shape, **options):
    return {name: sharding.spec for name, sharding in named_leaves(shardings(tree, make_mesh(shape), **options)).items()}


def a_state():
    optimizer = make_optimizer(OptimizerSpec(1e-3, 10, 0))
    return init_state(toy.params(CONFIG), optimizer, jax.random.key(0))


def test_matrices_are_split_along_both_axes_and_the_second_of_a_pair_by_its_inputs():
    found = specs(toy.params(CONFIG), (1, 2, 2))
    split = {name.removeprefix(f"{LAYER}/"): tuple(spec) for name, spec in found.items() if spec != P()}
    first, second = ("tensor", "fsdp"), ("fsdp", "tensor")
    assert split == {
        **{f"attention/self/{name}/weight": first for name in ("query", "key", "value")},
        **{f"attention/self/{name}/bias": ("tensor",) for name in ("query", "key", "value")},
        "attention/output/dense/weight": second,
        "intermediate/dense/weight": first,
        "intermediate/dense/bias": ("tensor",),
        "output/dense/weight": second,
        **{f"embeddings/{name}_embeddings/weight": (None, "fsdp") for name in ("word", "position", "token_type")},
        "pooler/dense/weight": (None, "fsdp"),
    }


def test_the_moments_of_the_optimizer_lie_where_their_parameters_do():
    found = specs(a_state(), (1, 2, 2))
    for name in named_leaves(toy.params(CONFIG)):
        assert found[f"params/{name}"] == found[f"opt_state/mu/{name}"] == found[f"opt_state/nu/{name}"]
    assert found["step"] == found["key"] == found["opt_state/count"] == P()


def test_a_device_holds_its_share_of_the_state():
    """Four ways, a matrix, its moments and the tables are quarters."""
    state = put_sharded(a_state(), make_mesh((1, 4, 1)))
    for tree in (state.params, state.opt_state.mu, state.opt_state.nu):
        for name in (f"{LAYER}/intermediate/dense/weight", "embeddings/word_embeddings/weight"):
            leaf = named_leaves(tree)[name]
            assert [shard.data.size for shard in leaf.addressable_shards] == [leaf.size // 4] * 4


def test_without_other_axes_all_is_replicated():
    assert set(specs(a_state(), (4, 1, 1)).values()) == {P()}


def test_a_dimension_that_its_axis_does_not_divide_is_not_split():
    leaf = {"pooler/dense/weight": jax.ShapeDtypeStruct((6, 6), np.float32), "x": jax.ShapeDtypeStruct((), np.float32)}
    rules = ((r"pooler", P("fsdp", "tensor")), ("", P()))
    assert specs(leaf, (1, 4, 1), rules=rules)["pooler/dense/weight"] == P()
    assert specs(leaf, (1, 2, 2), rules=rules)["pooler/dense/weight"] == P("fsdp", "tensor")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (((r"no_such", P("fsdp")), *RULES), "sharding rule 'no_such' matches no parameter"),
        ((*RULES, (r"pooler", P())), "sharding rule 'pooler' matches no parameter"),
        (RULES[:-1], "no sharding rule matches classifier/bias"),
        (((r"classifier/bias", P(None, "fsdp")), *RULES), "sharding rule 'classifier/bias' has 2 dimensions, classifier/bias"),
    ],
    ids=["of nothing", "never reached", "not complete", "too long"],
)
def test_rules_that_do_not_fit_are_refused_by_name(rules, message):
    with pytest.raises(ValueError, match=message):
        shardings(toy.params(CONFIG), make_mesh(), rules)


MESHES = {
    "1 device": (1, (1, 1, 1)),
    "2 devices": (2, (2, 1, 1)),
    "4 devices": (4, (4, 1, 1)),
    "fsdp": (4, (1, 4, 1)),
    "tensor": (4, (1, 1, 4)),
    "all axes": (8, (2, 2, 2)),
    "8 devices": (8, (8, 1, 1)),
}


@pytest.fixture(scope="module")
def on_meshes(tmp_path_factory):
    """What ``training.py`` gives for every mesh: ``found[precision][mesh]``; in a process of its own, with 8 devices."""
    out = tmp_path_factory.mktemp("meshes")
    command = [sys.executable, str(Path(training.__file__)), str(out), json.dumps(MESHES)]
    subprocess.run(command, check=True, env=training.environment(devices=8))
    return json.loads((out / "losses.json").read_text()), dict(np.load(out / "gradients.npz"))


@pytest.mark.slow
def test_results_do_not_depend_on_the_mesh(on_meshes):
    """First loss and gradients to 1e-5; 50 losses to 1e-5 in float32, and within 1 % with 1-bit weights and int8 inputs, where
    a sum in another order may move an input to the next level.
    """
    losses, gradients = on_meshes
    for precision, tolerance in (("float", 1e-5), ("quantized", 1e-2)):
        expected = np.array(losses[precision]["1 device"])
        assert len(expected) == 50
        assert expected[-1] < 0.8 * expected[0]
        for mesh in losses[precision]:
            found = np.array(losses[precision][mesh])
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, err_msg=f"{precision} {mesh}")
            np.testing.assert_allclose(found, expected, rtol=tolerance, err_msg=f"{precision} {mesh}")
    for name, found in gradients.items():
        precision, _ = name.split("/")
        expected = gradients[f"{precision}/1 device"]
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * largest, err_msg=name)
    assert len(gradients) == sum(map(len, losses.values()))
    assert list(losses["quantized"]) == ["1 device", "4 devices", "fsdp", "tensor", "all axes"]
