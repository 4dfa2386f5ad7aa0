"""A pure-functional BERT: ``(config, params, apply)``, and its checkpoints."""

from xtc_jax.bert.config import BertConfig, config_from_dict, config_to_dict, read_config, with_head
from xtc_jax.bert.huggingface import (
    check_params,
    complete,
    copy_tokenizer,
    load_huggingface,
    nest,
    resolve_model,
    save_huggingface,
)
from xtc_jax.bert.labels import fit_head, match_labels, permute_head
from xtc_jax.bert.linear import sums_integers
from xtc_jax.bert.masked_lm import MASKED_LM, masked_lm_logits, masked_lm_shapes
from xtc_jax.bert.model import BertOutput, apply, init
from xtc_jax.bert.tensor_files import read_safetensors

__all__ = [
    "MASKED_LM",
    "BertConfig",
    "BertOutput",
    "apply",
    "check_params",
    "complete",
    "config_from_dict",
    "config_to_dict",
    "copy_tokenizer",
    "fit_head",
    "init",
    "load_huggingface",
    "masked_lm_logits",
    "masked_lm_shapes",
    "match_labels",
    "nest",
    "permute_head",
    "read_config",
    "read_safetensors",
    "resolve_model",
    "save_huggingface",
    "sums_integers",
    "with_head",
]
