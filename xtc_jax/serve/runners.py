"""What a server runs: a packed model by xtc_jax, or an exported one by ONNX Runtime, behind one face."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xtc_jax.errors import UserError

Texts = Sequence[tuple[str, ...]]
ONNX_MODEL = Path("onnx") / "model.onnx"


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
    from xtc_jax.deploy.verify import runtime_session

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
    session = runtime_session(directory / ONNX_MODEL, optimized=True)

    def logits(given: Texts) -> np.ndarray:
        tokens = tokenize(tokenizer, given, max_length)
        longest = int(tokens.lengths.max())
        ids = np.full((len(given), longest), config.pad_token_id, np.int64)
        types, mask = np.zeros_like(ids), np.arange(longest) < tokens.lengths[:, None]
        for row, (pieces, segments) in enumerate(zip(tokens.input_ids, tokens.token_type_ids, strict=True)):
            ids[row, : len(pieces)], types[row, : len(pieces)] = pieces, segments
        inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types}
        return session.run(["logits"], inputs)[0]

    def warm_up(_: int) -> int:
        logits([("",) * texts])  # any shape will do: nothing is compiled for one
        return 1

    return Runner("onnx", config.labels, config.regression, texts, max_length, merges, logits, warm_up)


RUNNERS = {"jax": packed_runner, "onnx": onnx_runner}
