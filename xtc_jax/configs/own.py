"""Your own data, in the time you have: half the layers and 1 bit by default, and as many steps as fit into the minutes.

    xtc compress --config=own:minutes=30 --config.data.path=reviews.csv --workdir=runs/reviews

Nothing but the time is asked for. The length that texts are cut to, and padded to, comes from the data; how many steps each
stage gets from how long a step takes here; the learning rates from the width of the model. A stage that no longer gains ends,
and those after it have its time. Started again with more minutes, the same command goes on where it was.
"""

from ml_collections import ConfigDict

from xtc_jax.errors import UserError
from xtc_jax.recipe.schema import base_config, parse_arg, parse_layers, stage_config


def get_config(arg: str = "") -> ConfigDict:
    """The recipe; argument ``task=own,minutes=30,layers=every_other,bits=1,runlocal``.

    ``layers`` are those kept, as of a stage, with ``+`` for a comma: ``layers=1+3+5``; ``all`` keeps all.
    """
    options = parse_arg(arg, task="own", minutes=30.0, layers="every_other", bits=1, runlocal=False)
    if options.bits not in (1, 2):
        raise UserError(f"bits={options.bits}: use 1 or 2")
    config = base_config(runlocal=options.runlocal, task=options.task, minutes=options.minutes)
    config.data.max_length = 0
    config.stages = ("teacher", "reduce", "quantize")
    # A student is hardly ever better than its teacher: in the quick start the teacher has half of the time.
    # Small data is seen often: the teacher, which learns from labels, has dropout and ends before it learns them by heart.
    shared = {"batch_size": 16, "patience": 5}
    config.teacher = stage_config(share=40.0, most_epochs=8.0, learning_rate=1e-4, **shared)
    # A few thousand pairs are learnt by heart: the teacher judges new ones of the same texts (benchmarks/README.md).
    distilled = {"teacher": "teacher", "dropout": 0.0, "new_pairs": 20_000, **shared}
    config.reduce = stage_config(
        result="reduced",
        init="teacher",
        layers=parse_layers(options.layers),
        vocabulary_min_count=1,
        share=10.0,
        most_epochs=40.0,
        learning_rate=2e-4,
        **distilled,
    )
    config.quantize = stage_config(
        result="quantized",
        init="reduce",
        weight_bits=options.bits,
        bit_schedule="2@0>1@40%" if options.bits == 1 else "",
        rules="paper-50x",
        granularity="row",
        share=50.0,
        most_epochs=200.0,
        learning_rate=1e-3,
        **{**distilled, "patience": 8},
    )
    return config
