"""``runlocal``: any recipe, shrunk to about a minute on two cores, to see that it runs."""

import re

from ml_collections import ConfigDict

from xtc_jax.data import PINNED
from xtc_jax.recipe.schema import LOCAL_MODEL

_LOCAL_DEPTH = 3
_LOCAL_STEPS = 6


def shrink(config: ConfigDict) -> ConfigDict:
    """``runlocal``: the same recipe in about a minute on two cores, to see that it runs, not to be good.

    A model from the hub becomes the pinned MiniLM, of which three layers are taken; of the layers that later stages keep,
    those below three.
    """
    small = config.copy_and_resolve_references()
    small.model = _local(small.model)
    small.augment.model = small.augment.model and _local(small.augment.model)
    small.augment.count = 1
    small.minutes = 0.0
    small.data.max_length, small.data.buckets = min(small.data.max_length or 32, 32), (32,)
    small.data.eval_batch_size = min(small.data.eval_batch_size, 32)
    small.data.limit_train = min(small.data.limit_train or 128, 128)
    small.data.limit_validation = min(small.data.limit_validation or 64, 64)
    for name in small.stages:
        stage = small[name]
        stage.model = stage.model and _local(stage.model)
        if stage.steps or stage.epochs or stage.share or not stage.init:  # else it takes an earlier stage's model as it is
            stage.steps, stage.warmup_steps = min(stage.steps or _LOCAL_STEPS, _LOCAL_STEPS), 1
        stage.share = 0.0
        stage.batch_size = min(stage.batch_size, 8)
        stage.accumulate = 1
        stage.eval_every = _LOCAL_STEPS
        stage.dropout = 0.0  # it doubles the time to compile
        stage.grid = stage.grid[:2]
        stage.layers, stage.match = _local_layers(stage.layers), ""
        if not stage.init and not stage.layers and (stage.model or small.model) == LOCAL_MODEL:
            stage.layers = f"first({_LOCAL_DEPTH})"
        stage.bit_schedule = _local_schedule(stage.bit_schedule)
        stage.activation_start = min(stage.activation_start, 1)
        stage.extra_rules = tuple(_local_rule(rule) for rule in stage.extra_rules)
    return small


def _local(model: str) -> str:
    """A model that is on this machine already, or the pinned one."""
    return model if model.startswith((PINNED, ".", "/", "~")) else LOCAL_MODEL


def _local_layers(text: str) -> str:
    """Of a list, the layers that the local model has; of a rule, as many."""
    if not re.fullmatch(r"[\d, ()]+", text):
        return re.sub(r"\d+", lambda count: str(min(int(count[0]), _LOCAL_DEPTH)), text)
    return ",".join(layer for layer in re.findall(r"\d+", text) if int(layer) < _LOCAL_DEPTH)


def _local_schedule(text: str) -> str:
    """The same bits, at steps 0, 1, 2, …; of more than there are steps, the last."""
    bits = re.findall(r"(\d+)@\d+", text)[-_LOCAL_STEPS:]
    return ">".join(f"{number}@{step}" for step, number in enumerate(bits))


def _local_rule(text: str) -> str:
    """The same rule with its steps early; what is no rule stays as it is, to be refused later."""
    pattern, found, spec = text.rpartition("=")
    bits, *options = spec.split(",")
    started = [re.sub(r"@\d+$", "@1", option) for option in options]
    return f"{pattern}{found}{','.join([_local_schedule(bits) or bits, *started])}"
