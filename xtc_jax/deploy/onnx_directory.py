"""``xtc export --to=onnx``: a directory in the layout of a Hugging Face ONNX repository, verified before it appears."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from xtc_jax.bert import config_to_dict
from xtc_jax.deploy.card import write_card
from xtc_jax.deploy.directory import Source, exporting, write_json, write_tokenizer
from xtc_jax.deploy.onnx import onnx_model, saturating
from xtc_jax.deploy.onnx_graph import require
from xtc_jax.deploy.verify import Agreement, verify_onnx
from xtc_jax.formats.account import file_layout

MODEL = Path("onnx") / "model.onnx"


def export_onnx(packed: Path, out: Path, data: str, log: Callable[[str], None]) -> dict[str, Agreement]:
    """Write ``onnx/model.onnx``, ``config.json``, ``tokenizer.json`` and ``tokenizer_config.json``: what transformers.js and
    optimum open. The file is run in ONNX Runtime first; one that differs from the packed model is not kept.

    Args:
      packed, out, data: see :func:`xtc_jax.deploy.directory.exporting`.
      log: receives a line of text about each step.

    Returns:
      The agreement, by the name of the run: optimizations off, optimizations on.

    Raises:
      UserError: ``out`` exists, ``onnx`` or ``onnxruntime`` is missing, no packed model, something that cannot be expressed,
        or logits that differ.
    """
    with exporting(packed, out, data, require_onnx) as (source, scratch):
        return write_onnx(source, scratch, log)


def require_onnx() -> None:
    """Check that ``onnx`` and ``onnxruntime`` are there.

    Raises:
      UserError: one of them is not installed.
    """
    require("onnx")
    require("onnxruntime")


def write_onnx(source: Source, target: Path, log: Callable[[str], None]) -> dict[str, Agreement]:
    """What :func:`export_onnx` writes, into an empty directory; returns and raises what it does."""
    model = source.model
    if wide := saturating(model):
        log(
            f"warning: {wide[0]} and {len(wide) - 1} more have 8 bits: on x86 without VNNI their products overflow "
            "in ONNX Runtime; pack with 7 bits or fewer to run there"
        )
    (target / MODEL).parent.mkdir()
    (target / MODEL).write_bytes(onnx_model(model, file_layout(source.packed)).SerializeToString())
    log(f"onnx: {(target / MODEL).stat().st_size:,} bytes; running it beside the packed model")
    found = verify_onnx(target / MODEL, model, source.batches)
    write_json(target / "config.json", _config(source, found))
    write_tokenizer(source.packed, target, model.max_length)
    write_card(target, source.packed, model, "onnx", found, source.data)
    return found


def _config(source: Source, found: dict[str, Agreement]) -> dict[str, Any]:
    model = source.model
    raw = config_to_dict(model.config, "BertForSequenceClassification")
    # transformers.js asks for an 8-bit file of its own unless it is told that this one is the model.
    raw["transformers.js_config"] = {"dtype": "fp32"}
    # What xtc serve has to know, and a BERT's config does not say.
    given = {"texts": len(model.task.text), "max_length": model.max_length, "mixes": model.mixes_inputs}
    raw["xtc_export"] = {"input": given, **source.verified(found)}
    return raw
