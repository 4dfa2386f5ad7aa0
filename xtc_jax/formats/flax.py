"""A model directory of this package: ``config.json``, the params as an Orbax checkpoint, the tokenizer."""

import json
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from xtc_jax.bert import BertConfig, config_to_dict
from xtc_jax.errors import UserError, refuse_pattern
from xtc_jax.formats.huggingface import check_params, read_config
from xtc_jax.formats.scratch import discard, make_scratch, publish
from xtc_jax.formats.tokenizer import copy_tokenizer
from xtc_jax.parallel import on_first
from xtc_jax.params import Params, named_leaves

PARAMS = "params"


def save_flax(directory: Path, config: BertConfig, params: Params, tokenizer: Path) -> None:
    """Write a model; ``tokenizer`` is the directory whose tokenizer goes with it.

    The directory appears at once, under its final name, when it is complete; one that exists is replaced. Of several processes
    all must call this, and :func:`load_flax` too, for Orbax waits for all; process 0 writes. What was written is read back, and
    compared to the bit, before it takes its name.

    Raises:
      UserError: a path that Orbax cannot write under, or a model that is not read back as it was written.
    """
    refuse_pattern(directory)
    scratch = Path(on_first(_begin, directory, config, tokenizer))
    # As numpy: the bits as they are (jax would narrow float64), and no device to be missed where it is read.
    arrays = jax.tree.map(np.asarray, params)
    try:
        ocp.save(scratch / PARAMS, jax.tree.map(lambda leaf: leaf, arrays))
        _read_back(scratch / PARAMS, arrays)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("save_flax")  # none may still be reading when it is moved
    except BaseException:
        if jax.process_count() == 1:  # others may still be writing there
            discard(scratch)
        raise
    on_first(publish, scratch, directory)


def _begin(directory: Path, config: BertConfig, tokenizer: Path) -> str:
    """The path of a scratch directory with all but the params."""
    scratch = make_scratch(directory)
    raw = config_to_dict(config, "BertForSequenceClassification")
    (scratch / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    copy_tokenizer(tokenizer, scratch)
    return str(scratch)


def _read_back(path: Path, params: Params) -> None:
    """Compare what lies on the disk with what was to be written: a checkpoint is cleared once its model is saved."""
    try:
        found = named_leaves(ocp.load(path))
    except Exception as error:  # tensorstore, json and file errors alike
        raise UserError(f"{path}: was written and cannot be read back ({type(error).__name__}); nothing was replaced") from None
    for name, leaf in named_leaves(params).items():
        if name not in found or found[name].dtype != leaf.dtype or found[name].tobytes() != leaf.tobytes():
            raise UserError(f"{path}: {name} was not read back as it was written; is the disk damaged? Nothing was replaced")


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
