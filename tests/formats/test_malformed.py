"""Damaged model directories: each is refused by one line, or loads with finite numbers; nothing else escapes."""

import json
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import toy

from xtc_jax.bert import BertConfig
from xtc_jax.compress import pack
from xtc_jax.data import GLUE
from xtc_jax.errors import UserError
from xtc_jax.formats import PackedModel, load_flax, load_huggingface, load_packed, save_flax, save_huggingface, save_packed
from xtc_jax.quantize import named_rules

CONFIG = BertConfig(
    vocab_size=80,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=6,
    labels=GLUE["mrpc"].labels,
)
WRONG = (None, -1, 0, 1.5, "F8_E4M3", 2**40, True, "word", [], [1], {}, {"a": 1}, float("nan"))
COUNTS = {"packed": 500, "huggingface": 300, "flax": 200}


def make(form, directory, tokenizer):
    params = jax.tree.map(np.asarray, toy.params(CONFIG))
    if form == "packed":
        save_packed(directory, PackedModel(CONFIG, pack(params, named_rules("paper-50x", 2)), GLUE["mrpc"], 5), tokenizer)
    elif form == "flax":
        save_flax(directory, CONFIG, params, tokenizer)
    else:
        save_huggingface(directory, CONFIG, params)


def containers(value):
    """Every dict inside plain data, itself first."""
    return [value, *(inner for child in value.values() if isinstance(child, dict) for inner in containers(child))]


def change_key(value, draw):
    block = draw.choice([block for block in containers(value) if block])
    key = draw.choice(sorted(block))
    if draw.random() < 0.3:
        del block[key]
    else:
        block[key] = draw.choice(WRONG)


def mutate(directory, draw):
    """Damage one file; returns what was done."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "tokenizer.json"]
    path = draw.choice([*files, *[directory / "config.json"] * (len(files) // 2)])
    kind = draw.choice(("truncate", "flip", "flip early", "keys"))
    data = bytearray(path.read_bytes())
    if path.name == "config.json" and kind != "truncate":
        raw = json.loads(data)
        change_key(raw, draw)
        data = bytearray(json.dumps(raw).encode())
    elif path.suffix == ".safetensors" and kind == "keys":
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change_key(header, draw)
        text = json.dumps(header).encode()
        data = bytearray(len(text).to_bytes(8, "little") + text) + data[8 + length :]
    elif kind == "truncate":
        data = data[: draw.randrange(len(data) + 1)]
    elif data:
        data[draw.randrange(min(len(data), 300) if kind == "flip early" else len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return f"{kind} of {path.relative_to(directory)}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax: coroutines left by a failed load
@pytest.mark.parametrize("form", COUNTS)
def test_every_mutation_is_refused_by_one_line_or_loads_with_finite_numbers(tmp_path, form):
    (tmp_path / "tokenizer").mkdir()
    toy.tokenizer().save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    make(form, tmp_path / "whole", tmp_path / "tokenizer")
    load = {"packed": lambda path: load_packed(path).params, "flax": load_flax, "huggingface": load_huggingface}[form]
    draw, refused, escaped = random.Random(1), 0, []
    for number in range(COUNTS[form]):
        directory = Path(shutil.copytree(tmp_path / "whole", tmp_path / "damaged"))
        what = mutate(directory, draw)
        try:
            found = load(directory)
            leaves = jax.tree.leaves(found if form == "packed" else found[1])
            if not all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves):
                escaped.append(f"{number}: {what}: not finite")
        except UserError as error:
            refused += 1
            if "\n" in str(error):
                escaped.append(f"{number}: {what}: more than one line")
        except Exception as error:
            escaped.append(f"{number}: {what}: {type(error).__name__}: {error}")
        shutil.rmtree(directory)
    print(f"{form}: {COUNTS[form]} mutations, {refused} refused")
    assert not escaped, "\n".join(escaped)
    assert refused > COUNTS[form] // 3
