"""The shapes of a recipe's models, with no weight read and nothing downloaded."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from xtc_jax.bert import BertConfig, with_head
from xtc_jax.data import PINNED, cache_directory, default_buckets, find_task
from xtc_jax.errors import UserError
from xtc_jax.formats import read_config
from xtc_jax.recipe.recipe import Recipe


def _shape(layers: int, hidden: int, heads: int) -> BertConfig:
    return BertConfig(num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=4 * hidden)


PRESETS: Mapping[str, BertConfig] = MappingProxyType(
    {
        "bert-tiny": _shape(2, 128, 2),
        "bert-mini": _shape(4, 256, 4),
        "bert-small": _shape(4, 512, 8),
        "bert-medium": _shape(8, 512, 8),
        "bert-base": _shape(12, 768, 12),
        "bert-large": _shape(24, 1024, 16),
        "all-MiniLM-L6-v2": _shape(6, 384, 12),
    }
)
"""Published sizes, with the 30,522 word pieces of the uncased models; a name that ends in ``-cased`` has 28,996."""
_CASED = 28996


def model_shapes(recipe: Recipe, instead: str = "") -> dict[str, BertConfig]:
    """The shapes of all models that a recipe names, with the heads of its task, by the names it has for them.

    Args:
      recipe: names the models in its stages.
      instead: model whose shape ``config.model`` has, whatever model that names; "" is its own.

    Raises:
      UserError: a model whose shape cannot be known here.
    """
    main, data = recipe.config["model"], recipe.config["data"]
    task = find_task(recipe.config["task"], tuple(data["text"]), data["label"], tuple(data["labels"]), data["regression"])
    names = dict.fromkeys([main, *(stage.model for stage in recipe.stages if stage.model)])
    found = {name: _find(instead, "--model") if instead and name == main else _find(name, "config.model") for name in names}
    if not task.labels:  # the data would tell; the width of the head is all that changes
        return found
    return {name: with_head(shape, task.labels, task.regression) for name, shape in found.items()}


def _find(name: str, where: str) -> BertConfig:
    """From a directory, from what was downloaded before, or by its name."""
    directory = cache_directory() / name.removeprefix(PINNED) if name.startswith(PINNED) else Path(name).expanduser()
    if directory.is_dir():
        return read_config(directory / "config.json")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        from huggingface_hub import try_to_load_from_cache  # slow to import, needed for hub ids alone

        kept = try_to_load_from_cache(name, "config.json")
        if isinstance(kept, str):
            return read_config(Path(kept))
    short = re.sub(r"-(un)?cased$", "", name.removeprefix(PINNED).rpartition("/")[2])
    if short not in PRESETS:
        raise UserError(
            f"{where}={name}: its config.json is not here and its name is not one of {', '.join(PRESETS)}; "
            f"name one of these, or a directory, with --model"
        )
    return replace(PRESETS[short], vocab_size=_CASED) if name.endswith("-cased") else PRESETS[short]


def longest(recipe: Recipe, shapes: Mapping[str, BertConfig], asked: int) -> int:
    """Tokens of the longest batches: ``asked``, or, where that is 0, the last bucket of the config.

    Raises:
      UserError: more than a model has positions for.
    """
    data = recipe.config["data"]
    if not (asked or data["buckets"] or data["max_length"]):
        raise UserError("config.data.max_length=0 leaves the length to the data, which is not read here; give --length")
    length = asked or (tuple(data["buckets"]) or default_buckets(data["max_length"]))[-1]
    where = f"--length={length}" if asked else f"config.data.max_length={length}"
    for name, shape in shapes.items():
        if not 0 < length <= shape.max_position_embeddings:
            raise UserError(f"{where} is not between 1 and the {shape.max_position_embeddings} positions of model {name}")
    return length
