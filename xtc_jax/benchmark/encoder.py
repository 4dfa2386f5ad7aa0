"""``xtc benchmark encoder``: a whole classifier, packed and in other forms, and ONNX Runtime beside it."""

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xtc_jax.benchmark.device import environment, label, peaks
from xtc_jax.benchmark.onnx_encoder import dynamic_int8, onnx_model, session
from xtc_jax.benchmark.results import Benchmark
from xtc_jax.benchmark.timing import interleave, ratio
from xtc_jax.bert import BertConfig, apply, init
from xtc_jax.compress import pack, ready
from xtc_jax.data import GLUE
from xtc_jax.deploy.onnx import onnx_model as exported_model
from xtc_jax.devices import Peaks
from xtc_jax.formats import PackedModel
from xtc_jax.kernels import choose
from xtc_jax.params import Params
from xtc_jax.quantize import named_rules

SIZES = ((1, 16), (1, 32), (1, 128), (8, 128))
"""``(batch, length)``."""
SENTENCES = (10, 15, 19, 22, 25, 28, 31, 35, 39, 46)
"""Tokens of real sentences: the 5th, 15th, … 95th percentile of the quick start's 1,042 validation sentences."""
_FLOAT32, _BFLOAT16, _ORT, _ORT_INT8 = "ours float32", "ours bfloat16", "ONNX Runtime float32", "ONNX Runtime int8"
_BITS = (1, 2)
_PACKED = tuple(f"ours {bits} bit" for bits in _BITS)
_EXPORTED, _EXPORTED_RATIO = "exported 1 bit", "exported x ONNX Runtime int8"
_UNPACKED = tuple(f"{name}, xla" for name in _PACKED)
_TIMES = (*_PACKED, *_UNPACKED, _FLOAT32, _BFLOAT16, _ORT, _ORT_INT8, _EXPORTED)
_ROOFLINE = "roofline"
_MIB = tuple(f"MiB {name}" for name in (_PACKED[0], _UNPACKED[0], _FLOAT32))
_RATIOS = {f"x {name}": name for name in (_UNPACKED[0], _FLOAT32, _BFLOAT16, _ORT, _ORT_INT8)}
_NOTES = (
    "Milliseconds of a forward pass, medians; x: how many times faster the 1-bit model is, the median of paired rounds.",
    "Random weights. Packed: rule set paper-50x, 8-bit activations. ONNX Runtime int8: its own quantize_dynamic; exported: the "
    "1-bit model as xtc export --to=onnx writes it, in ONNX Runtime too. Of several lengths: the mean of single sentences.",
)
Forward = Callable[[Params, jax.Array, jax.Array, jax.Array], jax.Array]


def measure_encoder(
    log: Callable[[str], None],
    command: str,
    config: BertConfig | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
    rounds: int = 15,
    sentences: Sequence[int] = (),
) -> Benchmark:
    """Time the forms of one classifier in turn.

    Args:
      log: receives a line of text about each step of the work.
      command: to be repeated, for the record.
      config: shape of the BERT; BERT-base where there is none.
      sizes: pairs ``(batch, length)`` to time.
      rounds: how many turns each contestant takes.
      sentences: lengths of single sentences, one after the other; a row of their mean, of the 1-bit model and its rivals.
    """
    config, device = config or BertConfig(), jax.devices()[0]
    log(f"encoder: {config.num_hidden_layers} layers of {config.hidden_size}, random weights, packed with 2 and 1 bit")
    params = jax.jit(functools.partial(init, config))(jax.random.key(0))
    packed, backend = _packed_forms(params, device.device_kind)
    best = peaks(device)
    sessions, missing = _sessions(config, params, log)
    resident = {name: _mebibytes(form) for name, form in {**packed, _FLOAT32: params}.items()}
    rows = []
    for batch, lengths in [*((batch, (length,)) for batch, length in sizes), *([(1, tuple(sentences))] if sentences else [])]:
        log(f"encoder: {batch} x {', '.join(map(str, lengths))}")
        forms = (
            {_FLOAT32: params, **packed}
            if len(lengths) == 1
            else {n: packed[n] for n in (_PACKED[0], _UNPACKED[0]) if n in packed}
        )
        row = _row(config, forms, sessions, (batch, lengths), rounds)
        bound = 1e3 * sum(roofline(config, batch, each, best) for each in lengths) / len(lengths) if best else None
        rows.append(
            row | {_ROOFLINE: bound} | {f"MiB {name}": size for name, size in resident.items() if f"MiB {name}" in _MIB}
        )
    title = f"{config.num_hidden_layers}-layer encoder, hidden size {config.hidden_size}, on {device.device_kind}"
    times = tuple(name for name in _TIMES if name in packed or name not in _UNPACKED)
    columns = (
        "batch",
        "length",
        *times,
        _ROOFLINE,
        *(name for name, other in _RATIOS.items() if other in times),
        _EXPORTED_RATIO,
        *_MIB,
    )
    sizes_told = ", ".join(f"{name} {size:.1f}" for name, size in resident.items())
    kinds = f"ours: {backend}.", f"Weights of the layers in memory, MiB: {sizes_told}."
    notes = (
        *_NOTES,
        *kinds,
        *missing,
        *((f"roofline: of the 2-bit model by int8 instructions; peaks: {best.source}.",) if best else ()),
    )
    return Benchmark(
        f"encoder_{label(device)}", title, command, environment(device), columns, tuple(rows), times, "milliseconds", notes
    )


