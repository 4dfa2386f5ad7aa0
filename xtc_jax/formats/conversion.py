"""``xtc convert``: between Hugging Face directories and this package's."""

from pathlib import Path
from typing import Literal

from xtc_jax.bert import BertConfig
from xtc_jax.errors import UserError
from xtc_jax.formats.flax import is_flax, load_flax, save_flax
from xtc_jax.formats.huggingface import load_huggingface, resolve_model, save_huggingface
from xtc_jax.formats.scratch import scratch_for
from xtc_jax.formats.tokenizer import copy_tokenizer
from xtc_jax.params import Params, named_leaves


def load_model(source: str) -> tuple[BertConfig, Params, Path]:
    """Read a float model from a Hugging Face directory, a hub id, ``pinned:NAME`` or a directory of a stage.

    Returns:
      Config, params in the checkpoint's dtypes, and the local directory (which has the tokenizer).

    Raises:
      UserError: see ``resolve_model``, ``load_huggingface`` and ``load_flax``.
    """
    directory = resolve_model(source)
    config, params = load_flax(directory) if is_flax(directory) else load_huggingface(directory)
    return config, params, directory


def convert(source: str, target: Path, form: Literal["huggingface", "flax"]) -> tuple[BertConfig, int]:
    """Write the model of ``source`` to the new directory ``target``; every tensor keeps its bits and dtype.

    Returns:
      The config and the number of tensors.

    Raises:
      UserError: the target exists and is not empty, or the source cannot be read.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: exists already; choose a new directory")
    config, params, directory = load_model(source)
    if form == "flax":
        save_flax(target, config, params, directory)
    else:
        with scratch_for(target) as scratch:
            save_huggingface(scratch, config, params)
            copy_tokenizer(directory, scratch)
    return config, len(named_leaves(params))
