"""What makes a model small: fewer layers, distillation, packed weights."""

from xtc_jax.compress.distill import (
    DistillSpec,
    attention_loss,
    distillation_losses,
    hidden_loss,
    label_loss,
    logit_loss,
)
from xtc_jax.compress.layers import LayerMap, layer_map, reduce_layers
from xtc_jax.compress.pack import SizeEntry, float32_bytes, pack, ready, size_account, unpack

__all__ = [
    "DistillSpec",
    "LayerMap",
    "SizeEntry",
    "attention_loss",
    "distillation_losses",
    "float32_bytes",
    "hidden_loss",
    "label_loss",
    "layer_map",
    "logit_loss",
    "pack",
    "ready",
    "reduce_layers",
    "size_account",
    "unpack",
]