def _packed_forms(params: Params, device_kind: str) -> tuple[dict[str, Params], str]:
    """The packed models, for the backend that is chosen here and, where that is another, for ``xla``; the choice in words."""
    forms = {bits: pack(params, named_rules("paper-50x", bits)) for bits in _BITS}
    weight = forms[1]["encoder"]["layer_0"]["attention"]["self"]["query"]["weight"]
    choice = choose(weight, device_kind)
    found = {name: ready(forms[bits]) for name, bits in zip(_PACKED, _BITS, strict=True)}
    if choice.backend != "xla":
        found |= {name: ready(forms[bits], backend="xla") for name, bits in zip(_UNPACKED, _BITS, strict=True)}
    return found, f"{choice.backend}, {choice.why}"


def _mebibytes(form: Params) -> float:
    """What the layers of a form hold in memory, MiB."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(form["encoder"])) / 2**20


def roofline(config: BertConfig, batch: int, length: int, best: Peaks) -> float:
    """Seconds that the 2-bit encoder takes at least: its Linears in int8, the packed codes read once; then attention's two
    products in float32, 2 x 2 x length x hidden operations a token and layer. All else is taken to be free.
    """
    c, tokens = config, batch * length
    weights = c.num_hidden_layers * (4 * c.hidden_size**2 + 2 * c.hidden_size * c.intermediate_size)
    attention = 4 * c.num_hidden_layers * tokens * length * c.hidden_size
    return best.seconds("int8", 2 * tokens * weights, weights / 4) + best.seconds("float32", attention, 0)


def _sessions(config: BertConfig, params: Params, log: Callable[[str], None]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What ONNX Runtime has to offer, and a note where it has nothing."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return {}, ("ONNX Runtime is not installed: pip install 'xtc_jax[benchmark]'.",)
    log("encoder: the same model for ONNX Runtime, and its int8 form")
    model = onnx_model(config, jax.tree.map(np.asarray, params))
    packed = PackedModel(config, pack(params, named_rules("paper-50x", 1)), GLUE["sst2"], config.max_position_embeddings)
    return {_ORT: session(model), _ORT_INT8: session(dynamic_int8(model)), _EXPORTED: session(exported_model(packed))}, ()


def _row(
    config: BertConfig, forms: Mapping[str, Params], sessions: Mapping[str, Any], size: tuple[int, tuple[int, ...]], rounds: int
) -> dict[str, Any]:
    """All forms, in turn, on batches of random tokens without padding, one of each length; the mean of the batches."""
    batch, lengths = size
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, config.vocab_size, (batch, length)).astype(np.int32) for length in lengths]
    inputs = [(ids, np.zeros_like(ids), np.ones_like(ids)) for ids in texts]
    arrays = [tuple(jnp.asarray(each) for each in text) for text in inputs]
    float32, bfloat16 = _forward(config, jnp.float32), _forward(config, jnp.bfloat16)
    contestants: dict[str, Callable[[], Any]] = {
        name: functools.partial(_each, functools.partial(float32, form), arrays) for name, form in forms.items()
    }
    if _FLOAT32 in forms:
        contestants[_BFLOAT16] = functools.partial(_each, functools.partial(bfloat16, forms[_FLOAT32]), arrays)
    for name, run in sessions.items():
        contestants[name] = functools.partial(_each, run, inputs)
    found = interleave(contestants, rounds)
    ours = found[next(iter(_PACKED))]
    row: dict[str, Any] = {"batch": batch, "length": lengths[0] if len(lengths) == 1 else f"{min(lengths)} to {max(lengths)}"}
    row |= {name: 1e3 * timing.median / len(lengths) for name, timing in found.items()}
    row |= {name: ratio(found[other], ours) for name, other in _RATIOS.items() if other in found}
    return row | ({_EXPORTED_RATIO: ratio(found[_ORT_INT8], found[_EXPORTED])} if _EXPORTED in found else {})


def _each(run: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """One text after the other; the answer to one is there before the next is asked, as for a user who waits."""
    return [jax.block_until_ready(run(*text)) for text in inputs]


def _forward(config: BertConfig, dtype: Any) -> Forward:
    return jax.jit(lambda params, ids, types, mask: apply(config, params, ids, types, mask, dtype=dtype).logits)
