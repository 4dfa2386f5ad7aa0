"""Which way to few bits? One-stage 2-bit, one-stage 1-bit, ternary splitting to 1 bit, and 1 bit from labels alone: same
seed, same steps.

    xtc compress --config=study/methods:cola --workdir=runs/methods

Paper: XTC section 3 (one stage, labels against distillation) and BinaryBERT (splitting). The split student spends half of
its steps ternary and half binary; its two halves take 2 bits a weight. Arguments: task, steps (of each student),
teacher_steps (0: three epochs), lr, runlocal. Measured here on CoLA with all-MiniLM-L6-v2: benchmarks/README.md.
"""

from ml_collections import ConfigDict

from xtc_jax.configs.common import paper_config
from xtc_jax.recipe.schema import parse_arg, stage_config


def get_config(arg: str = "") -> ConfigDict:
    """A teacher and four students of its depth."""
    options = parse_arg(arg, task="cola", steps=5000, teacher_steps=0, lr=1e-4, runlocal=False)
    config, _ = paper_config(options.task, runlocal=options.runlocal)
    config.teacher.steps = options.teacher_steps
    shared = {"learning_rate": options.lr, "warmup_steps": options.steps // 18, "init": "teacher"}
    taught = {**shared, "teacher": "teacher"}
    half = {**taught, "steps": options.steps // 2}
    config.one_stage_2_bit = stage_config(weight_bits=2, steps=options.steps, **taught)
    config.one_stage_1_bit = stage_config(weight_bits=1, steps=options.steps, **taught)
    config.ternary = stage_config(weight_bits=2, **half)
    config.split_1_bit = stage_config(weight_bits=1, split=True, **{**half, "init": "ternary"})
    config.labels_1_bit = stage_config(weight_bits=1, steps=options.steps, **shared)
    config.stages = ("teacher", "one_stage_2_bit", "one_stage_1_bit", "ternary", "split_1_bit", "labels_1_bit")
    return config
