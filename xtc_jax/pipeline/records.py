"""What a work directory holds of earlier runs, compared with what this one would do."""

import json
from pathlib import Path
from typing import Any

from xtc_jax.errors import UserError
from xtc_jax.pipeline.inputs import Inputs
from xtc_jax.pipeline.plan import StagePlan
from xtc_jax.recipe.recipe import Recipe, digest

DIGESTS = "data_digest"
"""Key of a stage's record; older ones lack it."""
VOCABULARY = "vocabulary_digest"
"""Key of a stage's record, where its vocabulary is reduced."""


def refuse_other_work(recipe: Recipe, inputs: Inputs, plans: list[StagePlan]) -> None:
    """Compare the stages' records in the work directory, where there are any, with these plans.

    Raises:
      UserError: a stage, or its packed model, was made with another config or other data; names what differs.
    """
    for plan in plans:
        _refuse_other_config(plan, inputs)
        if plan.packed:
            _refuse_other_packed(plan.packed, plan, recipe.config["storage"])


def stage_record(plan: StagePlan, inputs: Inputs) -> dict[str, Any]:
    """What a stage's ``config.json`` holds: its fingerprint, and the digests of the data that lay under the paths in it."""
    kept = {VOCABULARY: plan.vocabulary.digest} if plan.vocabulary else {}
    return {**plan.fingerprint, DIGESTS: dict(inputs.digests), **kept}


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
