"""What a frozen teacher says of every example, kept in a file and read again in later epochs and stages."""

from xtc_jax.train.teacher_cache.policy import TeacherCache
from xtc_jax.train.teacher_cache.source import Targets
from xtc_jax.train.teacher_cache.store import remove

__all__ = ["Targets", "TeacherCache", "remove"]
