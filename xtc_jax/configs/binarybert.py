"""BinaryBERT, a baseline: train ternary, split every weight in two binary ones, train those.

    xtc compress --config=binarybert:sst2 --workdir=runs/binarybert

Paper: Bai et al., ACL 2021, arXiv 2012.15701; 24 times smaller (published). Settings of its scripts (docs/method.md,
sections 3.3, 5.2 and 6.3): both parts distill in two stages, attention and hidden states at 2.5 times the learning rate and
then logits; batches of 16; 2 epochs; 1e-5 ternary and 5e-5 binary. Not taken over: the half-width DynaBERT it starts from (so
the two halves here take 2 bits a weight), learned clips of activations, and asymmetric ones. Measured here: not on
BERT-base; on all-MiniLM-L6-v2 see benchmarks/README.md.

Arguments: task, epochs (of each of the four stages), runlocal.
"""

from ml_collections import ConfigDict

from xtc_jax.configs.common import paper_config
from xtc_jax.recipe.schema import Phase, add_phases, parse_arg


def two_stages(epochs: float, learning_rate: float) -> tuple[Phase, Phase]:
    """Intermediate states first, then logits."""
    return (("attention", "hidden"), (1, 1), epochs, 2.5 * learning_rate), (("logit",), (1,), epochs, learning_rate)


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for the arguments that the docstring of this file lists."""
    options = parse_arg(arg, task="sst2", epochs=2.0, runlocal=False)
    config, _ = paper_config(options.task, runlocal=options.runlocal)
    shared = {"teacher": "teacher", "batch_size": 16, "warmup_epochs": 0.1 * options.epochs, "activation_range": "tensor"}
    ternary = add_phases(config, "ternary", two_stages(options.epochs, 1e-5), init="teacher", weight_bits=2, **shared)
    binary = add_phases(
        config,
        "binary",
        two_stages(options.epochs, 5e-5),
        result="quantized",
        init="ternary",
        split=True,
        weight_bits=1,
        **shared,
    )
    config.stages = ("teacher", *ternary, *binary)
    return config
