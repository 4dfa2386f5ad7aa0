"""Half of the layers and 1 bit in one stage, with what won over plain 1 bit in as many steps.

    xtc compress --config=plus:mrpc --config.data.path=DIR --workdir=runs/mrpc
    xtc compress --config=plus:mrpc,steps=6000,finetuned --config.model=DIR --config.data.path=DIR --workdir=runs/mrpc-long

What won (benchmarks/README.md): a scale for each row of a weight, the training data's word pieces alone, 2 bits for 40 % of the
steps and then 1, new pairs of the same texts for tasks of two, which the teacher judges, and a rate of 1e-3. Against 1 bit with
none of this but the rows: docs/results.md, "Few layers and few bits". For a budget in minutes: ``own``.

Arguments: task, steps (of the student), teacher_epochs, layers (those kept, with ``+`` for a comma, or all), finetuned (the
checkpoint is a teacher already), runlocal.
"""

from typing import Any

from ml_collections import ConfigDict

from xtc_jax.recipe.schema import base_config, parse_arg, parse_layers, stage_config


def get_config(arg: str = "") -> ConfigDict:
    """A teacher, and its student."""
    defaults = {"task": "sst2", "steps": 4000, "teacher_epochs": 4.0, "layers": "every_other"}
    options = parse_arg(arg, **defaults, finetuned=False, runlocal=False)
    config = base_config(runlocal=options.runlocal, task=options.task)
    config.data.max_length = 0
    epochs = 0.0 if options.finetuned else options.teacher_epochs
    config.teacher = stage_config(learning_rate=1e-4, batch_size=16, epochs=epochs, warmup_epochs=epochs / 10)
    config.quantize = student(options.steps, result="quantized", layers=parse_layers(options.layers))
    config.stages = ("teacher", "quantize")
    return config


def student(steps: int, **values: Any) -> ConfigDict:
    """The stage of half of the layers at 1 bit; ``values`` are further keys of it, or others."""
    stage = {
        "init": "teacher",
        "teacher": "teacher",
        "layers": "every_other",
        "weight_bits": 1,
        "rules": "paper-50x",
        "granularity": "row",
        "vocabulary_min_count": 1,
        "bit_schedule": "2@0>1@40%",
        "new_pairs": 20_000,
        "steps": steps,
        "warmup_steps": steps // 20,
        "eval_every": -(-steps // 5),
        "batch_size": 16,
        "dropout": 0.0,
        "learning_rate": 1e-3,
    }
    return stage_config(**{**stage, **values})
