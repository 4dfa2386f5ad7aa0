"""What a recipe means for these models and this work directory, checked before anything trains."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from xtc_jax.bert import BertConfig, init
from xtc_jax.compress import LayerMap, Vocabulary, layer_map, parse_layers, rows_between
from xtc_jax.devices import Arithmetic
from xtc_jax.errors import UserError
from xtc_jax.parallel import check_batch, make_mesh
from xtc_jax.pipeline.inputs import Inputs
from xtc_jax.pipeline.vocabularies import stage_vocabularies
from xtc_jax.quantize import assign_rules
from xtc_jax.recipe.recipe import Recipe, Stage, digest
from xtc_jax.train import Objective

PACKED = "packed"
DIGESTS = "data_digest"
"""Key of a stage's record; older ones lack it."""
VOCABULARY = "vocabulary_digest"
"""Key of a stage's record, where its vocabulary is reduced."""


@dataclass(frozen=True)
class StagePlan:
    """A stage with what its config implies for this model.

    Attributes:
      stage: as the recipe has it.
      model: name of the checkpoint that it goes back to.
      config: shape of the model that it trains.
      layers: which layers it keeps of the model it starts from.
      directory: its own, inside the work directory.
      fingerprint: all that determines its result; a directory with another one is refused.
      reduced: whether it, or a stage that it goes back to, has a reduced vocabulary.
      vocabulary: the reduced one, where the data is known; its data and, for it, its teacher have no other pieces.
    """

    stage: Stage
    model: str
    config: BertConfig
    layers: LayerMap
    directory: Path
    fingerprint: dict[str, Any]
    reduced: bool = False
    vocabulary: Vocabulary | None = None


def make_plans(recipe: Recipe, inputs: Inputs, workdir: Path) -> list[StagePlan]:
    """Check every stage against model and data, and against what ``workdir`` already holds.

    Raises:
      UserError: a stage that cannot work, or that ``workdir`` holds made with another config; names it.
    """
    try:
        mesh = make_mesh(recipe.config["mesh"])
    except UserError as error:
        raise UserError(f"config.{error}") from None
    shapes = {name: checkpoint.config for name, checkpoint in inputs.checkpoints.items()}
    plans = shape_stages(recipe, shapes, mesh, workdir, stage_vocabularies(recipe, inputs))
    for plan in plans:
        stage = plan.stage
        if not stage.augmented:  # otherwise its length is known later
            check_schedule(
                stage,
                stage.counts(replace(inputs.sets(plan.vocabulary).train, batch_size=stage.batch_size).batches_per_epoch)[0],
            )
    refuse_other_work(recipe, inputs, plans)
    try:
        check_batch(inputs.eval_batch_size, mesh)
    except UserError as error:
        raise UserError(f"config.data.eval_{error}") from None
    return plans


def refuse_other_work(recipe: Recipe, inputs: Inputs, plans: list[StagePlan]) -> None:
    """Compare the stages' records in the work directory, where there are any, with these plans.

    Raises:
      UserError: a stage, or its packed model, was made with another config or other data; names what differs.
    """
    for plan in plans:
        _refuse_other_config(plan, inputs)
        if plan in packed_plans(plans):
            _refuse_other_packed(packed_directory(plan, plans), plan, recipe.config["storage"])


def stage_record(plan: StagePlan, inputs: Inputs) -> dict[str, Any]:
    """What a stage's ``config.json`` holds: its fingerprint, and the digests of the data that lay under the paths in it."""
    kept = {VOCABULARY: plan.vocabulary.digest} if plan.vocabulary else {}
    return {**plan.fingerprint, DIGESTS: dict(inputs.digests), **kept}


