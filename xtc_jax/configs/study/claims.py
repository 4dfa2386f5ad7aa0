"""What XTC claims, on one task and from one teacher: budgets, stages of distillation, depth, bits, and what else has the bytes.

    xtc compress --config=study/claims:cola --config.data.path=DIR --workdir=runs/cola-42
    xtc compress --config=study/claims:cola,epochs=1+3+9,also=ways+depths+sizes --config.data.path=DIR --workdir=runs/cola-42
    xtc compress --config=study/claims:cola,finetuned --config.model=runs/cola-42/teacher/model --config.seed=43 \
      --config.data.path=DIR --workdir=runs/cola-43

Paper: XTC sections 3 and 4, its findings as we remember them (docs/method.md, section 12). The teacher is all-MiniLM-L6-v2,
which can be had without a hub, fine-tuned; the paper's is BERT-base. For each of the ``epochs`` there are three students, those
that the paper's title is about: 2 bits, 1 bit, and 1 bit with half of the layers; ``deep`` adds ``plus`` with all layers; at
last the teacher in 8 bits, without training. More in ``epochs`` or ``also`` adds others, these with the longest of the epochs,
and goes on in the same work directory. Nothing is chosen on validation data, which is looked at once, at the end of a stage.
All tasks and seeds: benchmarks/study/.

Arguments: task, epochs, also (ways, depths, sizes), deep, lr, finetuned (the checkpoint is the teacher), runlocal. Measured
here: docs/results.md.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from xtc_jax.configs import plus
from xtc_jax.errors import UserError
from xtc_jax.recipe.schema import LOCAL_MODEL, add_phases, base_config, choose, parse_arg, stage_config

EXAMPLES = {"cola": 8551, "mrpc": 3668, "stsb": 5749, "sst2": 67349}
"""Rows of the official training data of GLUE (Wang et al., 2019, arXiv 1804.07461)."""
BATCH = 16
"""Twice as many steps in an epoch as the paper's 32: half of its epochs are as many updates."""
_INNER, _LOGIT = ("attention", "hidden"), ("logit",)
_ALL = (*_LOGIT, *_INNER)
_LOGIT_RATE = 0.1
"""Of the others' rate, for a stage of the logits alone: at the whole of it their loss on CoLA's training data rose."""
SCHEDULES = {"two_stages": (_INNER, _LOGIT), "three_stages": (_INNER, _ALL, _LOGIT)}
HALF = (1, 3, 5)
DEPTHS = {4: (0, 2, 3, 5), 3: HALF, 2: (2, 5)}
_ONCE = 100_000
"""Steps between evaluations: more than a stage has, so that its last step alone evaluates."""


def get_config(arg: str = "") -> ConfigDict:
    """A teacher and its students."""
    options = parse_arg(arg, task="cola", epochs="3", also="", lr=5e-4, deep=False, finetuned=False, runlocal=False)
    choose("task", options.task, EXAMPLES)
    budgets = _numbers(options.epochs)
    config = base_config(runlocal=options.runlocal, model=LOCAL_MODEL, task=options.task)
    config.data.max_length = 0
    passes = 0.0 if options.finetuned else 1.0 if options.task == "sst2" else 4.0
    config.teacher = stage_config(learning_rate=1e-4, batch_size=BATCH, eval_every=_ONCE, **_epochs(passes))
    taught = {
        "init": "teacher",
        "teacher": "teacher",
        "batch_size": BATCH,
        "dropout": 0.0,
        "learning_rate": options.lr,
        "eval_every": _ONCE,
    }
    stages = _students(options.task, budgets, taught, options.deep)
    for also in filter(None, options.also.split("+")):
        stages |= choose("also", also, _ALSO)(budgets[-1], taught)
    config.update(stages)
    config.int8 = stage_config(init="teacher", weight_bits=8, granularity="row", epochs=0.0)
    config.stages = ("teacher", *stages, "int8")
    return config


def _numbers(text: str) -> list[float]:
    """``1+3+9``, ascending.

    Raises:
      UserError: no numbers.
    """
    try:
        return sorted(float(each) for each in text.split("+"))
    except ValueError:
        raise UserError(f"epochs={text}: use numbers with + between them, such as 1+3+9") from None


