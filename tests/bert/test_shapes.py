"""The shapes that checkpoints are compared with are those that ``init`` makes."""

from dataclasses import replace

import jax
import pytest
import toy

from xtc_jax.bert import init, parameter_shapes
from xtc_jax.params import named_leaves


@pytest.mark.parametrize("changes", [{}, {"num_hidden_layers": 1, "type_vocab_size": 1}, {"labels": ("a", "b", "c")}])
def test_the_shapes_are_those_of_a_fresh_model(changes):
    config = replace(toy.FULL_SIZE, **changes)
    fresh = named_leaves(jax.eval_shape(lambda: init(config, jax.random.key(0))))
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in parameter_shapes(config).items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in fresh.items()
    }
