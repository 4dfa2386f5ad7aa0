"""TernaryBERT, a baseline: ternary weights, 8-bit activations, one-stage distillation at full depth.

    xtc compress --config=ternarybert:sst2 --workdir=runs/ternarybert

Paper: Zhang et al., EMNLP 2020, arXiv 2009.12812; 14.9 times smaller (published). Settings of its code (docs/method.md,
sections 3.2, 5.2 and 6.3): weights clipped to [-2.5, 2.5] with a gradient gated there, one scale a Linear, word embeddings
row-wise, the pooler quantized too, activations per tensor over the batch, learning rate 2e-5, 3 epochs, warm-up over a tenth,
augmented data. Not taken over: 8-bit query, key, value and attention products, and BertAdam (no bias correction, clipping
per tensor). Measured here: not on BERT-base.

Arguments: task, bits=2|8, augment=yes|no, runlocal.
"""

from ml_collections import ConfigDict

from xtc_jax.configs.common import duration, paper_config
from xtc_jax.recipe.schema import choose, parse_arg, stage_config


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for the arguments that the docstring of this file lists."""
    options = parse_arg(arg, task="sst2", bits=2, augment="yes", runlocal=False)
    config, _ = paper_config(options.task, runlocal=options.runlocal)
    quantizer = choose("bits", options.bits, {2: "ternary_clipped", 8: "symmetric"})
    config.stages = ("teacher", "quantize")
    config.quantize = stage_config(
        result="quantized",
        init="teacher",
        teacher="teacher",
        weight_bits=options.bits,
        quantizer=quantizer,
        activation_range="tensor",
        extra_rules=(f"pooler/dense/weight$={options.bits},{quantizer},a8:tensor",),
        loss={"attention_norm": "ternarybert", "hidden_norm": "deepspeed"},
        augmented=choose("augment", options.augment, {"yes": True, "no": False}),
        **duration(3.0),
        learning_rate=2e-5,
    )
    return config
