"""A recipe is data: the form of a config file, and the frozen types the pipeline runs on.

A config is an ``ml_collections.ConfigDict`` made by :func:`base_config`; its ``stages`` name further
:func:`stage_config` entries. Teacher fine-tuning, layer reduction, distillation and quantization are all the same
kind of stage with other values.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from xtc_jax.compress import DistillSpec
from xtc_jax.data import PINNED
from xtc_jax.errors import UserError
from xtc_jax.quantize import QuantRules, named_rules, with_extra_rules

LOCAL_MODEL = "pinned:all-MiniLM-L6-v2"
_LOCAL_DEPTH = 6
_RESERVED = ("data", "packed")
_LEAST = {"batch_size": 1, "eval_every": 1, "steps": 0, "warmup_steps": -1, "warmup_epochs": 0, "weight_decay": 0, "clip": 0}
_NORMS = {
    "logit_norm": ("deepspeed", "textbook"),
    "attention_norm": ("valid", "deepspeed", "ternarybert"),
    "hidden_norm": ("valid", "deepspeed"),
}


def stage_config(**values: Any) -> ConfigDict:
    """A stage; keyword arguments override these defaults, which are XTC's (method.md section 1)."""
    config = ConfigDict()
    config.result = ""  # its key in results.json; "" is the stage's own name
    config.init = ""  # stage whose model it starts from; "" is the checkpoint `model`
    config.teacher = ""  # stage that teaches; "" trains on the labels
    config.layers = ()  # layers kept of the stage it starts from, 0-based; () keeps all
    config.weight_bits = 32  # 1 or 2 quantizes
    config.activation_bits = 8  # of the Linears' inputs, where weights are quantized; 32 leaves them
    config.rules = "deepspeed"  # or "paper-50x"
    config.extra_rules = ()  # "REGEX=BITS[,tensor|row|SIZE][,aBITS]", tried before `rules`
    config.loss = ConfigDict()  # weights and normalisations, see DistillSpec
    config.loss.label = 0.0
    config.loss.logit = 1.0
    config.loss.attention = 1.0
    config.loss.hidden = 1.0
    config.loss.logit_norm = "deepspeed"
    config.loss.attention_norm = "valid"
    config.loss.hidden_norm = "valid"
    config.epochs = 18.0  # 0, with steps=0, takes the model as it is: it is measured, not trained
    config.steps = 0  # if not 0, instead of `epochs`
    config.warmup_epochs = 1.0
    config.warmup_steps = -1  # if not -1, instead of `warmup_epochs`
    config.batch_size = 32
    config.learning_rate = 5e-5
    config.weight_decay = 0.01
    config.clip = 1.0
    config.dropout = -1.0  # of the student; -1 is the model's own
    config.eval_every = 1000  # steps; the last step always evaluates
    config.update(values)
    return config


def base_config(**values: Any) -> ConfigDict:
    """Everything but the stages; keyword arguments override these defaults."""
    config = ConfigDict()
    config.seed = 42
    config.runlocal = False  # shrink to about a minute: see `shrink`
    config.model = LOCAL_MODEL  # directory, hub id or pinned:NAME
    config.task = "sst2"
    config.stages = ()
    config.data = ConfigDict()
    config.data.path = ""  # directory, pinned:NAME, or "" for the hub
    config.data.train = ""  # a file, instead of the one in `path`
    config.data.validation = ""
    config.data.text = ()  # text columns; () is the task's own
    config.data.label = ""
    config.data.labels = ()  # class names of a task of your own; () finds them in the training data
    config.data.regression = False
    config.data.max_length = 128
    config.data.buckets = ()  # padded lengths; () is 16, 32, 64, … up to max_length
    config.data.eval_batch_size = 128
    config.data.limit_train = 0  # use the first examples only; 0 uses all
    config.data.limit_validation = 0
    config.update(values)
    return config


def parse_arg(arg: str, **defaults: Any) -> ConfigDict:
    """Read a config file's argument, ``word,key=value,flag``.

    The first word without ``=`` is the value of the first key of ``defaults`` unless it names a flag; other words
    are flags set to True. Values are read as the type of the default.

    >>> parse_arg("cola,bits=2,runlocal", task="sst2", bits=1, runlocal=False).to_dict()
    {'bits': 2, 'runlocal': True, 'task': 'cola'}

    Raises:
      UserError: an unknown key or a value of another type.
    """
    values = dict(defaults)
    for word in filter(None, (arg or "").split(",")):
        key, found, text = word.partition("=")
        if not found and not isinstance(defaults.get(key), bool):
            key, text = next(iter(defaults)), word
        if key not in defaults:
            raise UserError(f"config argument {word!r}: unknown; use {', '.join(defaults)}")
        kind = type(defaults[key])
        try:
            values[key] = (not found or text.lower() in ("1", "true")) if kind is bool else kind(text)
        except ValueError:
            raise UserError(f"config argument {word!r}: {text!r} is not a {kind.__name__}") from None
    return ConfigDict(values)


