"""Directories of one small packed model, and ways to change what is in them."""

import functools
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import packed_models
import pytest
import toy
from safetensors.numpy import load_file, save_file

from xtc_jax.compress import pack
from xtc_jax.errors import UserError
from xtc_jax.formats import WEIGHTS, PackedModel, load_packed
from xtc_jax.quantize import named_rules

TASK = packed_models.TASK
CONFIG = replace(packed_models.CONFIG, vocab_size=30, num_hidden_layers=1, max_position_embeddings=6)
QUERY = "encoder/layer_0/attention/self/query/weight"


@functools.cache
def make_model(rules: str = "paper-50x", bits: int = 2) -> PackedModel:
    """The model under named rules, for texts of five tokens."""
    return PackedModel(CONFIG, pack(toy.params(CONFIG), named_rules(rules, bits)), TASK, max_length=5)


def model_of(kind: str) -> PackedModel:
    """The model of a kind of ``packed_models.RULES``, or in halves: ``split`` or ``partly split``."""
    if "split" in kind:
        made = packed_models.split_model("deepspeed" if kind == "partly split" else "paper-50x", CONFIG)
    else:
        made = packed_models.packed_under(packed_models.RULES[kind], config=CONFIG)
    return replace(made, max_length=5)


def edit(directory: Path, **blocks: Any) -> None:
    """Change keys inside the blocks of ``config.json``; None takes one out."""
    raw = json.loads((directory / "config.json").read_text())
    for block, keys in blocks.items():
        for key, value in keys.items():
            raw[block].pop(key) if value is None else raw[block].update({key: value})
    (directory / "config.json").write_text(json.dumps(raw))


def replace_tensors(directory: Path, **tensors: Any) -> None:
    """Replace tensors of the file, and its SHA-256 in the config; None takes one out."""
    kept = {name: value for name, value in {**load_file(directory / WEIGHTS), **tensors}.items() if value is not None}
    save_file(kept, directory / WEIGHTS)
    edit(directory, quantization={"sha256": hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()})


def refusal(directory: Path) -> str:
    """What loading the directory is refused with."""
    with pytest.raises(UserError) as refused:
        load_packed(directory)
    return str(refused.value)
