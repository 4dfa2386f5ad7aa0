"""What a recipe means for these models and this work directory, checked before anything trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from xtc_jax.bert import BertConfig, init
from xtc_jax.compress import LayerMap, Vocabulary, layer_map, parse_layers, rows_between
from xtc_jax.errors import UserError
from xtc_jax.parallel import check_batch, make_mesh
from xtc_jax.pipeline.inputs import Inputs
from xtc_jax.pipeline.vocabularies import stage_vocabularies
from xtc_jax.quantize import assign_rules
from xtc_jax.recipe.recipe import Recipe, Stage
from xtc_jax.train import Objective

PACKED = "packed"


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
      start: the stage that it starts from; None: the checkpoint ``model``.
      teacher: the stage that teaches it; None: it trains on the labels.
      teaches: whether it is a teacher itself.
      packed: directory of its packed model; None if it is not packed: not quantized, or a later stage starts from it.
    """

    stage: Stage
    model: str
    config: BertConfig
    layers: LayerMap
    directory: Path
    fingerprint: dict[str, Any]
    reduced: bool
    vocabulary: Vocabulary | None
    start: "StagePlan | None"
    teacher: "StagePlan | None"
    teaches: bool
    packed: Path | None

    @property
    def objective(self) -> Objective:
        """What it trains, against which teacher; in float arithmetic, which a device may change.

        Raises:
          UserError: see :func:`teacher_map`.
        """
        teacher = self.teacher
        return Objective(
            self.config,
            self.stage.rules,
            teacher_shape(self, teacher) if teacher else None,
            teacher_map(self, teacher) if teacher else self.layers,
            self.stage.loss,
            teacher.stage.rules if teacher else None,
            self.fingerprint["compute_dtype"],
            "float",
            self.stage.accumulate,
            self.fingerprint.get("teacher_cache_dtype", "float32"),
            self.stage.freeze,
            self.stage.lazy_embeddings,
        )


def make_plans(recipe: Recipe, inputs: Inputs, workdir: Path) -> list[StagePlan]:
    """Check every stage against model and data.

    Raises:
      UserError: a stage that cannot work; names it.
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
            train = inputs.sets(plan.vocabulary).train_with_pairs(stage.new_pairs)
            check_schedule(stage, stage.counts(replace(train, batch_size=stage.batch_size).batches_per_epoch)[0])
    try:
        check_batch(inputs.eval_batch_size, mesh)
    except UserError as error:
        raise UserError(f"config.data.eval_{error}") from None
    return plans


def replan(recipe: Recipe, inputs: Inputs, workdir: Path, plans: Sequence[StagePlan]) -> list[StagePlan]:
    """The plans of a recipe whose stages have other numbers of steps than in ``plans``, or to which stages were added."""
    shapes = {name: checkpoint.config for name, checkpoint in inputs.checkpoints.items()}
    known = {plan.stage.name: plan.vocabulary for plan in plans if plan.vocabulary}
    for stage in recipe.stages:
        if stage.name not in known and stage.init in known:
            known[stage.name] = known[stage.init]
    return shape_stages(recipe, shapes, make_mesh(recipe.config["mesh"]), workdir, known)


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
    begun, taught_by = ({getattr(stage, key) for stage in recipe.stages} for key in ("init", "teacher"))
    for stage in recipe.stages:
        start = plans.get(stage.init)
        model = start.model if start else stage.model or recipe.config["model"]
        layers, config = _depth_and_shape(stage, start.config if start else shapes[model], mesh)
        reduced = stage.reduces_vocabulary or bool(start and start.reduced)
        vocabulary = (vocabularies or {}).get(stage.name)
        config = _with_vocabulary(config, stage, shapes[model].pad_token_id, vocabulary)
        if stage.rules is not None:
            _check_rules(config, stage)
        packed = stage.rules is not None and stage.name not in begun
        plans[stage.name] = StagePlan(
            stage,
            model,
            config,
            layers,
            directory=workdir / stage.name,
            fingerprint=recipe.fingerprint(stage),
            reduced=reduced,
            vocabulary=vocabulary,
            start=start,
            teacher=plans.get(stage.teacher),
            teaches=stage.name in taught_by,
            packed=workdir / _packed_name(stage, recipe) if packed else None,
        )
    for plan in plans.values():
        if plan.teacher:
            teacher_map(plan, plan.teacher)
            _check_teacher_vocabulary(plan, plan.teacher)
    return list(plans.values())


def _depth_and_shape(stage: Stage, origin: BertConfig, mesh: jax.sharding.Mesh) -> tuple[LayerMap, BertConfig]:
    """The layers that a stage keeps of the model it starts from, and its own model with all of that one's word pieces."""
    try:
        layers = LayerMap(parse_layers(stage.layers, origin.num_hidden_layers))
        check_batch(stage.batch_size, mesh, stage.accumulate)
    except UserError as error:
        raise UserError(f"config.{stage.name}.{error}") from None
    config = replace(origin, num_hidden_layers=len(layers.teacher_layers))
    if stage.freeze > config.num_hidden_layers:
        raise UserError(f"config.{stage.name}.freeze={stage.freeze}: the model has {config.num_hidden_layers} layers")
    if stage.lazy_embeddings and stage.freeze >= 0:
        raise UserError(f"config.{stage.name}.lazy_embeddings: no row trains with freeze={stage.freeze}; use one of the two")
    if stage.dropout < 0:
        return layers, config
    rate = stage.dropout
    return layers, replace(config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=rate)


