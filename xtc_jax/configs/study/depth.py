"""How few layers? Students of 6, 5, 4 and 3 layers, reduced and then quantized to 1 bit.

    xtc compress --config=study/depth:cola --workdir=runs/depth

Paper: XTC section 4, its fourth and fifth findings as we remember them (docs/method.md, section 12): layers taken from the
fine-tuned teacher match pre-training distillation, and extreme quantization composes with it. Published for MNLI-m, W1A8:
84.1 (12 layers), 82.9 (6), 82.8 (5). Arguments: task, bits, budget, lr, runlocal. Measured
here, with a smaller model: study/claims.
"""

from ml_collections import ConfigDict

from xtc_jax.configs.common import BUDGETS, LAYERS, duration, paper_config, rates
from xtc_jax.recipe.schema import choose, parse_arg, stage_config


def get_config(arg: str = "") -> ConfigDict:
    """A teacher, and two stages per depth."""
    options = parse_arg(arg, task="cola", bits=1, budget="c", lr="grid", runlocal=False)
    config, setting = paper_config(options.task, runlocal=options.runlocal)
    epochs = setting.epochs[choose("budget", options.budget, BUDGETS)]
    shared = {"teacher": "teacher", "augmented": setting.augmented, **duration(epochs), **rates(options.lr)}
    for depth, layers in LAYERS.items():
        if layers:
            reduced, quantized = f"layers_{depth}", f"layers_{depth}_quantized"
            config[reduced] = stage_config(init="teacher", layers=layers, **shared)
            config[quantized] = stage_config(init=reduced, weight_bits=options.bits, **shared)
            config.stages = (*config.stages, reduced, quantized)
    return config
