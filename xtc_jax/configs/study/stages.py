"""Does distillation need several stages? One, two and three, of the same number of epochs in all.

    xtc compress --config=study/stages:cola --workdir=runs/stages

Paper: XTC section 3, its second finding as we remember it (docs/method.md, section 12): one stage with enough budget and a
searched learning rate is as good. Two stages are BinaryBERT's (intermediate states, then logits); the three here are ours:
intermediate states, everything, logits. Arguments: task, bits, epochs (in all), lr, runlocal. Measured
here, with a smaller model: study/claims.
"""

from ml_collections import ConfigDict

from xtc_jax.configs.common import paper_config
from xtc_jax.recipe.schema import Phase, add_phases, parse_arg

_INNER, _ALL, _LOGIT = ("attention", "hidden"), ("logit", "attention", "hidden"), ("logit",)
SCHEDULES = {"one": (_ALL,), "two": (_INNER, _LOGIT), "three": (_INNER, _ALL, _LOGIT)}


def get_config(arg: str = "") -> ConfigDict:
    """A teacher and three students."""
    options = parse_arg(arg, task="cola", bits=1, epochs=18.0, lr=1e-4, runlocal=False)
    config, setting = paper_config(options.task, runlocal=options.runlocal)
    for name, schedule in SCHEDULES.items():
        phases: list[Phase] = [(losses, (1,) * len(losses), options.epochs / len(schedule), options.lr) for losses in schedule]
        shared = {"init": "teacher", "teacher": "teacher", "weight_bits": options.bits, "augmented": setting.augmented}
        config.stages = (*config.stages, *add_phases(config, f"{name}_stage", phases, **shared))
    return config
