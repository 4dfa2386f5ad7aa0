"""What a recipe means for this model, this data and this work directory, checked before anything trains."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from tokenizers import Tokenizer

from xtc_jax.bert import BertConfig, complete, fit_head, init, with_head
from xtc_jax.compress import LayerMap, layer_map
from xtc_jax.data import (
    Dataset,
    Examples,
    Task,
    default_buckets,
    discover_labels,
    find_task,
    load_examples,
    load_tokenizer,
    splits_of,
    tokenize,
)
from xtc_jax.errors import UserError
from xtc_jax.export import load_model
from xtc_jax.quantize import Params, assign_rules
from xtc_jax.recipe import Recipe, Stage, digest
from xtc_jax.train import make_mesh

PACKED = "packed"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """What all stages share: model, task and data, loaded and checked once.

    Attributes:
      config, params: the checkpoint, with a head for the task, float32.
      source: its local directory, which has the tokenizer.
      task: with the class names found in the data.
      train: tokenized, with the batch size of the first stage.
      validation: the task's validation splits by name, the selecting one first, with the batch size of evaluation.
      max_length: tokens a text is cut to.
    """

    config: BertConfig
    params: Params
    source: Path
    task: Task
    train: Dataset
    validation: Mapping[str, Dataset]
    max_length: int

    @property
    def eval_batch_size(self) -> int:
        """Rows of a batch of evaluation."""
        return next(iter(self.validation.values())).batch_size


@dataclass(frozen=True)
class StagePlan:
    """A stage with what its config implies for this model.

    Attributes:
      stage: as the recipe has it.
      config: shape of the model that it trains.
      layers: which layers it keeps of the model it starts from.
      directory: its own, inside the work directory.
      fingerprint: all that determines its result; a directory with another one is refused.
    """

    stage: Stage
    config: BertConfig
    layers: LayerMap
    directory: Path
    fingerprint: dict[str, Any]


def load_setup(recipe: Recipe, say: Say) -> Setup:
    """Load model, task and data; ``say`` is told what was found.

    Raises:
      UserError: anything wrong with one of them.
    """
    config = recipe.config
    data = config["data"]
    task = find_task(config["task"], tuple(data["text"]), data["label"], tuple(data["labels"]), data["regression"])
    paths = {split: data[split] or data["path"] for split in ("train", "validation")}
    if not task.labels:
        task = replace(task, labels=discover_labels(paths["train"], task))
    shape, params, source = load_model(config["model"])
    if data["max_length"] > shape.max_position_embeddings:
        raise UserError(f"config.data.max_length={data['max_length']} is more than the model's {shape.max_position_embeddings}")
    trained = all(stage.trains for stage in recipe.stages if not stage.init)
    params, head = fit_head(shape, params, task.labels, trained, str(source / "config.json"))
    shape = with_head(shape, task.labels, task.regression)
    params, fresh = complete(shape, params, jax.random.key(config["seed"]))
    tokenizer = load_tokenizer(source)

    def read(split: str, role: str, batch_size: int) -> Dataset:
        examples = _limit(load_examples(paths[role], task, split), data[f"limit_{role}"])
        say(f"{split}: {len(examples.labels):,} examples from {examples.where}")
        return _dataset(examples, tokenizer, data, batch_size, shape.pad_token_id)

    train = read("train", "train", recipe.stages[0].batch_size)
    splits = splits_of(paths["validation"], task.validation)
    validation = {split: read(split, "validation", data["eval_batch_size"]) for split in splits}
    note = "".join(f"; {text}" for text in (head, f"new: {', '.join(fresh)}" if fresh else "") if text)
    say(f"model: {config['model']}, {shape.num_hidden_layers} layers of {shape.hidden_size}{note}")
    return Setup(shape, params, source, task, train, validation, data["max_length"])


def _dataset(examples: Examples, tokenizer: Tokenizer, data: Mapping[str, Any], batch_size: int, pad_id: int) -> Dataset:
    """Examples tokenized; ``data`` is ``config.data``."""
    tokens = tokenize(tokenizer, examples.texts, data["max_length"])
    buckets = tuple(data["buckets"]) or default_buckets(data["max_length"])
    if buckets[-1] < tokens.lengths.max():
        raise UserError(
            f"config.data.buckets={buckets} end below {tokens.lengths.max()} tokens; the last must be data.max_length"
        )
    return Dataset(tokens, examples.labels, batch_size, buckets, pad_id)


def _limit(examples: Examples, most: int) -> Examples:
    """``most`` examples, evenly spaced (files are often sorted by label); 0 is all."""
    if not most or most >= len(examples.texts):
        return examples
    chosen = [i * len(examples.texts) // most for i in range(most)]
    return Examples([examples.texts[i] for i in chosen], examples.labels[chosen], examples.where)


def make_plans(recipe: Recipe, setup: Setup, workdir: Path) -> list[StagePlan]:
    """Check every stage against the model, and against what ``workdir`` already holds.

    Raises:
      UserError: a stage that cannot work, or that ``workdir`` holds made with another config; names it.
    """
    plans: dict[str, StagePlan] = {}
    for stage in recipe.stages:
        origin = plans[stage.init].config if stage.init else setup.config
        try:
            layers = layer_map(stage.layers, origin.num_hidden_layers)
        except UserError as error:
            raise UserError(f"config.{stage.name}.{error}") from None
        config = replace(origin, num_hidden_layers=len(layers.teacher_layers))
        if stage.dropout >= 0:
            rate = stage.dropout
            config = replace(config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=rate)
        if stage.rules is not None:
            _check_rules(config, stage)
        plan = StagePlan(stage, config, layers, workdir / stage.name, recipe.fingerprint(stage))
        _refuse_other_config(plan)
        plans[stage.name] = plan
    ordered = list(plans.values())
    for plan in ordered:
        if plan.stage.teacher:
            teacher_map(plan, ordered)
        try:
            make_mesh(plan.stage.batch_size)
        except UserError as error:
            raise UserError(f"config.{plan.stage.name}.{error}") from None
    try:
        make_mesh(setup.eval_batch_size)
    except UserError as error:
        raise UserError(f"config.data.eval_{error}") from None
    _refuse_other_packed(workdir / PACKED, ordered[-1])
    return ordered


def _check_rules(config: BertConfig, stage: Stage) -> None:
    """Refuse, before anything trains, rules that match nothing or that no packed model can hold."""
    assert stage.rules is not None
    try:
        assigned = assign_rules(jax.eval_shape(lambda: init(config, jax.random.key(0))), stage.rules)
    except UserError as error:
        raise UserError(f"config.{stage.name}: {error}") from None
    for path, spec in assigned.items():
        if isinstance(spec.granularity, int):
            raise UserError(f"config.{stage.name}: {path} in groups of {spec.granularity} cannot be packed; use tensor or row")
        if spec.activation_bits is not None and path.startswith("embeddings/"):
            raise UserError(
                f"config.{stage.name}: {path} is a table, it has no input to quantize; leave a{spec.activation_bits} out"
            )


def teacher_map(plan: StagePlan, plans: list[StagePlan]) -> LayerMap:
    """Student layers as layers of the teacher, followed back through the stages in between."""
    named = {other.stage.name: other for other in plans}
    layers, at = plan.layers.teacher_layers, plan
    while at.stage.init and at.stage.init != plan.stage.teacher:
        at = named[at.stage.init]
        layers = tuple(at.layers.teacher_layers[layer] for layer in layers)
    try:
        return layer_map(layers, named[plan.stage.teacher].config.num_hidden_layers)
    except UserError as error:
        raise UserError(f"config.{plan.stage.name}.teacher={plan.stage.teacher!r}: {error}") from None


def _refuse_other_config(plan: StagePlan) -> None:
    """A directory made with another config is refused, with the first key that differs."""
    file = plan.directory / "config.json"
    if not file.exists():
        return
    then = _flatten(json.loads(file.read_text()))
    now = _flatten(plan.fingerprint)
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            raise UserError(
                f"{plan.directory}: stage {plan.stage.name!r} was made with another config ({key}: {then.get(key)!r} then, "
                f"{now.get(key)!r} now); use another --workdir"
            )


def _refuse_other_packed(directory: Path, last: StagePlan) -> None:
    """A packed model of another last stage is refused."""
    file = directory / "DONE"
    if file.exists() and json.loads(file.read_text())["config"] != digest(last.fingerprint):
        raise UserError(f"{directory}: was packed from another stage than {last.stage.name!r}; use another --workdir")


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {name: leaf for key, child in value.items() for name, leaf in _flatten(child, f"{prefix}.{key}".lstrip(".")).items()}
