"""What does augmented data give? The same 1-bit student with and without it, for the same number of steps.

    xtc compress --config=study/augmentation:cola --workdir=runs/augmentation

Paper: XTC section 3, its third finding as we remember it (docs/method.md, section 12): augmentation helps even where training
is long. Arguments: task, bits, steps, lr, runlocal. Measured here, on CoLA: benchmarks/README.md, "Pairs
at 1 bit".
"""

from ml_collections import ConfigDict

from xtc_jax.configs.common import paper_config
from xtc_jax.recipe.schema import parse_arg, stage_config


def get_config(arg: str = "") -> ConfigDict:
    """A teacher and two students."""
    options = parse_arg(arg, task="cola", bits=1, steps=5000, lr=1e-4, runlocal=False)
    config, _ = paper_config(options.task, runlocal=options.runlocal)
    for name, augmented in (("plain", False), ("with_augmentation", True)):
        config[name] = stage_config(
            init="teacher",
            teacher="teacher",
            weight_bits=options.bits,
            augmented=augmented,
            steps=options.steps,
            warmup_steps=options.steps // 18,
            learning_rate=options.lr,
        )
        config.stages = (*config.stages, name)
    return config
