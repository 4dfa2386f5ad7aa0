"""Which way to half of the layers and 1 bit, in the same steps? Scales of a matrix, a row or 64 weights; fewer bits by and by.

    xtc compress --config=study/choices:task=stsb --config.data.path=train.parquet --workdir=runs/choices

Given the training file alone, a tenth of it is held out, and nothing is chosen on validation data. All students have one
teacher and the same number of steps. Arguments: task, steps (of each student), teacher_steps, lr, seed, runlocal. Measured
here: benchmarks/study/README.md.
"""

from typing import Any

from ml_collections import ConfigDict

from xtc_jax.data import GLUE
from xtc_jax.recipe.schema import LOCAL_MODEL, base_config, parse_arg, stage_config

_FIRST = 0.3
"""Share of the steps that ``layers_first`` trains in full precision."""


def get_config(arg: str = "") -> ConfigDict:
    """A teacher and its students."""
    options = parse_arg(arg, task="stsb", steps=2000, teacher_steps=1200, lr=1e-3, seed=42, runlocal=False)
    config = base_config(runlocal=options.runlocal, model=LOCAL_MODEL, task=options.task, seed=options.seed, baselines=False)
    config.data.max_length = 0
    shared = {"batch_size": 16, "dropout": 0.0}

    def steps(count: int) -> dict[str, int]:
        return {"steps": count, "warmup_steps": count // 20, "eval_every": count}

    def student(**values: Any) -> ConfigDict:
        one = {
            "init": "teacher",
            "teacher": "teacher",
            "layers": (1, 3, 5),
            "vocabulary_min_count": 1,
            "learning_rate": options.lr,
        }
        one |= {"weight_bits": 1, "rules": "paper-50x", "granularity": "row", **steps(options.steps), **shared}
        return stage_config(**{**one, **values})

    first = round(_FIRST * options.steps)
    config.teacher = stage_config(learning_rate=1e-4, **steps(options.teacher_steps), **shared)
    config.matrix = student(granularity="tensor")
    config.row = student()
    config.group_64 = student(granularity="64")
    config.row_2_1 = student(bit_schedule="2@0>1@40%")
    config.row_8_2_1 = student(bit_schedule="8@0>2@15%>1@40%")
    config.row_2_1_pairs = student(bit_schedule="2@0>1@40%", new_pairs=20_000)
    config.layers = student(weight_bits=32, rules="deepspeed", granularity="tensor", learning_rate=2e-4, **steps(first))
    config.layers_first = student(
        init="layers", layers="", vocabulary_min_count=0, bit_schedule="2@0>1@40%", **steps(options.steps - first)
    )
    pairs = ("row_2_1_pairs",) if options.task in GLUE and len(GLUE[options.task].text) == 2 else ()
    config.stages = ("teacher", "matrix", "row", "group_64", "row_2_1", "row_8_2_1", *pairs, "layers", "layers_first")
    return config
