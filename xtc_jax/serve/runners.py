"""What a server runs: a packed model by xtc_jax, or an exported one by ONNX Runtime, behind one face."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xtc_jax.errors import UserError

if TYPE_CHECKING:
    from xtc_jax.data import Tokens

Texts = Sequence[tuple[str, ...]]
ONNX_MODEL = Path("onnx") / "model.onnx"
_TOGETHER = 8
"""Inputs that several threads of ONNX Runtime run at once; more of them are padded to the longest for little."""


@dataclass(frozen=True)
class Runner:
    """A model that is ready.

    Attributes:
      runtime: ``jax`` or ``onnx``.
      labels: class names in the order of their ids; one name for a regression.
      regression: it rates, and has no classes.
      texts: texts of an input: 1, or 2 for a pair.
      max_length: tokens that an input is cut to.
      merges: inputs of different requests may share a batch. Not where an activation's range is that of the whole batch: there
        an answer depends on its neighbours.
      logits: of tuples of texts, float32 ``(inputs, labels)``; called by one thread alone.
      warm_up: runs every shape of a batch of up to so many inputs, and returns how many there are.
    """

    runtime: str
    labels: tuple[str, ...]
    regression: bool
    texts: int
    max_length: int
    merges: bool
    logits: Callable[[Texts], np.ndarray]
    warm_up: Callable[[int], int]


def packed_runner(directory: Path) -> Runner:
    """The packed model of a directory, on the first device.

    Raises:
      UserError: see :func:`xtc_jax.inference.load_predictor`.
    """
    from xtc_jax.inference.predictor import load_predictor, text_logits, warm_up

    predictor = load_predictor(directory)
    model = predictor.model
    return Runner(
        "jax",
        model.config.labels,
        model.config.regression,
        len(model.task.text),
        model.max_length,
        not model.mixes_inputs,
        lambda texts: text_logits(predictor, texts),
        lambda most: warm_up(predictor, most),
    )


def onnx_runner(directory: Path) -> Runner:
    """The ONNX model that ``xtc export --to=onnx`` wrote, on the processor.

    Raises:
      UserError: ONNX Runtime is missing, or the directory is no such export.
    """
    from xtc_jax.bert import config_from_dict
    from xtc_jax.data import load_tokenizer, tokenize
    from xtc_jax.deploy.onnx_graph import require

    require("onnxruntime")
    file = directory / "config.json"
    try:
        raw = json.loads(file.read_text())
        served = raw["xtc_export"]["input"]
        texts, max_length, merges = int(served["texts"]), int(served["max_length"]), not served["mixes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{directory}: not an ONNX export; 'xtc export PACKED {directory} --to=onnx' writes one") from None
    config, tokenizer = config_from_dict(raw, str(file)), load_tokenizer(directory)
    if not (directory / ONNX_MODEL).is_file():
        raise UserError(f"{directory / ONNX_MODEL}: no such file")
    threads = 1 if processors() <= 2 else 0
    session = _session(directory / ONNX_MODEL, threads)
    together = (1 if threads == 1 else _TOGETHER) if merges else sys.maxsize  # one thread gains nothing by padding

    def run(tokens: "Tokens", rows: np.ndarray) -> np.ndarray:
        longest = int(tokens.lengths[rows].max())
        ids = np.full((len(rows), longest), config.pad_token_id, np.int64)
        types, mask = np.zeros_like(ids), np.arange(longest) < tokens.lengths[rows, None]
        for i, row in enumerate(rows):
            ids[i, mask[i]], types[i, mask[i]] = tokens.input_ids[row], tokens.token_type_ids[row]
        inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types}
        return session.run(["logits"], inputs)[0]

    def logits(given: Texts) -> np.ndarray:
        tokens = tokenize(tokenizer, given, max_length)
        order = np.argsort(tokens.lengths, kind="stable")  # texts of similar length together: less padding
        found = np.empty((len(given), config.num_labels), np.float32)
        for start in range(0, len(order), together):
            rows = order[start : start + together]
            found[rows] = run(tokens, rows)
        return found

    def warm_up(_: int) -> int:
        logits([("",) * texts])  # any shape will do: nothing is compiled for one
        return 1

    return Runner("onnx", config.labels, config.regression, texts, max_length, merges, logits, warm_up)


def _session(file: Path, threads: int) -> Any:
    """All optimizations; threads that have nothing to do sleep, for the event loop needs the processor too.

    ``threads`` 0 is ONNX Runtime's own choice. On two processors it is better 1: with two, each operator of a small model wakes
    the other thread and waits for it, and the event loop waits as well (docs/serving.md has what was measured).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


RUNNERS = {"jax": packed_runner, "onnx": onnx_runner}
