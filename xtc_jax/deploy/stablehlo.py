"""``xtc export --to=stablehlo``: two serialized programs that JAX alone loads, any batch and length, for CPU and TPU.

``weights.stablehlo`` has the packed codes in it and unpacks them: called once. ``model.stablehlo`` classifies with what it
returns. One program would unpack at every call, which takes most of its time.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xtc_jax.bert import apply, config_to_dict
from xtc_jax.compress import ready
from xtc_jax.deploy.directory import exporting, write_json, write_tokenizer
from xtc_jax.deploy.onnx_graph import require
from xtc_jax.deploy.verify import Agreement, Inputs, accept, compare, packed_logits
from xtc_jax.formats import PackedModel

PROGRAMS = ("weights.stablehlo", "model.stablehlo")
PLATFORMS = ("cpu", "tpu")
README = Path(__file__).with_name("stablehlo.md")
_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def export_stablehlo(packed: Path, out: Path, data: str, log: Callable[[str], None]) -> dict[str, Agreement]:
    """Write the two programs, ``config.json``, the tokenizer and a ``README.md`` that shows how to run them.

    Args:
      packed, out, data: see :func:`xtc_jax.deploy.directory.exporting`.
      log: receives a line of text about each step.

    Returns:
      The agreement of the programs as read back from their files.

    Raises:
      UserError: ``out`` exists, flatbuffers is missing, no packed model, or logits that differ.
    """
    with exporting(packed, out, data, lambda: require("flatbuffers")) as (source, scratch):
        model = source.model
        for name, program in zip(PROGRAMS, programs(model), strict=True):
            (scratch / name).write_bytes(program)
            log(f"{name}: {len(program):,} bytes")
        agreement = compare(packed_logits(model, source.batches), stablehlo_logits(scratch, source.batches))
        found = {"StableHLO": accept(agreement, PROGRAMS[1], "StableHLO")}
        raw = config_to_dict(model.config, "BertForSequenceClassification")
        write_json(scratch / "config.json", {**raw, "xtc_export": {"jax": jax.__version__, **source.verified(found)}})
        write_tokenizer(packed, scratch, model.max_length)
        (scratch / "README.md").write_text(_readme(model))
    return found


def programs(model: PackedModel) -> tuple[bytes, bytes]:
    """The serialized programs, in the order of :data:`PROGRAMS`.

    The first takes nothing and returns a list of arrays. The second takes that list and int32 ``input_ids``,
    ``token_type_ids`` and ``attention_mask``, ``(batch, length)``, and returns float32 logits ``(batch, labels)``.
    """
    from jax import export

    @jax.jit
    def weights() -> list[jax.Array]:
        return jax.tree.leaves(_laid_out(model.params))

    structure = jax.tree.structure(jax.eval_shape(lambda: _laid_out(model.params)))

    @jax.jit
    def run(leaves: list[jax.Array], *inputs: jax.Array) -> jax.Array:
        return apply(model.config, jax.tree.unflatten(structure, leaves), *inputs).logits

    ids = jax.ShapeDtypeStruct(export.symbolic_shape("batch, length"), jnp.int32)
    unpacking = export.export(weights, platforms=PLATFORMS)()
    classifying = export.export(run, platforms=PLATFORMS)(jax.eval_shape(weights), ids, ids, ids)
    return bytes(unpacking.serialize()), bytes(classifying.serialize())


def _laid_out(params: Any) -> Any:
    """The params as XLA multiplies them on any device. The barrier keeps the compiler from unpacking what it compiles."""
    return ready(jax.lax.optimization_barrier(params), "cpu", "xla")


def stablehlo_logits(directory: Path, batches: Sequence[Inputs]) -> np.ndarray:
    """Logits ``(rows, labels)`` of the programs in a directory."""
    from jax import export

    unpack, classify = (export.deserialize(bytearray((directory / name).read_bytes())) for name in PROGRAMS)
    weights, run = jax.jit(unpack.call)(), jax.jit(classify.call)
    found = [run(weights, *(jnp.asarray(rows[name], jnp.int32) for name in _INPUTS)) for rows in batches]
    return np.concatenate([np.asarray(logits) for logits in found])


def _readme(model: PackedModel) -> str:
    labels = json.dumps(list(model.config.labels), ensure_ascii=False)
    values = {"LABELS": labels, "JAX": jax.__version__, "LENGTH": str(model.max_length)}
    text = README.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