def _packed_name(stage: Stage, recipe: Recipe) -> str:
    """``packed`` for the last stage of the config, ``packed-NAME`` for others."""
    return PACKED if stage.name == recipe.config["stages"][-1] else f"{PACKED}-{stage.name}"


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
        if stage.lazy_embeddings and "word_embeddings" in path and not spec.row_local:
            raise UserError(
                f"config.{stage.name}.lazy_embeddings: {path} has scales or means that its rows share, so no row can be "
                "left out; quantize it by rows"
            )


def check_schedule(stage: Stage, steps: int) -> None:
    """The last change of a stage's bits comes before its end.

    Raises:
      UserError: it does not; what is evaluated and packed would never have been trained.
    """
    last = max(stage.rules.changes, default=0) if stage.rules else 0
    if last >= max(steps, 1):
        raise UserError(f"config.{stage.name}: its schedule changes at step {last}, but the stage ends after {steps}")


def teacher_map(plan: StagePlan, teacher: StagePlan) -> LayerMap:
    """The teacher layer that every student layer is compared with.

    It is ``match`` if the stage says so; else the layer it was copied from, followed back through the stages in between;
    else, where teacher and student come from different models, evenly spread ones.

    Raises:
      UserError: a list of another length than the student, layers that the teacher lacks, or attention of other heads.
    """
    stage = plan.stage
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
        layers = chosen or _origins(plan, teacher)
        if len(layers) != depth:
            raise UserError(f"match={stage.match!r} has {len(layers)} layers and the student {depth}")
        return layer_map(layers, teacher.config.num_hidden_layers)
    except UserError as error:
        raise UserError(f"config.{stage.name}.teacher={stage.teacher!r}: {error}") from None


def _origins(plan: StagePlan, teacher: StagePlan) -> tuple[int, ...]:
    """The teacher layers that go back to the same layers of one checkpoint, or, of unrelated models, evenly spread ones."""

    def roots(at: StagePlan) -> tuple[int, ...]:
        layers = at.layers.teacher_layers
        while at.start:
            at = at.start
            layers = tuple(at.layers.teacher_layers[layer] for layer in layers)
        return layers

    mine, theirs = roots(plan), roots(teacher)
    if plan.model == teacher.model and set(mine) <= set(theirs):
        return tuple(theirs.index(layer) for layer in mine)
    return parse_layers(f"evenly({len(mine)})", len(theirs))
