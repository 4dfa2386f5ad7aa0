"""Which stages share what their teacher says, and for how many batches."""

from collections.abc import Callable, Sequence
from pathlib import Path

from xtc_jax.pipeline.inputs import Inputs
from xtc_jax.pipeline.plan import StagePlan
from xtc_jax.pipeline.stage import train_set_of
from xtc_jax.train import TeacherCache, teaching

DIRECTORY = "teacher_cache"
"""Its name in the work directory; it is deleted when no stage is left that has a teacher."""


def teacher_cache(
    plan: StagePlan,
    later: Sequence[StagePlan],
    inputs: Inputs,
    augmented: Callable[[], str],
    workdir: Path,
    budget: int | None,
) -> TeacherCache | None:
    """The cache of a stage, or None without a teacher.

    Args:
      plan: the stage.
      later: those after it that are not finished.
      inputs: with the data.
      augmented: makes the file of augmented training data, or finds it.
      workdir: gets the directory of the cache.
      budget: bytes; None is ``auto``.
    """
    if plan.teacher is None or budget == 0:
        return None
    sharing = [plan, *(other for other in later if _same_teacher(other, plan))]
    epoch = train_set_of(plan, inputs, augmented).batches_per_epoch
    runs = [each.stage.counts(epoch)[0] for each in sharing for _ in each.stage.learning_rates]
    # All runs begin with the same batches, for they have the same seed.
    return TeacherCache(workdir / DIRECTORY, budget, sum(runs), min(max(runs), epoch))


def _same_teacher(other: StagePlan, plan: StagePlan) -> bool:
    """Whether a stage reads the same outputs, of the same examples in batches of the same size."""
    return (
        other.teacher is plan.teacher
        and other.vocabulary == plan.vocabulary
        and (other.stage.augmented, other.stage.new_pairs) == (plan.stage.augmented, plan.stage.new_pairs)
        and other.stage.batch_size == plan.stage.batch_size
        and teaching(other.objective) == teaching(plan.objective)
    )
