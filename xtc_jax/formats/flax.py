"""A model directory of this package: ``config.json``, the params as an Orbax checkpoint, the tokenizer."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from xtc_jax.bert import BertConfig, config_to_dict
from xtc_jax.errors import UserError
from xtc_jax.formats.huggingface import check_params, copy_tokenizer, read_config
from xtc_jax.params import Params, named_leaves

PARAMS = "params"


def save_flax(directory: Path, config: BertConfig, params: Params, tokenizer: Path) -> None:
    """Write a model; ``tokenizer`` is the directory whose tokenizer goes with it.

    The directory appears at once, under its final name, when it is complete; one that exists is replaced. Of several processes
    all must call this, and :func:`load_flax` too, for Orbax waits for all; process 0 writes.
    """
    scratch, first = directory.with_name(directory.name + ".tmp"), jax.process_index() == 0
    if first:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        raw = config_to_dict(config, "BertForSequenceClassification")
        (scratch / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
        copy_tokenizer(tokenizer, scratch)
    _wait_for_all()
    # As numpy: the bits as they are (jax would narrow float64), and no device to be missed where it is read.
    ocp.save(scratch.absolute() / PARAMS, jax.tree.map(np.asarray, params))
    if first:
        shutil.rmtree(directory, ignore_errors=True)
        scratch.rename(directory)
    _wait_for_all()


def _wait_for_all() -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("save_flax")


def is_flax(directory: Path) -> bool:
    """Whether :func:`save_flax` wrote this directory."""
    return (directory / PARAMS).is_dir()


def load_flax(directory: Path) -> tuple[BertConfig, Params]:
    """Read what :func:`save_flax` wrote.

    Raises:
      UserError: damaged or incomplete.
    """
    config = read_config(directory / "config.json")
    try:
        params: Params = ocp.load(directory.absolute() / PARAMS)
    except Exception as error:  # tensorstore, json and file errors alike
        raise UserError(f"{directory / PARAMS}: not a readable checkpoint ({type(error).__name__})") from None
    check_params(named_leaves(params), config, directory / PARAMS)
    return config, params