def shape_stages(
    recipe: Recipe,
    shapes: Mapping[str, BertConfig],
    mesh: jax.sharding.Mesh,
    workdir: Path,
    vocabularies: Mapping[str, Vocabulary] | None = None,
) -> list[StagePlan]:
    """What every stage trains, of models of these shapes on this mesh. Neither weights nor data are needed for it.

    Args:
      recipe: its stages.
      shapes: of the checkpoints, by the name the config gives them.
      mesh: that the batches are split over.
      workdir: where the stages' directories would lie; not looked at.
      vocabularies: the reduced ones, by stage; None if the data is not known: a stage has the number of pieces that its config
        says, and, where that says a frequency alone, all.

    Raises:
      UserError: a stage that does not fit its model, its teacher or the mesh; names it.
    """
    plans: dict[str, StagePlan] = {}
    for stage in recipe.stages:
        model = plans[stage.init].model if stage.init else stage.model or recipe.config["model"]
        origin = plans[stage.init].config if stage.init else shapes[model]
        try:
            layers = LayerMap(parse_layers(stage.layers, origin.num_hidden_layers))
            check_batch(stage.batch_size, mesh, stage.accumulate)
        except UserError as error:
            raise UserError(f"config.{stage.name}.{error}") from None
        config = replace(origin, num_hidden_layers=len(layers.teacher_layers))
        if stage.dropout >= 0:
            rate = stage.dropout
            config = replace(config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=rate)
        reduced = stage.reduces_vocabulary or (bool(stage.init) and plans[stage.init].reduced)
        vocabulary = (vocabularies or {}).get(stage.name)
        config = _with_vocabulary(config, stage, shapes[model].pad_token_id, vocabulary)
        if stage.rules is not None:
            _check_rules(config, stage)
        fingerprint = recipe.fingerprint(stage)
        plans[stage.name] = StagePlan(stage, model, config, layers, workdir / stage.name, fingerprint, reduced, vocabulary)
    ordered = list(plans.values())
    for plan in ordered:
        if plan.stage.teacher:
            teacher_map(plan, ordered)
            _check_teacher_vocabulary(plan, plans[plan.stage.teacher])
    return ordered


def _with_vocabulary(config: BertConfig, stage: Stage, pad: int, vocabulary: Vocabulary | None) -> BertConfig:
    if vocabulary is not None:
        return replace(config, vocab_size=len(vocabulary.keep), pad_token_id=vocabulary.position(pad))
    return replace(config, vocab_size=stage.vocabulary) if stage.vocabulary else config


def _check_teacher_vocabulary(plan: StagePlan, teacher: StagePlan) -> None:
    """A teacher reads the student's word pieces, so it must have them all."""
    try:
        rows_between(teacher.vocabulary, plan.vocabulary)
    except UserError:
        raise UserError(
            f"config.{plan.stage.name}.teacher={teacher.stage.name!r}: the teacher's vocabulary lacks word pieces of the "
            "student's; reduce the student's at least as far, or take another teacher"
        ) from None


def teacher_shape(plan: StagePlan, teacher: StagePlan) -> BertConfig:
    """The shape of a stage's teacher as that stage runs it: with the rows of the student's word pieces."""
    if not plan.reduced:
        return teacher.config
    return replace(teacher.config, vocab_size=plan.config.vocab_size, pad_token_id=plan.config.pad_token_id)


def make_objective(plan: StagePlan, plans: list[StagePlan], arithmetic: Arithmetic) -> Objective:
    """What a stage trains, against which teacher; ``arithmetic`` is that of its devices."""
    stage = plan.stage
    teacher = next((other for other in plans if other.stage.name == stage.teacher), None)
    return Objective(
        plan.config,
        stage.rules,
        teacher_shape(plan, teacher) if teacher else None,
        teacher_map(plan, plans) if teacher else plan.layers,
        stage.loss,
        teacher.stage.rules if teacher else None,
        plan.fingerprint["compute_dtype"],
        arithmetic,
        stage.accumulate,
    )


def packed_plans(plans: list[StagePlan]) -> list[StagePlan]:
    """The stages whose models are packed: quantized, and nothing starts from them."""
    begun = {plan.stage.init for plan in plans}
    return [plan for plan in plans if plan.stage.rules is not None and plan.stage.name not in begun]


def packed_directory(plan: StagePlan, plans: list[StagePlan]) -> Path:
    """``packed`` for the last stage, ``packed-NAME`` for others."""
    return plan.directory.parent / (PACKED if plan is plans[-1] else f"{PACKED}-{plan.stage.name}")


def _check_rules(config: BertConfig, stage: Stage) -> None:
    """The rules match the model, and a table has no input to quantize."""
    assert stage.rules is not None
    try:
        assigned = assign_rules(jax.eval_shape(lambda: init(config, jax.random.key(0))), stage.rules)
    except UserError as error:
        raise UserError(f"config.{stage.name}: {error}") from None
    for path, spec in assigned.items():
        if spec.activation is not None and path.startswith("embeddings/"):
            raise UserError(
                f"config.{stage.name}: {path} is a table, it has no input to quantize; leave a{spec.activation.bits} out"
            )


