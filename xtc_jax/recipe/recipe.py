"""A recipe is data: a config, checked, as the frozen types the pipeline runs on."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from xtc_jax.compress import DistillSpec
from xtc_jax.errors import UserError
from xtc_jax.quantize import ActivationSpec, Granularity, QuantRules, named_rules, parse_bits, with_extra_rules
from xtc_jax.recipe.budget import parse_budget
from xtc_jax.recipe.runlocal import shrink
from xtc_jax.recipe.schema import LOSSES, base_config, stage_config
from xtc_jax.recipe.values import CONFIG_VALUES, STAGE_VALUES, check_values

_RESERVED = (*base_config(), "packed", "augmented")
_PARSED = (
    "bit_schedule",
    "quantizer",
    "granularity",
    "stochastic",
    "activation_bits",
    "activation_range",
    "activation_symmetric",
    "activation_start",
    "extra_rules",
)
"""Keys of a stage that end in its ``rules``."""

_UNFELT = ("accumulate", "share", "most_epochs")
"""Keys that do not change a stage's result, or only through its number of steps."""
_NEWER = {
    "vocabulary": 0,
    "vocabulary_min_count": 0,
    "vocabulary_corpus": "",
    "patience": 0,
    "freeze": -1,
    "new_pairs": 0,
    "lazy_embeddings": False,
}
"""Keys that are left out of a fingerprint where they have this value: work directories of before they existed can go on."""


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe; fields as in :func:`xtc_jax.recipe.schema.stage_config`, quantization and losses parsed."""

    name: str
    result: str
    init: str
    model: str
    teacher: str
    layers: str
    freeze: int
    lazy_embeddings: bool
    match: str
    vocabulary: int
    vocabulary_min_count: int
    vocabulary_corpus: str
    split: bool
    rules: QuantRules | None
    weight_bits: int
    loss: DistillSpec
    augmented: bool
    new_pairs: int
    epochs: float
    steps: int
    warmup_epochs: float
    warmup_steps: int
    batch_size: int
    accumulate: int
    learning_rate: float
    grid: tuple[float, ...]
    weight_decay: float
    clip: float
    dropout: float
    eval_every: int
    patience: int
    share: float
    most_epochs: float
    raw: dict[str, Any]

    @property
    def trains(self) -> bool:
        """False for a stage of 0 epochs and 0 steps, which takes the model as it is."""
        return self.steps > 0 or self.epochs > 0

    @property
    def reduces_vocabulary(self) -> bool:
        """Whether word pieces leave what it starts from."""
        return self.vocabulary > 0 or self.vocabulary_min_count > 0

    def counts(self, batches_per_epoch: int) -> tuple[int, int]:
        """``(steps, warm-up steps)`` on a data set of so many batches; ``(0, 0)`` if the stage only measures."""
        if not self.trains:
            return 0, 0
        steps = self.steps or max(round(self.epochs * batches_per_epoch), 1)
        warmup = self.warmup_steps if self.warmup_steps >= 0 else int(self.warmup_epochs * batches_per_epoch)
        return steps, min(warmup, steps - 1)

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """Those of the grid, or the one."""
        return self.grid if self.grid and self.trains else (self.learning_rate,)


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
        the fingerprints' hashes of the stages it builds on. Mesh, accumulation and arithmetic are not among them: a run may be
        resumed on other devices.
        """
        keys = ["seed", "model", "task", "data", "compute_dtype", *(["augment"] if stage.augmented else [])]
        if stage.teacher and self.config["teacher_cache_dtype"] != "float32":  # a key of before it existed has none
            keys.append("teacher_cache_dtype")
        named = {other.name: other for other in self.stages}
        built_on = {name: digest(self.fingerprint(named[name])) for name in (stage.init, stage.teacher) if name}
        return {**{key: self.config[key] for key in keys}, stage.name: stage.raw, "built on": built_on}


