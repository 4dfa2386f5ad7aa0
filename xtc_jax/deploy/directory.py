"""``xtc export --to=onnx``: a directory in the layout of a Hugging Face ONNX repository, verified before it appears."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xtc_jax.bert import config_to_dict
from xtc_jax.deploy.card import write_card
from xtc_jax.deploy.onnx import onnx_model, saturating
from xtc_jax.deploy.onnx_graph import require
from xtc_jax.deploy.verify import Agreement, data_inputs, sample_inputs, verify_onnx
from xtc_jax.errors import UserError
from xtc_jax.formats import PackedModel, load_packed
from xtc_jax.formats.account import file_layout
from xtc_jax.formats.scratch import scratch_for

MODEL = Path("onnx") / "model.onnx"


def export_onnx(packed: Path, out: Path, data: str, log: Callable[[str], None]) -> dict[str, Agreement]:
    """Write ``onnx/model.onnx``, ``config.json``, ``tokenizer.json`` and ``tokenizer_config.json``: what transformers.js and
    optimum open. The file is run in ONNX Runtime first; one that differs from the packed model is not kept.

    Args:
      packed: a packed model directory.
      out: new directory.
      data: file, directory or ``pinned:NAME`` whose validation examples are compared; "" compares token ids drawn at random.
      log: receives a line of text about each step.

    Returns:
      The agreement, by the name of the run: optimizations off, optimizations on.

    Raises:
      UserError: ``out`` exists, ``onnx`` or ``onnxruntime`` is missing, no packed model, something that cannot be expressed,
        or logits that differ.
    """
    if out.exists():
        raise UserError(f"{out}: exists already; choose a new directory")
    require("onnx")
    require("onnxruntime")
    model = load_packed(packed)
    if wide := saturating(model):
        log(
            f"warning: {wide[0]} and {len(wide) - 1} more have 8 bits: on x86 without VNNI their products overflow "
            "in ONNX Runtime; pack with 7 bits or fewer to run there"
        )
    batches = data_inputs(model, packed, data) if data else sample_inputs(model)
    with scratch_for(out) as scratch:
        (scratch / MODEL).parent.mkdir()
        (scratch / MODEL).write_bytes(onnx_model(model, file_layout(packed)).SerializeToString())
        log(f"onnx: {(scratch / MODEL).stat().st_size:,} bytes; running it beside the packed model")
        found = verify_onnx(scratch / MODEL, model, batches)
        write_json(scratch / "config.json", _config(model, data, found))
        write_tokenizer(packed, scratch, model.max_length)
        write_card(scratch, packed, model, "onnx", found, data)
    return found


def _config(model: PackedModel, data: str, found: dict[str, Agreement]) -> dict[str, Any]:
    raw = config_to_dict(model.config, "BertForSequenceClassification")
    # transformers.js asks for an 8-bit file of its own unless it is told that this one is the model.
    raw["transformers.js_config"] = {"dtype": "fp32"}
    # What xtc serve has to know, and a BERT's config does not say.
    given = {"texts": len(model.task.text), "max_length": model.max_length, "mixes": model.mixes_inputs}
    verified = {"verified_on": data or "random token ids", **{name: asdict(each) for name, each in found.items()}}
    raw["xtc_export"] = {"input": given, **verified}
    return raw


def write_tokenizer(packed: Path, target: Path, max_length: int) -> None:
    """The tokenizer with the task's length; the file's own limits are those of the checkpoint it came from."""
    raw = json.loads((packed / "tokenizer.json").read_text())
    strategy = {"direction": "Right", "max_length": max_length, "strategy": "LongestFirst", "stride": 0}
    write_json(target / "tokenizer.json", {**raw, "truncation": strategy, "padding": None})
    file = packed / "tokenizer_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {"tokenizer_class": "BertTokenizer"}
    write_json(target / "tokenizer_config.json", {**settings, "model_max_length": max_length})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """JSON that a person can read."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
