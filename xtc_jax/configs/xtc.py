"""XTC as the paper has it: fewer layers, one-stage distillation with enough budget, 1 or 2 bits, best of a learning-rate grid.

    xtc compress --config=xtc:cola --workdir=runs/cola
    xtc compress --config=xtc:task=mnli,layers=5,bits=1,budget=c,lr=grid --workdir=runs/mnli
    xtc compress --config=xtc:mrpc,finetuned --config.model=DIR --config.data.path=DIR --workdir=runs/mrpc

Paper: Wu et al., NeurIPS 2022, arXiv 2206.01859. Published for BERT-base, W1A8: MNLI-m/mm 84.1/84.0 at 12 layers, 82.9/83.6
at 6, 82.8/83.2 at 5, of a teacher with 84.9/85.6; average of GLUE 83.44 of 83.95 at 12 layers. 18 minutes an epoch of MNLI
on one A100 (published, 6 layers). Budgets a, b and c and the grid: see xtc_jax/configs/common.py. Measured here: not on
BERT-base (no accelerator); on all-MiniLM-L6-v2 see benchmarks/README.md.

Arguments: task, layers=12|6|5|4|3, bits=1|2, budget=a|b|c, lr=grid or a number, rules=paper-50x|deepspeed, augment=task|yes|no,
finetuned (the checkpoint is a teacher already), runlocal.
"""

from ml_collections import ConfigDict

from xtc_jax.configs.common import BUDGETS, LAYERS, duration, paper_config, rates
from xtc_jax.recipe.schema import choose, parse_arg, stage_config


def get_config(arg: str = "") -> ConfigDict:
    """The recipe; 12 layers skip the reduction."""
    defaults = {"task": "sst2", "layers": 6, "bits": 1, "budget": "c", "lr": "grid", "rules": "paper-50x", "augment": "task"}
    options = parse_arg(arg, **defaults, finetuned=False, runlocal=False)
    config, setting = paper_config(options.task, runlocal=options.runlocal, finetuned=options.finetuned)
    layers, budget = choose("layers", options.layers, LAYERS), choose("budget", options.budget, BUDGETS)
    augmented = choose("augment", options.augment, {"task": setting.augmented, "yes": True, "no": False})
    distilled = {"teacher": "teacher", "augmented": augmented, **rates(options.lr)}
    if layers:
        epochs = setting.reduce_epochs if options.budget == "c" else setting.epochs[budget]
        config.reduce = stage_config(result="reduced", init="teacher", layers=layers, **duration(epochs), **distilled)
    config.quantize = stage_config(
        result="quantized",
        init="reduce" if layers else "teacher",
        weight_bits=options.bits,
        rules=options.rules,
        **duration(setting.epochs[budget]),
        **distilled,
    )
    config.stages = ("teacher", "reduce", "quantize") if layers else ("teacher", "quantize")
    return config
