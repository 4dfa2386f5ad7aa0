"""``xtc benchmark epoch``: examples of real lengths per second, with all that a step needs, beside XTC's own software."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xtc_jax.benchmark.device import environment, label
from xtc_jax.benchmark.results import Benchmark
from xtc_jax.benchmark.timing import interleave, ratio
from xtc_jax.benchmark.torch_rival import TORCH, Turn, check_torch, torch_turn
from xtc_jax.bert import BertConfig, complete, with_head
from xtc_jax.compress import DistillSpec, LayerMap
from xtc_jax.data import (
    Dataset,
    find_task,
    fitted_buckets,
    fitted_length,
    load_examples,
    load_tokenizer,
    tokenize,
)
from xtc_jax.errors import UserError
from xtc_jax.formats import load_model
from xtc_jax.parallel import choose_arithmetic, make_mesh, put_batch, put_replicated
from xtc_jax.params import Params
from xtc_jax.quantize import named_rules
from xtc_jax.train import (
    Objective,
    OptimizerSpec,
    Targets,
    TeacherCache,
    init_state,
    make_optimizer,
    make_teacher_step,
    make_train_step,
    teaching,
)

_ROWS = 32
_PADDED = 128
_OURS = ("ours, later epochs", "ours, first epoch")
_COLUMNS = ("what", "examples per second", "milliseconds", "x")


def measure_epoch(
    log: Callable[[str], None],
    command: str,
    data: str,
    task: str = "sst2",
    model: str = "pinned:all-MiniLM-L6-v2",
    torch_python: str = "",
    batches: int = 8,
    rounds: int = 5,
) -> Benchmark:
    """Time the distillation of ``model`` into itself at 1 bit over the same examples of real lengths, no dropout.

    Args:
      log: receives a line of text about each step of the work.
      command: to be repeated, for the record.
      data: directory, hub id or pinned:NAME of the data.
      task: a GLUE task of single texts.
      model: name or directory of a checkpoint, teacher and student alike.
      torch_python: an interpreter with torch and DeepSpeed 0.16.4, see ``benchmarks/torch_deepspeed_step.py``; "" has none.
      batches: of 32 examples, drawn at random from the training data, that make a turn.
      rounds: how many turns each contestant takes.

    Raises:
      UserError: no such model, data or interpreter, or the script ends before it answers.
    """
    check_torch(torch_python)
    found = find_task(task)
    if len(found.text) != 1:
        raise UserError(f"--task={task}: texts of this task are pairs; name one of single texts, such as sst2 or cola")
    config, params, source = load_model(model)
    config = replace(
        with_head(config, found.labels, found.regression), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    params = complete(config, params, jax.random.key(0))[0]
    dataset = _dataset(data, task, source, batches, config)
    steps = dataset.batches_per_epoch
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contestants: dict[str, Turn] = {
            name: stack.enter_context(_turn(config, params, dataset, directory / "cache" if name == _OURS[0] else None))
            for name in _OURS
        }
        if torch_python:
            (directory / "examples.json").write_text(json.dumps(_examples(dataset)))
            for name, pad in {f"{TORCH}, padded to {_PADDED}": _PADDED, f"{TORCH}, padded to the longest": 0}.items():
                options = (f"--rows={_ROWS}", f"--examples={directory}/examples.json", f"--pad={pad}")
                contestants[name] = stack.enter_context(torch_turn(torch_python, config, params, options, steps))
        log(f"epoch: {', '.join(contestants)}; {rounds} turns of {steps} steps each, after compiling")
        times = interleave(contestants, rounds)
    ours = times[_OURS[0]]
    table = [
        {
            "what": name,
            "examples per second": len(dataset) / timing.median,
            "milliseconds": 1e3 * timing.median / steps,
            "x": ratio(timing, ours),
        }
        for name, timing in times.items()
    ]
    if not torch_python:
        table.append({"what": f"{TORCH}: not measured, --torch-python"})
    device, lengths = jax.devices()[0], dataset.tokens.lengths
    notes = (
        f"One-stage distillation at 1 bit over {len(dataset)} training examples of {task}, {lengths.mean():.1f} tokens in the "
        f"mean and {lengths.max()} at most, in batches of {_ROWS}: padding, teacher, student, optimizer; no dropout. Ours are "
        f"padded to {', '.join(map(str, dataset.buckets))}; in later epochs the teacher's outputs are read from its cache.",
        "milliseconds: of a step. x: how many times longer than ours in later epochs, the median of paired rounds.",
    )
    title = f"training at real lengths on {device.device_kind}"
    kind = f"epoch_{label(device)}"
    return Benchmark(
        kind, title, command, environment(device), _COLUMNS, tuple(table), ("milliseconds",), "milliseconds", notes
    )


def _dataset(data: str, task: str, source: Path, batches: int, config: BertConfig) -> Dataset:
    """Training examples drawn at random, in batches as ``max_length=0`` makes them of all the training data."""
    examples = load_examples(data, find_task(task), "train")
    tokenizer = load_tokenizer(source)
    lengths = tokenize(tokenizer, examples.texts, config.max_position_embeddings).lengths
    longest = fitted_length(lengths, config.max_position_embeddings)
    count = min(_ROWS * batches, len(lengths))
    chosen = np.random.default_rng(0).choice(len(lengths), count, replace=False)
    tokens = tokenize(tokenizer, [examples.texts[i] for i in chosen], longest)
    return Dataset(tokens, examples.labels[chosen], _ROWS, fitted_buckets(lengths, longest), config.pad_token_id)


def _examples(dataset: Dataset) -> list[list[int]]:
    return [dataset.tokens.input_ids[i].tolist() for i in range(len(dataset))]


@contextmanager
def _turn(config: BertConfig, params: Params, dataset: Dataset, cache: Path | None) -> Iterator[Turn]:
    """An epoch of ours; each call goes on with the state that the last one left."""
    mesh = make_mesh()
    arithmetic, layers = choose_arithmetic("auto"), LayerMap(tuple(range(config.num_hidden_layers)))
    objective = Objective(config, named_rules("deepspeed", 1), config, layers, DistillSpec(), arithmetic=arithmetic)
    optimizer = make_optimizer(OptimizerSpec(1e-5, 10_000, 0))
    step, told = make_train_step(objective, optimizer, mesh), teaching(objective)
    targets = Targets(make_teacher_step(told, mesh), put_replicated(params, mesh), mesh)
    plan = dataset.plan(0, 0)
    if cache is not None:
        targets.use(TeacherCache(cache, 1 << 40, 1 << 30, len(plan)), told, dataset, dict)
    held = [put_replicated(init_state(params, optimizer, jax.random.key(0)), mesh)]
    rate = jnp.float32(1e-5)

    def turn() -> Any:
        for planned in plan:
            rows = dataset.batch(planned)
            batch = put_batch(rows, mesh)
            held[0], losses = step(held[0], targets(rows, batch), batch, rate)
        return losses

    yield turn
    targets.close()
