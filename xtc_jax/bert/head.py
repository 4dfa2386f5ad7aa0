"""The order of a classifier's labels: read from the checkpoint, and brought into that of the task.

Checkpoints of one task differ in it: MNLI's classes are entailment, neutral, contradiction in the Hugging Face data set and
contradiction, entailment, neutral in models of textattack. A head used in the wrong order answers far below chance, and a
teacher in the wrong order teaches that (docs/method.md, section 13.12).
"""

import re

import jax
import numpy as np

from xtc_jax.bert.config import BertConfig
from xtc_jax.bert.masked_lm import MASKED_LM
from xtc_jax.bert.model import init
from xtc_jax.errors import UserError
from xtc_jax.params import Params


def match_labels(checkpoint: tuple[str, ...], task: tuple[str, ...]) -> tuple[int, ...] | None:
    """For every label of the task the row of the checkpoint's head that answers it.

    Names are compared without case, ``_``, ``-`` and spaces. Names that only count, ``LABEL_0`` or ``0``, on either side, say
    nothing about the order, nor does the name of a single number: they are taken to match as they stand.

    Args:
      checkpoint: names of the head's rows, from ``config.json``.
      task: class names in the order of their ids.

    Returns:
      ``rows`` with ``checkpoint[rows[i]]`` meaning ``task[i]``; None where the names, or their number, do not match.

    >>> match_labels(("CONTRADICTION", "Entailment", "neutral"), ("entailment", "neutral", "contradiction"))
    (1, 2, 0)
    """
    if len(checkpoint) != len(task):
        return None
    rows = {_plain(name): row for row, name in enumerate(checkpoint)}
    if len(rows) == len(task) and rows.keys() == {_plain(name) for name in task}:
        return tuple(rows[_plain(name)] for name in task)
    return tuple(range(len(task))) if len(task) == 1 or only_count(checkpoint) or only_count(task) else None


def _other_kind(config: BertConfig) -> str:
    """What a head is that answers neither which of its labels it is nor how much of a single one; else ""."""
    if config.multi_label:
        return "multi-label classification"
    return "regression of several numbers" if config.regression and len(config.labels) > 1 else ""


def only_count(labels: tuple[str, ...]) -> bool:
    """Whether these names are ``LABEL_0``, ``LABEL_1``, … or ``0``, ``1``, …, in order."""
    return all(_plain(name) in (f"label{i}", str(i)) for i, name in enumerate(labels))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def permute_head(params: Params, order: tuple[int, ...]) -> Params:
    """Params whose classifier has row ``order[i]`` as its row i; the rest, and dtypes, as they are."""
    rows = np.asarray(order)
    return {**params, "classifier": jax.tree.map(lambda leaf: leaf[rows], params["classifier"])}


def fit_head(config: BertConfig, params: Params, labels: tuple[str, ...], trained: bool, where: str) -> tuple[Params, str]:
    """A checkpoint's params with the head in the order of the task, or without a head where it has another task's.

    Args:
      config: as read from the checkpoint; has the names of its head's rows.
      params: as read; ``classifier`` may lack.
      labels: the task's class names in the order of their ids.
      trained: whether a head that does not fit may be left out, because a fresh one will be trained.
      where: names the checkpoint in errors.

    Returns:
      The params, and what was done in words; "" if there is nothing to tell.

    Raises:
      UserError: the head lacks, is of another kind (multi-label), or its names do not match the task's, and ``trained`` is
        False.
    """
    theirs, ours = ", ".join(config.labels), ", ".join(labels)
    if "classifier" not in params:
        if not trained:
            raise UserError(
                f"{where}: a model without a classifier, and the stage that starts from it does not train; set epochs"
            )
        return params, ""
    order = match_labels(config.labels, labels)
    kind = _other_kind(config)
    if kind:
        if not trained:
            raise UserError(
                f"{where}: its head is a {kind}, the task's is not, and the stage that starts from it does not train; "
                "set the stage's epochs, which trains a new head"
            )
        return {name: value for name, value in params.items() if name != "classifier"}, f"head of a {kind} left out"
    if order is None:
        if not trained:
            raise UserError(
                f"{where}: its labels ({theirs}) are not the task's ({ours}), and the stage that starts from it does not "
                "train; correct id2label there, or set the stage's epochs"
            )
        return {name: value for name, value in params.items() if name != "classifier"}, f"head of ({theirs}) left out"
    if order != tuple(range(len(order))):
        return permute_head(params, order), f"head reordered from ({theirs}) to ({ours})"
    if len(labels) > 1 and only_count(config.labels) and not only_count(labels):
        return params, f"head's labels have no names ({theirs}), taken to be ({ours})"
    return params, ""


def complete(config: BertConfig, params: Params, key: jax.Array) -> tuple[Params, tuple[str, ...]]:
    """Float32 params with exactly the modules of a classifier: pooler and head are fresh where missing.

    A head of another width than ``config.num_labels`` is replaced by a fresh one; the head of a masked language
    model is dropped.

    Returns:
      The params, and the names of the modules that are freshly initialised.
    """
    shapes = jax.eval_shape(lambda: init(config, key))
    kept = {name: value for name, value in params.items() if name != MASKED_LM}
    if "classifier" in kept and kept["classifier"]["weight"].shape != shapes["classifier"]["weight"].shape:
        del kept["classifier"]
    new = tuple(name for name in shapes if name not in kept)
    # Under jit what is not asked for is not drawn: of a BERT-base that is all but the head.
    fresh = jax.jit(lambda key: {name: init(config, key)[name] for name in new})(key)
    return jax.tree.map(lambda value: jax.numpy.asarray(value, jax.numpy.float32), {**fresh, **kept}), new
