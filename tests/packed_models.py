"""One small packed model of every kind: bits, ranges, groups, zero points, halves, floats, tasks."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import toy

from xtc_jax.bert import BertConfig, with_head
from xtc_jax.compress import pack
from xtc_jax.data import GLUE
from xtc_jax.formats import PackedModel
from xtc_jax.quantize import ActivationSpec, named_rules, split, with_extra_rules, with_input_ranges

TASK = GLUE["mrpc"]
CONFIG = BertConfig(
    vocab_size=len(toy.VOCABULARY),
    hidden_size=12,  # no multiple of 8 codes, nor of 5
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=260,
    max_position_embeddings=24,
    labels=TASK.labels,
)
STATIC = ActivationSpec(8, "static", symmetric=False)
RULES = {
    "1 bit": named_rules("paper-50x", 1),
    "2 bits": named_rules("paper-50x", 2),
    "1 bit, float32 rest": named_rules("deepspeed", 1),
    "2 bits, row scales": named_rules("deepspeed", 2, granularity="row"),
    "tensor range": named_rules("deepspeed", 1, ActivationSpec(8, "tensor")),
    "static range": named_rules("deepspeed", 1, ActivationSpec(8, "static")),
    "4-bit inputs": named_rules("deepspeed", 1, ActivationSpec(4, "token")),
    "4-bit inputs of one range": named_rules("deepspeed", 1, ActivationSpec(4, "tensor")),
    "asymmetric inputs": named_rules("deepspeed", 2, ActivationSpec(8, symmetric=False)),
    "float inputs": named_rules("paper-50x", 1, None),
    "groups": named_rules("paper-50x", 2, granularity=6),
    "groups over rows": named_rules("deepspeed", 1, granularity=24),
    "3 bits": named_rules("deepspeed", 3),
    "4 bits, asymmetric, static": named_rules("paper-50x", 4, STATIC, quantizer="asymmetric", granularity="row"),
    "8 bits": named_rules("paper-50x", 8),
    "5 to 7 bits": with_extra_rules(
        named_rules("deepspeed", 7), ["query/weight=5,a8", "word_embeddings/weight=6,row,asymmetric"]
    ),
}


def packed_under(rules, params=None, config: BertConfig = CONFIG, task=TASK) -> PackedModel:
    """A packed model whose static ranges are not all alike."""
    latent = with_input_ranges(toy.params(config) if params is None else params, rules)
    counter = iter(range(1, 100))

    def fill(path, leaf):
        return jnp.array([-1.0, 2.0]) * next(counter) if path[-1].key == "input_range" else leaf

    return PackedModel(config, pack(jax.tree_util.tree_map_with_path(fill, latent), rules), task, 16)


def split_model(one: str = "paper-50x", config: BertConfig = CONFIG) -> PackedModel:
    """All Linears and tables of ``paper-50x`` in halves, of one bit where ``one`` has a rule."""
    return packed_under(named_rules(one, 1, STATIC), split(toy.params(config), named_rules("paper-50x", 2)), config)


def symmetric_split_model() -> PackedModel:
    """Halves that are multiplied as integers."""
    return packed_under(named_rules("paper-50x", 1), split(toy.params(CONFIG), named_rules("paper-50x", 2)))


def regression_model() -> PackedModel:
    """A pair of texts rated by one number."""
    task = GLUE["stsb"]
    return packed_under(RULES["1 bit"], config=with_head(CONFIG, task.labels, task.regression), task=task)


def sentiment_model(hidden_act: str = "gelu") -> PackedModel:
    """One text, two classes."""
    config = replace(with_head(CONFIG, toy.SENTIMENT.labels, False), hidden_act=hidden_act)
    return packed_under(RULES["1 bit"], config=config, task=toy.SENTIMENT)


MAKERS: dict[str, Callable[[], PackedModel]] = {
    **{name: lambda rules=rules: packed_under(rules) for name, rules in RULES.items()},
    "split": split_model,
    "partly split": lambda: split_model("deepspeed"),
    "split, integers": symmetric_split_model,
    "regression of pairs": regression_model,
    "one text": sentiment_model,
    "gelu_new": lambda: sentiment_model("gelu_new"),
    "relu": lambda: sentiment_model("relu"),
}
