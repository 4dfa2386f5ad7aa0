"""A hundred times smaller: two layers of six, less than a quarter of the word pieces, and 1 bit together.

    xtc compress --config=hundred --workdir=runs/hundred
    xtc compress --config=hundred:sst2 --config.data.path=DIR --workdir=runs/hundred-sst2

Depth, vocabulary and bits multiply: of MiniLM's 90.9 MB, two layers, 6,900 word pieces and 1 bit are 0.91 MB.
The pieces are what costs: with 6,900 of them the teacher itself is 2 points worse (what was tried: benchmarks/README.md).
"""

from ml_collections import ConfigDict

from xtc_jax.recipe.schema import base_config, parse_arg, stage_config

_REVIEWS = "movie-reviews"


def get_config(arg: str = "") -> ConfigDict:
    """The recipe; argument ``task=movie-reviews,pieces=6900,scale=1.0,runlocal``, where ``scale`` multiplies all steps."""
    options = parse_arg(arg, task=_REVIEWS, pieces=6900, scale=1.0, runlocal=False)
    config = base_config(runlocal=options.runlocal, model="pinned:all-MiniLM-L6-v2", task=options.task)
    if options.task == _REVIEWS:
        config.data.path = f"pinned:{_REVIEWS}"
        config.data.text = ("sentence",)
        config.data.labels = ("negative", "positive")
    config.data.max_length = 48
    config.data.buckets = (16, 24, 32, 40, 48)
    config.stages = ("teacher", "quantize")

    def steps(count: int) -> dict[str, int]:
        total = round(count * options.scale)
        return {"steps": total, "warmup_steps": total // 10, "eval_every": -(-total // 2)}

    shared = {"batch_size": 16, "dropout": 0.0}
    config.teacher = stage_config(learning_rate=1e-4, **steps(700), **shared)
    config.quantize = stage_config(
        result="quantized",
        init="teacher",
        teacher="teacher",
        layers=(2, 5),
        vocabulary=options.pieces,
        weight_bits=1,
        rules="paper-50x",
        granularity="row",
        learning_rate=1e-3,
        **steps(3500),
        **shared,
    )
    return config