def digest(value: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def make_recipe(config: ConfigDict) -> Recipe:
    """Check a config and freeze it.

    Raises:
      UserError: names the key that is wrong.
    """
    named = config.get("stages")  # of another type it is refused below
    _check_keys(config, base_config(), "config", tuple(named) if isinstance(named, tuple | list) else ())
    check_values(config, CONFIG_VALUES, "config")
    for name in config.stages:
        if isinstance(config.get(name), ConfigDict) and name not in _RESERVED:
            _check_keys(config[name], stage_config(), f"config.{name}")
            check_values(config[name], STAGE_VALUES, f"config.{name}")
    config = shrink(config) if config.runlocal else config
    plain = json.loads(json.dumps(config.to_dict()))
    if not config.stages:
        raise UserError("config.stages is empty; name at least one stage")
    if list(config.data.buckets) != sorted(set(config.data.buckets)):
        raise UserError(f"config.data.buckets={config.data.buckets} must increase")
    _check_profile(tuple(config.profile))
    _check_shares(config)
    parse_budget(config.teacher_cache)
    stages: list[Stage] = []
    for name in config.stages:
        if name in {stage.name for stage in stages}:
            raise UserError(f"config.stages names {name!r} twice")
        if name in _RESERVED or not isinstance(config.get(name), ConfigDict):
            earlier = ", ".join(key for key in config if key not in _RESERVED) or "none"
            raise UserError(
                f"config.stages names {name!r}, but there is no config.{name} that is a stage (there are: {earlier})"
            )
        stage = _stage(name, config[name], plain[name], {stage.name: stage for stage in stages})
        if stage.result in {"packed", *(other.result for other in stages)}:
            raise UserError(f"config.{name}.result={stage.result!r} is the key of another result")
        stages.append(stage)
    return Recipe(plain, tuple(stages))


def _check_keys(config: ConfigDict, like: ConfigDict, where: str, more: tuple[str, ...] = ()) -> None:
    """Every key of ``like``, and no others but, at the top, ``more`` and blocks that no stage is named after."""
    for key, value in like.items():
        if key not in config:
            raise UserError(f"{where} lacks the key {key!r}; make it with base_config and stage_config")
        if isinstance(value, ConfigDict) and not isinstance(config[key], ConfigDict):
            raise UserError(f"{where}.{key}={config[key]!r} must be a block of keys; make it with base_config and stage_config")
        if isinstance(value, ConfigDict):
            _check_keys(config[key], value, f"{where}.{key}")
    for key in config:
        if key not in like and key not in more and not (where == "config" and isinstance(config[key], ConfigDict)):
            raise UserError(f"{where} has an unknown key {key!r}; use one of {', '.join(like)}")


def _check_shares(config: ConfigDict) -> None:
    """Where the recipe has a time, every stage that trains has a share of it or its own number of steps."""
    stages = {
        name: config[name] for name in config.stages if isinstance(config.get(name), ConfigDict) and name not in _RESERVED
    }
    shared = [name for name, stage in stages.items() if stage.share > 0]
    if shared and not config.minutes > 0:
        raise UserError(f"config.minutes={config.minutes}, but config.{shared[0]}.share divides it; give it a time above 0")
    if config.minutes > 0 and not shared:
        raise UserError(f"config.minutes={config.minutes} is divided by no stage; give one a share, or set minutes=0")
    for name in shared:
        if stages[name].augmented:
            raise UserError(f"config.{name}.augmented needs a known number of steps; set share=0 and steps, or leave it out")
        if re.search(r"@0*[1-9]\d*(?!\d|%)", stages[name].bit_schedule):
            raise UserError(
                f"config.{name}.bit_schedule={stages[name].bit_schedule!r} names steps, and share decides how many there are; "
                "write per cent of them, as in 2@0>1@40%"
            )


def _check_profile(window: tuple[Any, ...]) -> None:
    if window and not (len(window) == 2 and all(type(number) is int and number >= 1 for number in window)):
        raise UserError(f"config.profile={window} must be two numbers from 1 on, the first step and how many; or ()")


def _stage(name: str, config: ConfigDict, raw: dict[str, Any], earlier: dict[str, Stage]) -> Stage:
    for key in ("init", "teacher"):
        if config[key] and config[key] not in earlier:
            raise UserError(
                f"config.{name}.{key}={config[key]!r} names no earlier stage; earlier are: {', '.join(earlier) or 'none'}"
            )
    if config.init and config.model:
        raise UserError(f"config.{name} has both init and model; it starts from one of them")
    if config.split and not (config.init and earlier[config.init].weight_bits == 2 and config.weight_bits == 1):
        raise UserError(f"config.{name}.split=True needs weight_bits=1 and an init of weight_bits=2: it halves ternary weights")
    if config.vocabulary_corpus and not (config.vocabulary or config.vocabulary_min_count):
        raise UserError(f"config.{name}.vocabulary_corpus is set, but neither vocabulary nor vocabulary_min_count reduces it")
    if config.teacher and max(config.loss[key] for key in LOSSES) == 0:
        raise UserError(f"config.{name}.loss: the weights must not be all 0, for the stage has a teacher")
    if config.new_pairs and (config.augmented or not config.teacher or config.loss.label):
        raise UserError(
            f"config.{name}.new_pairs={config.new_pairs}: new pairs have no label; they need a teacher, loss.label=0 and "
            "augmented=False"
        )
    values = {key: value for key, value in config.items() if key not in _PARSED}
    values |= {"loss": DistillSpec(**config.loss.to_dict()), "grid": tuple(config.grid), "rules": parse_rules(name, config)}
    if config.accumulate > 1 and values["rules"] is not None:
        _check_ranges(name, values["rules"])
    kept = {key: value for key, value in raw.items() if key not in _UNFELT and not (key in _NEWER and value == _NEWER[key])}
    return Stage(name=name, raw=kept, **{**values, "result": config.result or name})


def _check_ranges(name: str, rules: QuantRules) -> None:
    """No activation has a range over a batch: of one that is computed in parts, it is not known in time."""
    for _, spec in rules.rules:
        if spec.activation is not None and spec.activation.range != "token":
            raise UserError(
                f"config.{name}.accumulate: an activation range {spec.activation.range!r} is one of the whole batch; "
                f"use range token or accumulate=1"
            )


def _schedule_in_steps(name: str, config: ConfigDict) -> str:
    """The schedule of a stage's bits, its percentages as steps; of a share that has none yet, as steps of a hundred."""
    steps = config.steps or (100 if config.share else 0)
    if "%" in config.bit_schedule and not steps:
        raise UserError(f"config.{name}.bit_schedule={config.bit_schedule!r} has per cent of the steps; set steps, not epochs")
    return re.sub(r"@(\d+)%", lambda found: f"@{int(found[1]) * steps // 100}", config.bit_schedule)


def parse_rules(name: str, config: ConfigDict) -> QuantRules | None:
    """The quantization of a stage of this config; None if it has none.

    Raises:
      UserError: names the key that is wrong.
    """
    where = f"config.{name}"
    if config.weight_bits == 32:
        for key in ("bit_schedule", "quantizer", "stochastic", "extra_rules"):
            if config[key]:
                raise UserError(f"{where}.{key} is set, but weight_bits=32 quantizes nothing")
        return None
    word = config.granularity
    if not ((word.isdecimal() and int(word) > 0) or word in ("tensor", "row")):
        raise UserError(f"{where}.granularity={word!r}; use tensor, row or the size of a group")
    activation = ActivationSpec(
        config.activation_bits, config.activation_range, config.activation_symmetric, config.activation_start
    )
    text = _schedule_in_steps(name, config)
    schedule = parse_bits(text, f"{where}.bit_schedule")[1] if text else ()
    if text and not schedule:
        raise UserError(f"{where}.bit_schedule={config.bit_schedule!r} has no steps; write for example 8@0>4@500>1@1000")
    granularity: Granularity = int(word) if word.isdecimal() else word
    try:
        rules = named_rules(
            config.rules,
            config.weight_bits,
            None if config.activation_bits == 32 else activation,
            granularity=granularity,
            quantizer=config.quantizer,
            stochastic=config.stochastic,
            schedule=schedule,
        )
        return with_extra_rules(rules, config.extra_rules)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
