"""Does longer training close the gap? A 1-bit student of full depth under the budgets a, b and c.

    xtc compress --config=study/budget:cola --workdir=runs/budget
    xtc report runs/budget runs/stages runs/augmentation runs/depth

Paper: XTC section 3, its first finding as we remember it (docs/method.md, section 12): most of the gap closes with enough steps
and a learning rate that decays. Arguments: task, bits, lr, runlocal. Measured
here, with a smaller model: study/claims.
"""

from ml_collections import ConfigDict

from xtc_jax.configs.common import BUDGETS, duration, paper_config, rates
from xtc_jax.recipe.schema import parse_arg, stage_config


def get_config(arg: str = "") -> ConfigDict:
    """A teacher and a student per budget; the last is the longest."""
    options = parse_arg(arg, task="cola", bits=1, lr="grid", runlocal=False)
    config, setting = paper_config(options.task, runlocal=options.runlocal)
    for budget, i in BUDGETS.items():
        name = f"budget_{budget}"
        config[name] = stage_config(
            init="teacher",
            teacher="teacher",
            weight_bits=options.bits,
            augmented=setting.augmented,
            **duration(setting.epochs[i]),
            **rates(options.lr),
        )
        config.stages = (*config.stages, name)
    return config
