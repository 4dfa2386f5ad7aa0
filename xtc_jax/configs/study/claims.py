"""What XTC claims, on one task and from one teacher: budgets, stages of distillation, depth, bits, and what else has the bytes.

    xtc compress --config=study/claims:cola --config.data.path=DIR --workdir=runs/claims/cola-42
    xtc compress --config=study/claims:cola,all --config.data.path=DIR --workdir=runs/claims/cola-42

Paper: XTC sections 3 and 4, its findings as we remember them (docs/method.md, section 12). The teacher is all-MiniLM-L6-v2,
which can be had without a hub, fine-tuned; the paper's is BERT-base. By default the three students that its title is about: 2
bits, 1 bit, and 1 bit with half of the layers. ``all`` adds the others, and goes on in the same work directory. All tasks and
seeds: benchmarks/study/. Arguments: task, epochs (0: the longest of :data:`EPOCHS`), lr, all, runlocal. Measured here: not yet.
"""

from typing import Any

from ml_collections import ConfigDict

from xtc_jax.recipe.schema import LOCAL_MODEL, add_phases, base_config, choose, parse_arg, stage_config

EPOCHS = {"cola": (1, 3, 9, 18), "mrpc": (1, 3, 9, 18), "stsb": (1, 3, 9, 18), "sst2": (1, 3)}
"""Budgets by task: the paper's for the small ones, a fraction of them for SST-2, whose epoch is as long as eight of CoLA's."""
_INNER, _LOGIT = ("attention", "hidden"), ("logit",)
_ALL = (*_LOGIT, *_INNER)
SCHEDULES = {"two_stages": (_INNER, _LOGIT), "three_stages": (_INNER, _ALL, _LOGIT)}
HALF = (1, 3, 5)
DEPTHS = {4: (0, 2, 3, 5), 3: HALF, 2: (2, 5)}


def get_config(arg: str = "") -> ConfigDict:
    """A teacher and its students."""
    options = parse_arg(arg, task="cola", epochs=0.0, lr=5e-4, all=False, runlocal=False)
    budgets = choose("task", options.task, EPOCHS)
    epochs = options.epochs or float(budgets[-1])
    config = base_config(runlocal=options.runlocal, model=LOCAL_MODEL, task=options.task)
    config.data.max_length = 0
    config.teacher = stage_config(epochs=5.0, warmup_epochs=0.5, learning_rate=1e-4, batch_size=16, eval_every=500)
    taught = {"init": "teacher", "teacher": "teacher", "batch_size": 16, "dropout": 0.0, "learning_rate": options.lr}
    small = {**taught, "layers": HALF, "rules": "paper-50x", "granularity": "row"}
    stages = {
        "w2": stage_config(weight_bits=2, **_epochs(epochs), **taught),
        "w1": stage_config(weight_bits=1, **_epochs(epochs), **taught),
    }
    if options.all:
        stages |= (
            _budgets(budgets[:-1], taught) | _depths(epochs, taught) | _splits(epochs, taught) | _sizes(epochs, taught, small)
        )
    stages["half_w1"] = stage_config(weight_bits=1, **_epochs(epochs), **small)
    config.update(stages)
    schedules = SCHEDULES if options.all else {}
    phases = [name for schedule in schedules.items() for name in _schedule(config, *schedule, epochs, taught)]
    config.stages = ("teacher", *list(stages)[:-1], *phases, "half_w1")
    return config


def _epochs(epochs: float) -> dict[str, float]:
    """A warm-up of one epoch, as published for 18, and of a tenth of less than ten."""
    return {"epochs": epochs, "warmup_epochs": min(1.0, epochs / 10)}


def _budgets(budgets: tuple[int, ...], taught: dict[str, Any]) -> dict[str, ConfigDict]:
    """Under-training: full depth, shorter budgets."""
    return {
        f"w{bits}_epochs_{epochs}": stage_config(weight_bits=bits, **_epochs(epochs), **taught)
        for bits in (2, 1)
        for epochs in budgets
    }


def _depths(epochs: float, taught: dict[str, Any]) -> dict[str, ConfigDict]:
    """Layers taken from the fine-tuned teacher and distilled, in full precision: no pre-training distillation."""
    return {f"layers_{depth}": stage_config(layers=kept, **_epochs(epochs), **taught) for depth, kept in DEPTHS.items()}


def _splits(epochs: float, taught: dict[str, Any]) -> dict[str, ConfigDict]:
    """BinaryBERT's way to 1 bit, in as many steps as one stage has."""
    half = {**taught, **_epochs(epochs / 2)}
    return {
        "ternary": stage_config(weight_bits=2, **half),
        "split_w1": stage_config(weight_bits=1, split=True, **{**half, "init": "ternary"}),
    }


def _sizes(epochs: float, taught: dict[str, Any], small: dict[str, Any]) -> dict[str, ConfigDict]:
    """Half of the layers at other bits and rules, and the teacher in 8 bits without training."""
    deepspeed = {**taught, "layers": HALF}
    return {
        "half_w2": stage_config(weight_bits=2, **_epochs(epochs), **small),
        "half_w2_deepspeed": stage_config(weight_bits=2, **_epochs(epochs), **deepspeed),
        "half_w1_deepspeed": stage_config(weight_bits=1, **_epochs(epochs), **deepspeed),
        "int8": stage_config(weight_bits=8, granularity="row", **{**taught, "teacher": ""}, epochs=0.0),
    }


def _schedule(
    config: ConfigDict, name: str, losses: tuple[tuple[str, ...], ...], epochs: float, taught: dict[str, Any]
) -> tuple[str, ...]:
    """Distillation in several stages, of as many epochs in all; names of the stages."""
    shared = {key: value for key, value in taught.items() if key != "learning_rate"}
    phases = [(each, (1,) * len(each), epochs / len(losses), taught["learning_rate"]) for each in losses]
    return add_phases(config, name, phases, weight_bits=1, warmup_epochs=min(1.0, epochs / 10) / len(losses), **shared)