def check_schedule(stage: Stage, steps: int) -> None:
    """The last change of a stage's bits comes before its end.

    Raises:
      UserError: it does not; what is evaluated and packed would never have been trained.
    """
    last = max(stage.rules.changes, default=0) if stage.rules else 0
    if last >= max(steps, 1):
        raise UserError(f"config.{stage.name}: its schedule changes at step {last}, but the stage ends after {steps}")


def teacher_map(plan: StagePlan, plans: list[StagePlan]) -> LayerMap:
    """The teacher layer that every student layer is compared with.

    It is ``match`` if the stage says so; else the layer it was copied from, followed back through the stages in between;
    else, where teacher and student come from different models, evenly spread ones.

    Raises:
      UserError: a list of another length than the student, layers that the teacher lacks, or attention of other heads.
    """
    named = {other.stage.name: other for other in plans}
    stage, teacher = plan.stage, named[plan.stage.teacher]
    depth, heads = plan.config.num_hidden_layers, teacher.config.num_attention_heads
    compares = stage.loss.attention > 0 or stage.loss.hidden > 0
    if not compares:
        return LayerMap(tuple(range(depth)))
    if stage.loss.attention > 0 and heads != plan.config.num_attention_heads:
        raise UserError(
            f"config.{stage.name}: its {plan.config.num_attention_heads} attention heads cannot be compared with "
            f"the {heads} of {stage.teacher!r}; set config.{stage.name}.loss.attention=0"
        )
    try:
        chosen = parse_layers(stage.match, teacher.config.num_hidden_layers) if stage.match else None
        layers = chosen or _origins(plan, teacher, named)
        if len(layers) != depth:
            raise UserError(f"match={stage.match!r} has {len(layers)} layers and the student {depth}")
        return layer_map(layers, teacher.config.num_hidden_layers)
    except UserError as error:
        raise UserError(f"config.{stage.name}.teacher={stage.teacher!r}: {error}") from None


def _origins(plan: StagePlan, teacher: StagePlan, named: dict[str, StagePlan]) -> tuple[int, ...]:
    """The teacher layers that go back to the same layers of one checkpoint, or, of unrelated models, evenly spread ones."""

    def roots(at: StagePlan) -> tuple[int, ...]:
        layers = at.layers.teacher_layers
        while at.stage.init:
            at = named[at.stage.init]
            layers = tuple(at.layers.teacher_layers[layer] for layer in layers)
        return layers

    mine, theirs = roots(plan), roots(teacher)
    if plan.model == teacher.model and set(mine) <= set(theirs):
        return tuple(theirs.index(layer) for layer in mine)
    return parse_layers(f"evenly({len(mine)})", len(theirs))


def _refuse_other_config(plan: StagePlan, inputs: Inputs) -> None:
    """A directory made with another config, or other data, is refused, with the first key that differs."""
    file = plan.directory / "config.json"
    if not file.exists():
        return
    record = json.loads(file.read_text())
    then, now = _flatten(record), _flatten(stage_record(plan, inputs) if DIGESTS in record else plan.fingerprint)
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            raise UserError(
                f"{plan.directory}: stage {plan.stage.name!r} was made with another config ({key}: {then.get(key)!r} then, "
                f"{now.get(key)!r} now); use another --workdir"
            )


def packed_digest(plan: StagePlan, storage: str) -> str:
    """The hash of all that determines a stage's packed model."""
    return digest([plan.fingerprint, storage])


def _refuse_other_packed(directory: Path, last: StagePlan, storage: str) -> None:
    """A packed model of another last stage, or in another layout, is refused."""
    file = directory / "DONE"
    if file.exists() and json.loads(file.read_text())["config"] != packed_digest(last, storage):
        raise UserError(
            f"{directory}: was packed from another stage than {last.stage.name!r}, or not in layout {storage}; "
            "use another --workdir"
        )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {name: leaf for key, child in value.items() for name, leaf in _flatten(child, f"{prefix}.{key}".lstrip(".")).items()}