def _epochs(epochs: float) -> dict[str, float]:
    """A warm-up of one epoch, as published for 18, and of a tenth of less than ten."""
    return {"epochs": epochs, "warmup_epochs": min(1.0, epochs / 10)}


def _students(task: str, budgets: list[float], taught: dict[str, Any], deep: bool) -> dict[str, ConfigDict]:
    """Two bits, one bit, and one bit with half of the layers, for each budget."""
    made = {}
    for epochs in budgets:
        of = f"{epochs:g}"
        made[f"w2_{of}"] = stage_config(weight_bits=2, **_epochs(epochs), **taught)
        made[f"w1_{of}"] = stage_config(weight_bits=1, **_epochs(epochs), **taught)
        made[f"plus_{of}"] = _plus(task, epochs, taught, HALF)
        if deep:
            made[f"deep_{of}"] = _plus(task, epochs, taught, "")
    return made


def _plus(task: str, epochs: float, taught: dict[str, Any], layers: tuple[int, ...] | str) -> ConfigDict:
    """The student of the recipe ``plus``, at twice the others' rate and for as many steps: new pairs make its epochs longer."""
    steps = round(epochs * (EXAMPLES[task] // BATCH))
    pairs = 20_000 if task in ("mrpc", "stsb") else 0
    return plus.student(steps, **{"new_pairs": pairs, **taught, "layers": layers, "learning_rate": 2 * taught["learning_rate"]})


def _ways(epochs: float, taught: dict[str, Any]) -> dict[str, ConfigDict]:
    """Other ways to 1 bit at full depth, in as many epochs in all: several stages of losses, and BinaryBERT's splitting."""
    half = {**taught, **_epochs(epochs / 2)}
    shared = {key: value for key, value in taught.items() if key != "learning_rate"}
    made: dict[str, ConfigDict] = {}
    phased = ConfigDict()
    for name, losses in SCHEDULES.items():
        rates = [taught["learning_rate"] * (_LOGIT_RATE if each == _LOGIT else 1) for each in losses]
        phases = [(each, (1,) * len(each), epochs / len(losses), rate) for each, rate in zip(losses, rates, strict=True)]
        warmup = min(1.0, epochs / 10) / len(losses)
        made |= {each: phased[each] for each in add_phases(phased, name, phases, weight_bits=1, warmup_epochs=warmup, **shared)}
    made["ternary"] = stage_config(weight_bits=2, **half)
    made["split"] = stage_config(weight_bits=1, split=True, **{**half, "init": "ternary"})
    return made


def _depths(epochs: float, taught: dict[str, Any]) -> dict[str, ConfigDict]:
    """Layers of the fine-tuned teacher, distilled in full precision, without pre-training distillation; then in 16 bits."""
    full = {**taught, "learning_rate": 2e-4, **_epochs(epochs)}
    made = {f"layers_{depth}": stage_config(layers=kept, **full) for depth, kept in DEPTHS.items()}
    rounded = {"rules": "paper-50x", "extra_rules": (".=32",), "weight_bits": 8, "epochs": 0.0}  # these rules' rest is float16
    return made | {f"{name}_float16": stage_config(init=name, **rounded) for name in made}


def _sizes(epochs: float, taught: dict[str, Any]) -> dict[str, ConfigDict]:
    """Half of the layers with other bits and rules."""
    half = {**taught, "layers": HALF, **_epochs(epochs)}
    rows = {"rules": "paper-50x", "granularity": "row"}
    return {
        "half_w2": stage_config(weight_bits=2, **rows, **half),
        "half_w1": stage_config(weight_bits=1, **rows, **half),
        "half_w2_deepspeed": stage_config(weight_bits=2, **half),
        "half_w1_deepspeed": stage_config(weight_bits=1, **half),
    }


_ALSO: dict[str, Callable[[float, dict[str, Any]], dict[str, ConfigDict]]] = {
    "ways": _ways,
    "depths": _depths,
    "sizes": _sizes,
}
