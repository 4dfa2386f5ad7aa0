"""Writers and readers of model directories.

Names are imported when they are first used (PEP 562): the account of a file needs no JAX, and running a packed model neither
Orbax nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtc_jax.formats.account import WEIGHTS, file_account, tokenizer_bytes
    from xtc_jax.formats.conversion import convert, load_model
    from xtc_jax.formats.flax import load_flax, save_flax
    from xtc_jax.formats.huggingface import (
        check_params,
        load_huggingface,
        read_config,
        resolve_model,
        save_huggingface,
    )
    from xtc_jax.formats.packed import PackedModel, load_packed, save_packed
    from xtc_jax.formats.safetensors import read_safetensors
    from xtc_jax.formats.scratch import clear_unfinished
    from xtc_jax.formats.tokenizer import copy_tokenizer, save_tokenizer

_MODULES = {
    "account": ("WEIGHTS", "file_account", "tokenizer_bytes"),
    "conversion": ("convert", "load_model"),  # a module named as its function would hide it
    "flax": ("load_flax", "save_flax"),
    "huggingface": (
        "check_params",
        "load_huggingface",
        "read_config",
        "resolve_model",
        "save_huggingface",
    ),
    "packed": ("PackedModel", "load_packed", "save_packed"),
    "safetensors": ("read_safetensors",),
    "scratch": ("clear_unfinished",),
    "tokenizer": ("copy_tokenizer", "save_tokenizer"),
}
__all__ = [
    "WEIGHTS",
    "PackedModel",
    "check_params",
    "clear_unfinished",
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
    "save_tokenizer",
    "tokenizer_bytes",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
