"""The recipe as resumable stages: train each, pack the last, measure the packed file, report.

Every stage owns a directory of the work directory: ``metrics.jsonl``, ``tensorboard/``, the trained ``model/`` and, when it
is finished, a ``DONE`` record with its result and the config it was made with. A finished stage is not run
again; one made with another config or other data is refused by name, and nothing is ever overwritten. Process 0 holds an
exclusive lock on the work directory: of two starts in one, the second is refused.

Of several processes all run every stage, in a work directory that all can read; what is written is written by process 0.
"""

import functools
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from xtc_jax.errors import UserError, refuse_pattern
from xtc_jax.parallel import agree, is_first, on_first
from xtc_jax.pipeline.augmentation import AUGMENTED, augmented_file
from xtc_jax.pipeline.baselines import measure_baselines
from xtc_jax.pipeline.inputs import Inputs, Log, load_inputs
from xtc_jax.pipeline.pack_stage import pack_stage
from xtc_jax.pipeline.plan import (
    PACKED,
    StagePlan,
    make_plans,
    replan,
)
from xtc_jax.pipeline.predictions import keep_predictions
from xtc_jax.pipeline.records import refuse_other_work
from xtc_jax.pipeline.stage import time_stage, train_stage
from xtc_jax.pipeline.teacher_caches import DIRECTORY as TEACHER_CACHE
from xtc_jax.pipeline.teacher_caches import teacher_cache
from xtc_jax.pipeline.timed import decide_steps, goes_on, is_open, seconds_before, with_continuation, with_known_steps
from xtc_jax.pipeline.workdir import Result, finished, hold, make_directory, write_json
from xtc_jax.recipe.budget import parse_budget
from xtc_jax.recipe.recipe import Recipe
from xtc_jax.train import Compiled, Logits, Screen, remove_teacher_cache


def run(recipe: Recipe, workdir: Path, log: Log, screen: Screen = "live") -> Result:
    """Run a recipe in ``workdir``, or what is left of it.

    Args:
      recipe: what to do.
      workdir: created if need be.
      log: called with one line of text as things happen.
      screen: what is shown of the steps, see :func:`xtc_jax.train.progress`.

    Returns:
      What ``results.json`` holds: one entry per stage, ``packed`` if the last stage quantizes, and ``NAME packed`` for every
      other quantized stage that none goes on from.

    Raises:
      UserError: anything wrong with config, model, data or work directory, or processes that differ in it, found before the
        first step.
    """
    begun = time.monotonic()
    refuse_pattern(workdir)
    agree(recipe.config, "config")
    recipe = with_known_steps(recipe, workdir)
    notes: list[str] = []  # not said before all is checked: a mistake is one line
    inputs = load_inputs(recipe, notes.append)
    agree(dict(inputs.digests), "data set")
    plans = make_plans(recipe, inputs, workdir)
    refuse_other_work(recipe, inputs, plans)
    agree({p.stage.name: p.vocabulary.digest for p in plans if p.vocabulary}, "data set")
    log = log if is_first() else lambda _: None
    on_first(make_directory, workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: process 0 has made it and this process does not see it; all must share it")
    with ExitStack() as held:
        on_first(lambda: held.enter_context(hold(workdir, log)))  # of process 0, for all
        on_first(refuse_other_work, recipe, inputs, plans)  # another start may have worked here since the plans were made
        for note in notes:
            log(note)
        if recipe.config["baselines"]:
            on_first(measure_baselines, inputs, workdir, log)
        clock = Clock(begun - on_first(seconds_before, recipe, workdir))
        return _run_stages(recipe, inputs, plans, workdir, clock, log, screen)


@dataclass(frozen=True)
class Clock:
    """When the recipe's time began, by ``time.monotonic``: what earlier starts took is over."""

    begun: float

    @property
    def used(self) -> float:
        """Seconds of the recipe's time that are over; of process 0."""
        return float(on_first(lambda: time.monotonic() - self.begun))


def _run_stages(
    recipe: Recipe, inputs: Inputs, plans: list[StagePlan], workdir: Path, clock: Clock, log: Log, screen: Screen
) -> Result:
    """Run or read every stage, pack what is to be packed, and write ``predictions.json`` and ``results.json``."""
    results: Result = {}
    compiled: Compiled = {}
    answers: dict[str, Logits] = {}
    augmented = functools.cache(lambda: augmented_file(inputs, recipe, workdir / AUGMENTED, log))  # once, and only if asked for
    budget = parse_budget(recipe.config["teacher_cache"])
    if on_first(goes_on, recipe, workdir, clock.used):
        recipe = with_continuation(recipe)
        plans = replan(recipe, inputs, workdir, plans)
    for number in range(len(plans)):
        done = on_first(finished, plans[number].directory)
        if done is None:
            if on_first(is_open, plans[number].stage, workdir):
                times, epoch = time_stage(plans[number], recipe, inputs, augmented, compiled)
                name, width = plans[number].stage.name, plans[number].config.hidden_size
                log(on_first(decide_steps, recipe, name, width, times, epoch, budget != 0, clock.used, workdir))
                recipe = with_known_steps(recipe, workdir)
                plans = replan(recipe, inputs, workdir, plans)
            cache = teacher_cache(plans[number], plans[number + 1 :], inputs, augmented, workdir, budget)
            done = train_stage(plans[number], recipe, inputs, augmented, compiled, answers, cache, log, screen)
        results[plans[number].stage.result] = done
    on_first(remove_teacher_cache, workdir / TEACHER_CACHE)
    for plan in plans:
        if plan.packed:
            key = PACKED if plan is plans[-1] else f"{plan.stage.result} {PACKED}"
            done = on_first(finished, plan.packed)
            results[key] = done or pack_stage(plan, plans[0], recipe, inputs, plan.packed, answers.get(plan.stage.name), log)
    keep_predictions(recipe, inputs, plans, workdir, compiled, answers)
    on_first(write_json, workdir / "results.json", results)
    return results
