"""Writers and readers of model directories."""

from xtc_jax.formats.convert import convert, load_model
from xtc_jax.formats.flax import load_flax, save_flax
from xtc_jax.formats.huggingface import (
    check_params,
    copy_tokenizer,
    load_huggingface,
    read_config,
    resolve_model,
    save_huggingface,
)
from xtc_jax.formats.packed import WEIGHTS, PackedModel, file_account, load_packed, save_packed
from xtc_jax.formats.safetensors import read_safetensors

__all__ = [
    "WEIGHTS",
    "PackedModel",
    "check_params",
    "convert",
    "copy_tokenizer",
    "file_account",
    "load_flax",
    "load_huggingface",
    "load_model",
    "load_packed",
    "read_config",
    "read_safetensors",
    "resolve_model",
    "save_flax",
    "save_huggingface",
    "save_packed",
]
