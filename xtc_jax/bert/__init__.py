"""A pure-functional BERT: ``(config, params, apply)``. It knows no file format and no data set."""

from xtc_jax.bert.config import BertConfig, config_from_dict, config_to_dict, with_head
from xtc_jax.bert.head import complete, fit_head, match_labels, permute_head
from xtc_jax.bert.linear import sums_integers
from xtc_jax.bert.masked_lm import MASKED_LM, masked_lm_logits, masked_lm_shapes
from xtc_jax.bert.model import BertOutput, apply, init
from xtc_jax.bert.shapes import parameter_shapes

__all__ = [
    "MASKED_LM",
    "BertConfig",
    "BertOutput",
    "apply",
    "complete",
    "config_from_dict",
    "config_to_dict",
    "fit_head",
    "init",
    "masked_lm_logits",
    "masked_lm_shapes",
    "match_labels",
    "parameter_shapes",
    "permute_head",
    "sums_integers",
    "with_head",
]
