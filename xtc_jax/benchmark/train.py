"""``xtc benchmark train``: the step of one-stage distillation, in int8, in floats, and in the software XTC was written in."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xtc_jax.benchmark.device import environment, label
from xtc_jax.benchmark.results import Benchmark
from xtc_jax.benchmark.timing import interleave, ratio
from xtc_jax.benchmark.torch_rival import TORCH, Turn, check_torch, torch_turn
from xtc_jax.bert import BertConfig, complete
from xtc_jax.compress import DistillSpec, LayerMap
from xtc_jax.devices import Arithmetic
from xtc_jax.formats import load_model
from xtc_jax.parallel import choose_arithmetic, make_mesh, put_batch, put_replicated
from xtc_jax.params import Params
from xtc_jax.quantize import named_rules
from xtc_jax.train import Objective, OptimizerSpec, init_state, make_optimizer, make_taught_step

_TURN = 4
"""Steps of a contestant in its turn: so that what another one left in the caches is soon gone."""
_OURS: Mapping[str, Arithmetic] = {
    "ours, native forward": "native",
    "ours, int8 forward": "int8",
    "ours, float forward": "float",
}
_COLUMNS = ("what", "steps per second", "milliseconds", "x")


def measure_train(
    log: Callable[[str], None],
    command: str,
    model: str = "pinned:all-MiniLM-L6-v2",
    torch_python: str = "",
    rows: int = 32,
    length: int = 64,
    rounds: int = 9,
) -> Benchmark:
    """Time the step that distils ``model`` into itself at 1 bit: no dropout, one batch of random tokens, the same for all.

    Args:
      log: receives a line of text about each step of the work.
      command: to be repeated, for the record.
      model: name or directory of a checkpoint, teacher and student alike.
      torch_python: an interpreter with torch and DeepSpeed 0.16.4, see ``benchmarks/torch_deepspeed_step.py``; "" has none.
      rows, length: of the batch.
      rounds: how many turns each contestant takes, of four steps each.

    Raises:
      UserError: no such model or interpreter, or the script ends before it answers.
    """
    check_torch(torch_python)
    config, found, _ = load_model(model)
    config = BertConfig(**{**config.__dict__, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    params = complete(config, found, jax.random.key(0))[0]
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (rows, length)).astype(np.int32)
    kinds = {name: kind for name, kind in _OURS.items() if kind != "native" or choose_arithmetic("auto") == "native"}
    contestants: dict[str, Turn] = {name: _turn(config, params, ids, kind) for name, kind in kinds.items()}
    with ExitStack() as stack:
        if torch_python:
            shape = (f"--rows={rows}", f"--length={length}")
            contestants[TORCH] = stack.enter_context(torch_turn(torch_python, config, params, shape, _TURN))
        log(f"train: {', '.join(contestants)}; {rounds} turns of {_TURN} steps each, after compiling")
        times = interleave(contestants, rounds)
    first = next(iter(kinds))
    ours = times[first]
    table = [
        {
            "what": name,
            "steps per second": _TURN / timing.median,
            "milliseconds": 1e3 * timing.median / _TURN,
            "x": ratio(timing, ours),
        }
        for name, timing in times.items()
    ]
    if not torch_python:
        table.append({"what": f"{TORCH}: not measured, --torch-python"})
    device = jax.devices()[0]
    notes = (
        f"A step of one-stage distillation: teacher and student of {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{rows} x {length}, no dropout; the student at 1 bit, 8-bit activations; losses on logits, attention, hidden states.",
        f"x: how many times longer than {first}, the median of paired rounds.",
    )
    title = f"training step on {device.device_kind}"
    return Benchmark(
        f"train_{label(device)}",
        title,
        command,
        environment(device),
        _COLUMNS,
        tuple(table),
        ("milliseconds",),
        "milliseconds",
        notes,
    )


def _turn(config: BertConfig, params: Params, ids: np.ndarray, arithmetic: Arithmetic) -> Turn:
    """Some steps of ours; each call goes on with the state that the last one left."""
    layers = LayerMap(tuple(range(config.num_hidden_layers)))
    rules = named_rules("deepspeed", 1)
    objective = Objective(config, rules, config, layers, DistillSpec(), arithmetic=arithmetic)
    optimizer = make_optimizer(OptimizerSpec(1e-5, 10_000, 0))
    mesh = make_mesh()
    step = make_taught_step(objective, optimizer, mesh)
    teacher = put_replicated(params, mesh)
    ones = np.ones(len(ids), np.int32)
    batch = {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": 0 * ids + 1, "labels": ones, "valid": ones > 0}
    placed, rate = put_batch(batch, mesh), jnp.float32(1e-5)
    held = [put_replicated(init_state(params, optimizer, jax.random.key(0)), mesh)]

    def turn() -> Any:
        for _ in range(_TURN):
            held[0], losses = step(held[0], teacher, placed, rate)
        return losses

    return turn
