"""A model directory of this package: ``config.json``, the params as an Orbax checkpoint, the tokenizer."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from xtc_jax.bert import BertConfig, config_to_dict, copy_tokenizer, init, read_config
from xtc_jax.errors import UserError
from xtc_jax.quantize import Params

PARAMS = "params"


def save_flax(directory: Path, config: BertConfig, params: Params, tokenizer: Path) -> None:
    """Write a model; ``tokenizer`` is the directory whose tokenizer goes with it.

    The directory appears at once, under its final name, when it is complete; one that exists is replaced.
    """
    scratch = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    raw = config_to_dict(config, "BertForSequenceClassification")
    (scratch / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    copy_tokenizer(tokenizer, scratch)
    ocp.save(scratch.absolute() / PARAMS, jax.tree.map(jnp.asarray, params))
    shutil.rmtree(directory, ignore_errors=True)
    scratch.rename(directory)


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
    expected = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    unknown = set(params) - set(expected)
    if unknown:
        raise UserError(f"{directory / PARAMS}: does not fit config.json; unknown {', '.join(sorted(unknown))}")
    return config, params
