"""How much of each tolerance the tests use: ``PYTHONPATH=tests pytest -n 0 -p spreads tests/...``.

Every call of ``np.testing.assert_allclose`` is measured as ``max(|a - b| / (atol + rtol |b|))``, 1 being the whole tolerance,
and every comparison with ``pytest.approx`` likewise; beside it stand the largest ``|a - b|`` and the largest
``|a - b| / |b|``. The largest of each line of the tests are printed at the end, the least used first. A tolerance is the
measured spread times twenty-five at most, and none where it is 0: spreads differ between processors, not by orders of size.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = Path(__file__).parent
Approx = type(pytest.approx(1.0))
Spread = tuple[float, float, float]
SPREADS = pytest.StashKey[dict[str, Spread]]()


def spread(actual: Any, desired: Any, rtol: float, atol: float) -> Spread:
    """The largest share of the tolerance, difference and relative difference; zeros where both are equal."""
    a, b = np.broadcast_arrays(np.asarray(actual, np.float64), np.asarray(desired, np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        distance, size = np.abs(a - b)[differ], np.abs(b)[differ]
        parts = distance / (atol + rtol * size), distance, distance / size
    share, absolute, relative = (float(np.max(part, initial=0.0)) for part in parts)
    return share, absolute, relative


def caller() -> str:
    """File and line of the test that is running."""
    frame = sys._getframe(2)
    while TESTS not in Path(frame.f_code.co_filename).parents and frame.f_back is not None:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).relative_to(TESTS)}:{frame.f_lineno}"


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Measure each call while the tests run, then assert as before."""
    spreads = session.config.stash.setdefault(SPREADS, {})
    original, equals = np.testing.assert_allclose, Approx.__eq__

    def note(site: str, found: Spread) -> None:
        share, absolute, relative = map(max, zip(found, spreads.get(site, (0.0, 0.0, 0.0)), strict=True))
        spreads[site] = (share, absolute, relative)

    def measured(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, **options: Any) -> None:
        note(caller(), spread(actual, desired, rtol, atol))
        original(actual, desired, rtol=rtol, atol=atol, **options)

    def measured_equals(approx: Any, actual: Any) -> bool:
        if isinstance(actual, int | float | np.number):
            note(caller(), spread(actual, approx.expected, 0, approx.tolerance))
        return equals(approx, actual)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.testing, "assert_allclose", measured)
        patch.setattr(Approx, "__eq__", measured_equals)
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line a call, the loosest first."""
    terminalreporter.section("share of each tolerance that was used, difference, relative difference")
    for site, parts in sorted(config.stash.get(SPREADS, {}).items(), key=lambda item: item[1]):
        terminalreporter.write_line("".join(f"{part:9.2g}" for part in parts) + f"  {site}")