def shrink(config: ConfigDict) -> ConfigDict:
    """``runlocal``: the same recipe in about a minute on two cores, to see that it runs, not to be good.

    A model from the hub becomes the pinned 6-layer MiniLM, of which the layers that it has are kept.
    """
    small = config.copy_and_resolve_references()
    if small.model != LOCAL_MODEL and not small.model.startswith((PINNED, ".", "/")):
        small.model = LOCAL_MODEL
    small.data.max_length, small.data.buckets = min(small.data.max_length, 32), (32,)
    small.data.eval_batch_size = min(small.data.eval_batch_size, 32)
    small.data.limit_train = min(small.data.limit_train or 128, 128)
    small.data.limit_validation = min(small.data.limit_validation or 64, 64)
    for name in small.stages:
        stage = small[name]
        stage.steps, stage.warmup_steps = min(stage.steps or 6, 6), 1
        stage.batch_size = min(stage.batch_size, 8)
        stage.eval_every = 6
        stage.layers = tuple(layer for layer in stage.layers if layer < _LOCAL_DEPTH)
    return small


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe; fields as in :func:`stage_config`, quantization and losses parsed."""

    name: str
    result: str
    init: str
    teacher: str
    layers: tuple[int, ...]
    rules: QuantRules | None
    weight_bits: int
    loss: DistillSpec
    epochs: float
    steps: int
    warmup_epochs: float
    warmup_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip: float
    dropout: float
    eval_every: int
    raw: dict[str, Any]

    @property
    def trains(self) -> bool:
        """False for a stage of 0 epochs and 0 steps, which takes the model as it is."""
        return self.steps > 0 or self.epochs > 0

    def counts(self, batches_per_epoch: int) -> tuple[int, int]:
        """``(steps, warm-up steps)`` on a data set of so many batches; ``(0, 0)`` if the stage only measures."""
        if not self.trains:
            return 0, 0
        steps = self.steps or max(round(self.epochs * batches_per_epoch), 1)
        warmup = self.warmup_steps if self.warmup_steps >= 0 else int(self.warmup_epochs * batches_per_epoch)
        return steps, min(warmup, steps - 1)


@dataclass(frozen=True)
class Recipe:
    """What ``pipeline.run`` runs.

    Attributes:
      config: the whole config as plain data; ``runlocal`` already applied.
      stages: in order; each starts from, and is taught by, earlier ones.
    """

    config: dict[str, Any]
    stages: tuple[Stage, ...]

    def fingerprint(self, stage: Stage) -> dict[str, Any]:
        """Everything that determines a stage's result, as plain data: its own values, the shared ones and
        the fingerprints' hashes of the stages it builds on.
        """
        shared = {key: self.config[key] for key in ("seed", "model", "task", "data")}
        named = {other.name: other for other in self.stages}
        built_on = {name: digest(self.fingerprint(named[name])) for name in (stage.init, stage.teacher) if name}
        return {**shared, stage.name: stage.raw, "built on": built_on}


def digest(value: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def make_recipe(config: ConfigDict) -> Recipe:
    """Check a config and freeze it.

    Raises:
      UserError: names the key that is wrong.
    """
    config = shrink(config) if config.runlocal else config
    plain = json.loads(json.dumps(config.to_dict()))
    if not config.stages:
        raise UserError("config.stages is empty; name at least one stage")
    _check_data(config.data)
    stages: list[Stage] = []
    for name in config.stages:
        if name in {stage.name for stage in stages}:
            raise UserError(f"config.stages names {name!r} twice")
        if name in _RESERVED or not isinstance(config.get(name), ConfigDict):
            raise UserError(f"config.stages names {name!r}, but there is no config.{name} that is a stage")
        stage = _stage(name, config[name], plain[name], {stage.name for stage in stages})
        if stage.result in {"packed", *(other.result for other in stages)}:
            raise UserError(f"config.{name}.result={stage.result!r} is the key of another result")
        stages.append(stage)
    return Recipe(plain, tuple(stages))


def _check_data(data: ConfigDict) -> None:
    for key, least in (("max_length", 3), ("eval_batch_size", 1), ("limit_train", 0), ("limit_validation", 0)):
        if data[key] < least:
            raise UserError(f"config.data.{key}={data[key]} must be at least {least}")
    if list(data.buckets) != sorted(set(data.buckets)):
        raise UserError(f"config.data.buckets={data.buckets} must increase")


def _stage(name: str, config: ConfigDict, raw: dict[str, Any], earlier: set[str]) -> Stage:
    for key in ("init", "teacher"):
        if config[key] and config[key] not in earlier:
            raise UserError(f"config.{name}.{key}={config[key]!r} names no earlier stage")
    for key, least in _LEAST.items():
        if config[key] < least:
            raise UserError(f"config.{name}.{key}={config[key]} must be at least {least}")
    if config.learning_rate <= 0 or config.epochs < 0 or config.dropout >= 1:
        raise UserError(f"config.{name}: learning_rate must be above 0, epochs at least 0, dropout below 1")
    for key, known in _NORMS.items():
        if config.loss[key] not in known:
            raise UserError(f"config.{name}.loss.{key}={config.loss[key]!r}; use one of {', '.join(known)}")
    if not all(isinstance(layer, int) for layer in config.layers):
        raise UserError(f"config.{name}.layers={config.layers} must be a tuple of layer indices, such as (1, 3, 5)")
    values = {key: value for key, value in config.items() if key not in ("rules", "extra_rules", "activation_bits")}
    values |= {"loss": DistillSpec(**config.loss.to_dict()), "layers": tuple(config.layers)}
    return Stage(name=name, rules=_rules(name, config), raw=raw, **{**values, "result": config.result or name})


def _rules(name: str, config: ConfigDict) -> QuantRules | None:
    if config.weight_bits == 32:
        return None
    activation_bits = None if config.activation_bits == 32 else config.activation_bits
    if activation_bits not in (None, 4, 8):
        raise UserError(f"config.{name}.activation_bits={activation_bits}; use 8, 4 or 32 (off)")
    try:
        return with_extra_rules(named_rules(config.rules, config.weight_bits, activation_bits), config.extra_rules)
    except UserError as error:
        raise UserError(f"config.{name}: {error}") from None
