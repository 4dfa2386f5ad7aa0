"""More data than there is: variants of texts, in which words are replaced, and new pairs of the texts that there are."""

from xtc_jax.augment.candidates import make_candidates
from xtc_jax.augment.job import AugmentResult, AugmentSpec, augment
from xtc_jax.augment.pairs import Pair, resembling_pairs
from xtc_jax.augment.parts import (
    Job,
    assemble,
    finished_parts,
    is_finished,
    open_parts,
    part_file,
    remove_parts,
    run_processes,
    write_part,
)
from xtc_jax.augment.variants import STOP_WORDS, Candidates, Choices, Sentence, augment_rows, rounds_of

__all__ = [
    "STOP_WORDS",
    "AugmentResult",
    "AugmentSpec",
    "Candidates",
    "Choices",
    "Job",
    "Pair",
    "Sentence",
    "assemble",
    "augment",
    "augment_rows",
    "finished_parts",
    "is_finished",
    "make_candidates",
    "open_parts",
    "part_file",
    "remove_parts",
    "resembling_pairs",
    "rounds_of",
    "run_processes",
    "write_part",
]
