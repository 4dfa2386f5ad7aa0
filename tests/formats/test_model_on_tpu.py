"""The whole packed BERT-base as one program for a TPU that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json
from dataclasses import replace
import jax
import jax.numpy as jnp
from xtc_jax.bert import BertConfig, apply, init
from xtc_jax.compress import pack, ready
from xtc_jax.kernels import PackedTensor
from xtc_jax.aot.libtpu import Compiler
from xtc_jax.quantize import named_rules

config, ids = BertConfig(), jax.ShapeDtypeStruct((1, 128), jnp.int32)
shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
with Compiler(bundles=False) as compiler:
    for bits in (2, 1):
        rules = replace(named_rules("paper-50x", bits), rest="float32")
        packed = jax.eval_shape(lambda params: ready(pack(params, rules), "TPU v5 lite"), shapes)
        leaves = jax.tree.leaves(packed, is_leaf=lambda leaf: isinstance(leaf, PackedTensor))
        layouts = {leaf.layout for leaf in leaves if isinstance(leaf, PackedTensor)}
        found = compiler.compile("v5e", lambda params, *batch: apply(config, params, *batch).logits, packed, ids, ids, ids)
        weights = found.arguments - 3 * 128 * 4
        print(json.dumps({"bits": bits, "layouts": sorted(layouts), "weights": weights}))
"""
FLOAT32 = 4 * 109_483_778
"""Bytes of a BERT-base with two classes."""


@pytest.mark.slow
@pytest.mark.libtpu
def test_the_packed_bert_base_compiles_for_v5e_and_its_weights_take_a_fifteenth_and_a_twenty_eighth_of_float32():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS")
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    two, one = (json.loads(line) for line in run.stdout.splitlines())
    assert two["layouts"] == one["layouts"] == ["planes256.v1", "tpu_words.v1"]  # tables and pooler; Linears
    assert (two["bits"], one["bits"]) == (2, 1)
    assert two["weights"] <= FLOAT32 / 15
    assert one["weights"] <= FLOAT32 / 28
