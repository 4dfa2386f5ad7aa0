"""Sweeps over many cases: the first stand in the fast tier, the others in the slow one."""

from collections.abc import Iterable

import pytest


def sweep(cases: Iterable, fast: int) -> list:
    """The cases for ``pytest.mark.parametrize``, all but the first ``fast`` of them marked slow."""
    marked = []
    for number, case in enumerate(cases):
        values = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*values, marks=() if number < fast else pytest.mark.slow))
    return marked
