"""What makes a model small: fewer layers, distillation, packed weights."""

from xtc_jax.compress.distill import (
    DistillSpec,
    Term,
    attention_loss,
    distillation_terms,
    hidden_loss,
    label_loss,
    logit_loss,
    new_projection,
    project,
)
from xtc_jax.compress.layers import NAMED_LAYERS, LayerMap, layer_map, parse_layers, reduce_layers
from xtc_jax.compress.pack import float32_bytes, pack, ready, size_account, unpack
from xtc_jax.compress.vocabulary import (
    Vocabulary,
    choose_pieces,
    piece_counts,
    reduce_vocabulary,
    reduced_tokenizer,
    required_ids,
    rows_between,
    special_ids,
)

__all__ = [
    "NAMED_LAYERS",
    "DistillSpec",
    "LayerMap",
    "Term",
    "Vocabulary",
    "attention_loss",
    "choose_pieces",
    "distillation_terms",
    "float32_bytes",
    "hidden_loss",
    "label_loss",
    "layer_map",
    "logit_loss",
    "new_projection",
    "pack",
    "parse_layers",
    "piece_counts",
    "project",
    "ready",
    "reduce_layers",
    "reduce_vocabulary",
    "reduced_tokenizer",
    "required_ids",
    "rows_between",
    "size_account",
    "special_ids",
    "unpack",
]
