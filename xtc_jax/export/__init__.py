"""Writers and readers of model directories."""

from xtc_jax.export.convert import convert, load_model
from xtc_jax.export.flax_directory import load_flax, save_flax
from xtc_jax.export.packed import WEIGHTS, PackedModel, file_account, load_packed, save_packed

__all__ = [
    "WEIGHTS",
    "PackedModel",
    "convert",
    "file_account",
    "load_flax",
    "load_model",
    "load_packed",
    "save_flax",
    "save_packed",
]
